"""Convert models of MXNet, such as the one released in 2015, to checkpoints, and back."""

from pathlib import Path
from typing import Any

import jax

from i21k.checkpoints import Checkpoints, Which
from i21k.errors import UserError
from i21k.interop.mxnet import convert
from i21k.interop.mxnet.params import Layout
from i21k.labels import ClassList
from i21k.models.inception_network import InceptionNetwork
from i21k.train import workdir
from i21k.trained import Preprocessing, Weights, load_checkpoint

IMAGE_SIZE, CROP_FRACTION = 224, 224 / 256  # as in the evaluation of the released model


def import_mxnet(
    symbol: str | Path,
    params: str | Path,
    synset: str | Path,
    directory: str | Path,
    count_padding: bool | None = None,
) -> dict[str, Any]:
    """Turn the three files of a release into a checkpoint.

    Args:
        symbol: the graph, `Inception-symbol.json`.
        params: the arrays, `Inception-0009.params`.
        synset: the classes in the order of the network's outputs, `synset.txt`.
        directory: for the checkpoint. It may not hold one yet.
        count_padding: whether average pools divide by 9 at the border too. On the GPUs of 2015 they
            did not, on CPUs they did. None: as the graph has it, or else as its revision does.

    Returns:
        A description of what was imported, for JSON.

    Raises:
        UserError: naming the file and what is wrong in it, or if the directory holds a checkpoint.
    """
    imported = convert.read_model(symbol, params, synset, count_padding)
    directory = Path(directory)
    with workdir.locked(directory):
        checkpoints = Checkpoints(directory / "checkpoints")
        if checkpoints.steps():
            raise UserError(
                f"{directory} holds a checkpoint already. Choose a new directory (--out)."
            )
        meta: dict[str, Any] = {
            "epoch_done": True,
            "model": InceptionNetwork(imported.model).describe(),
            "preprocessing": Preprocessing(IMAGE_SIZE, CROP_FRACTION).to_json(),
            "classes": list(imported.classes.ids),
            "classes_hash": imported.classes.hash,
            "provenance": imported.provenance,
            "versions": workdir.versions(),
        }
        checkpoints.save(0, imported.variables, meta)
    return {
        "out": str(directory),
        **meta["model"],
        "num_classes": len(imported.classes),
        "num_parameters": sum(x.size for x in jax.tree.leaves(imported.variables["params"])),
        "provenance": imported.provenance,
    }


def export_mxnet(
    checkpoint: str | Path,
    directory: str | Path,
    order: ClassList | None = None,
    layout: Layout = "V2",
    step: Which = "last",
    weights: Weights = "recipe",
) -> tuple[Path, Path, Path]:
    """Write a checkpoint as files that MXNet 1.9.1 loads.

    The files are `Inception-symbol.json`, `Inception-0000.params` and `synset.txt`.

    Args:
        checkpoint: the working directory of a run or of an imported model.
        directory: for the files. It is made if it is missing.
        order: of the classes in the files. None: sorted, as in the checkpoint.
        layout: of the `.params`: "2015", "V1", "V2" or "V3".
        step: which checkpoint, as for `i21k.trained.load`.
        weights: which ones of it, as for `i21k.trained.load`.

    Returns:
        The three paths.

    Raises:
        UserError: if there is no checkpoint, it is of another network than Inception-BN, `order` is
            of other classes, or a file exists.
    """
    loaded = load_checkpoint(checkpoint, step, weights)
    for name in ("Inception-symbol.json", "Inception-0000.params", "synset.txt"):
        if (Path(directory) / name).exists():
            raise UserError(f"{directory} holds {name} already. Choose another directory (--out).")
    if not isinstance(loaded.network, InceptionNetwork):
        raise UserError(f"{loaded.network.title} cannot be exported. Only Inception-BN can.")
    return convert.write_model(
        directory,
        loaded.network.module,
        loaded.variables,
        loaded.classes,
        order=order,
        layout=layout,
    )
