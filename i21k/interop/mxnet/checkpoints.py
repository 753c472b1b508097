"""The released model of 2015 in, and ours out as MXNet's files: what stands behind `i21k import-mxnet` and `export-mxnet`."""

from pathlib import Path
from typing import Any

from i21k.checkpoints import Checkpoints
from i21k.errors import UserError
from i21k.interop.mxnet import convert
from i21k.interop.mxnet.params import Layout
from i21k.labels import ClassList
from i21k.train import workdir
from i21k.trained import Preprocessing, load

IMAGE_SIZE, CROP_FRACTION = 224, 224 / 256  # what the released model was evaluated with


def import_mxnet(
    symbol: str | Path,
    params: str | Path,
    synset: str | Path,
    directory: str | Path,
    count_padding: bool | None = None,
) -> dict[str, Any]:
    """Turn the three files of a release into a checkpoint that every other command takes.

    Args:
        symbol: the graph, `Inception-symbol.json`.
        params: the arrays, `Inception-0009.params`.
        synset: the classes in the order of the network's outputs, `synset.txt`.
        directory: of the checkpoint; may not hold one yet.
        count_padding: whether average pools divide by 9 at the border too; None: as the graph says, or its revision. On the GPUs of
            2015 they did not, on CPUs they did.

    Returns:
        What was imported.

    Raises:
        ValueError: naming the file and what is wrong in it, or if the directory holds a checkpoint or cannot be written.
    """
    imported = convert.read_model(symbol, params, synset, count_padding)
    directory = Path(directory)
    with workdir.locked(directory):
        checkpoints = Checkpoints(directory / "checkpoints")
        if checkpoints.steps():
            raise UserError(
                f"{directory} holds a checkpoint already; expected a new directory; choose another --out"
            )
        meta: dict[str, Any] = {
            "epoch_done": True,
            "model": imported.model.describe(),
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
        "num_parameters": sum(
            x.size for leaves in imported.variables["params"].values() for x in leaves.values()
        ),
        "provenance": imported.provenance,
    }


def export_mxnet(
    checkpoint: str | Path,
    directory: str | Path,
    order: ClassList | None = None,
    layout: Layout = "V2",
) -> tuple[Path, Path, Path]:
    """Write a checkpoint as `Inception-symbol.json`, `Inception-0000.params` and `synset.txt`, which MXNet 1.9.1 loads.

    Args:
        checkpoint: working directory of a run or of an imported model.
        directory: for the files; made if it is missing.
        order: of the classes in the files; None: sorted, as in the checkpoint.
        layout: of the `.params`: "2015", "V1", "V2" or "V3".

    Returns:
        The three paths.

    Raises:
        ValueError: if there is no checkpoint, `order` is of other classes, or one of the files is there already.
    """
    loaded = load(checkpoint)
    for name in ("Inception-symbol.json", "Inception-0000.params", "synset.txt"):
        if (Path(directory) / name).exists():
            raise UserError(
                f"{directory} holds {name} already; expected a directory without it; choose another --out"
            )
    return convert.write_model(
        directory,
        loaded.network.module,
        loaded.variables,
        loaded.classes,
        order=order,
        layout=layout,
    )
