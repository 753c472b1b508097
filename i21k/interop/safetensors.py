"""Write and read the variables of a network as safetensors, with a `config.json` beside them.

Array names are paths in the tree of variables, joined by `/`, such as `params/conv_conv1/kernel`.
Needs the extra `onnx` (`pip install "i21k[onnx]"`), which brings the package safetensors.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from i21k.errors import UserError
from i21k.files import read_json

WEIGHTS, CONFIG = "model.safetensors", "config.json"
FORMAT = "i21k-safetensors-1"


def write_safetensors(
    folder: Path, variables: Mapping[str, Any], config: Mapping[str, Any]
) -> None:
    """Write `model.safetensors` and `config.json` into a folder.

    Args:
        folder: an existing folder.
        variables: nested dict of float arrays, unfolded.
        config: JSON; what the network is, its classes and its preprocessing.

    Raises:
        UserError: if the package safetensors is not installed.
    """
    save_file = _package().numpy.save_file
    flat = traverse_util.flatten_dict(dict(variables), sep="/")
    arrays = {name: np.ascontiguousarray(array) for name, array in flat.items()}
    save_file(arrays, folder / WEIGHTS, metadata={"format": FORMAT})
    (folder / WEIGHTS).chmod(0o644)  # the package makes it private
    text = json.dumps({"format": FORMAT, **config}, indent=1, ensure_ascii=False)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")


def read_safetensors(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the variables and the config that `write_safetensors` wrote.

    Raises:
        UserError: if a file is missing, damaged or of another format, or the package safetensors
            is not installed.
    """
    config = read_json(folder / CONFIG)
    if config.get("format") != FORMAT:
        raise UserError(
            f"{folder / CONFIG} has format {config.get('format')!r}; expected {FORMAT!r}. "
            "Export the model again with: i21k export --format safetensors"
        )
    package = _package()
    try:
        arrays = package.numpy.load_file(folder / WEIGHTS)
    except (OSError, package.SafetensorError) as error:
        raise UserError(
            f"{folder / WEIGHTS} cannot be read ({error}). Fetch it or export it again."
        ) from error
    return traverse_util.unflatten_dict(arrays, sep="/"), config


def _package() -> Any:
    try:
        import safetensors
        import safetensors.numpy
    except ImportError as error:
        raise UserError(
            f"The package safetensors is not installed ({error}). Install it with: "
            'pip install "i21k[onnx]"'
        ) from error
    return safetensors
