"""Convert models of MXNet, such as the one released in 2015, to checkpoints."""

import dataclasses
from pathlib import Path
from typing import Any

import jax

from i21k import log
from i21k.checkpoints import Checkpoints
from i21k.errors import UserError
from i21k.interop.mxnet import convert
from i21k.models.inception_network import InceptionNetwork
from i21k.models.probabilities import Probability
from i21k.train import workdir
from i21k.trained.preprocessing import Preprocessing, read_contract

IMAGE_SIZE, CROP_FRACTION = 224, 224 / 256  # as in the evaluation of the released model
CONTRACT = "preprocessing.json"  # beside the files, where `i21k export` wrote them


def import_mxnet(
    symbol: str | Path,
    params: str | Path,
    synset: str | Path,
    directory: str | Path,
    count_padding: bool | None = None,
    preprocessing: str | Path | None = None,
    image_size: int | None = None,
    crop_fraction: float | None = None,
) -> dict[str, Any]:
    """Turn the three files of a release into a checkpoint.

    Args:
        symbol: the graph, `Inception-symbol.json`.
        params: the arrays, `Inception-0009.params`.
        synset: the classes in the order of the network's outputs, `synset.txt`.
        directory: for the checkpoint. It may not hold one yet.
        count_padding: whether average pools divide by 9 at the border too. On the GPUs of 2015 they
            did not, on CPUs they did. None: as the graph has it, or else as its revision does.
        preprocessing: file with the contract. None: `preprocessing.json` beside the symbol, or else
            that of the model of 2015.
        image_size: in px, instead of that of the contract: MXNet's files do not have it.
        crop_fraction: instead of that of the contract.

    Returns:
        A description of what was imported, for JSON.

    Raises:
        UserError: naming the file and what is wrong in it, or if the directory holds a checkpoint.
    """
    imported = convert.read_model(symbol, params, synset, count_padding)
    network = InceptionNetwork(imported.model)
    contract, probability = _contract(symbol, preprocessing, image_size)
    contract = dataclasses.replace(
        contract,
        image_size=image_size or contract.image_size,
        crop_fraction=crop_fraction or contract.crop_fraction,
    )
    network.check_size(contract.image_size, contract.image_size)
    directory = Path(directory)
    with workdir.locked(directory):
        checkpoints = Checkpoints(directory / "checkpoints")
        if checkpoints.steps():
            raise UserError(
                f"{directory} holds a checkpoint already. Choose a new directory (--out)."
            )
        meta: dict[str, Any] = {
            "epoch_done": True,
            "model": network.describe(),
            "probability": probability,
            "preprocessing": contract.to_json(),
            "classes": list(imported.classes.ids),
            "classes_hash": imported.classes.hash,
            "provenance": imported.provenance,
            "versions": workdir.versions(),
        }
        checkpoints.save(0, imported.variables, meta)
    return {
        "out": str(directory),
        **meta["model"],
        "preprocessing": meta["preprocessing"],
        "num_classes": len(imported.classes),
        "num_parameters": sum(x.size for x in jax.tree.leaves(imported.variables["params"])),
        "provenance": imported.provenance,
    }


def _contract(
    symbol: str | Path, given: str | Path | None, image_size: int | None
) -> tuple[Preprocessing, Probability]:
    """Return how images are prepared for a model, and whether its classes exclude each other."""
    file = Path(given) if given is not None else Path(symbol).with_name(CONTRACT)
    if given is not None or file.is_file():
        return read_contract(file)
    if image_size is None:
        log.note(
            f"no {CONTRACT} is beside {symbol}; assuming images of {IMAGE_SIZE} px, as the model of"
            " 2015 has. Give --size for another model"
        )
    return Preprocessing(IMAGE_SIZE, CROP_FRACTION), "softmax"
