"""Read what `i21k export --format safetensors` wrote. Needs the extra `onnx`, for `safetensors`.

`model.safetensors` has the arrays by path in the tree of variables, such as
`params/conv_conv1/kernel`. `config.json` has the description that a checkpoint has.
"""

from pathlib import Path
from typing import Any

from flax import traverse_util

from i21k.checkpoints import Checkpoint
from i21k.errors import UserError
from i21k.files import hash_file, read_json

WEIGHTS, CONFIG = "model.safetensors", "config.json"
FORMAT = "i21k-safetensors-1"


def is_safetensors(path: Path) -> bool:
    """Return whether a path is a folder of this format, and not a run or another program's."""
    if not (path / WEIGHTS).is_file() or not (path / CONFIG).is_file():
        return False
    return read_json(path / CONFIG).get("format") == FORMAT


def read_safetensors(folder: Path) -> Checkpoint:
    """Return the model of a folder as a checkpoint. Its description is not checked here.

    Raises:
        UserError: if a file is damaged, or the package safetensors is not installed.
    """
    meta = read_json(folder / CONFIG)
    package = safetensors_package()
    try:
        arrays = package.numpy.load_file(folder / WEIGHTS)
        tree = traverse_util.unflatten_dict(arrays, sep="/")
    except (OSError, package.SafetensorError, TypeError) as error:
        raise UserError(
            f"{folder / WEIGHTS} cannot be read ({error}). Fetch it or export it again."
        ) from error
    step = meta.get("step", 0)
    if not isinstance(step, int):
        raise UserError(f"step is {step!r} in {folder / CONFIG}. Export the model again.")
    return Checkpoint(step, tree, meta | {"meta_digest": hash_file(folder / WEIGHTS)})


def safetensors_package() -> Any:
    """Return the package safetensors.

    Raises:
        UserError: if it is not installed.
    """
    try:
        import safetensors
        import safetensors.numpy
    except ImportError as error:
        raise UserError(
            f"The package safetensors is not installed ({error}). Install it with: "
            'pip install "i21k[onnx]"'
        ) from error
    return safetensors
