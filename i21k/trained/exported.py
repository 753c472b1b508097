"""A safetensors export of ours as a trained model again."""

import hashlib
from pathlib import Path
from typing import Any

from i21k import files
from i21k.checkpoints import Checkpoint
from i21k.errors import UserError
from i21k.interop import safetensors
from i21k.trained.checkpoint import CheckpointModel, described


def is_exported(path: Path) -> bool:
    """Return whether a path is a folder with weights in safetensors."""
    return (path / safetensors.WEIGHTS).is_file()


def load_exported(path: str | Path) -> CheckpointModel:
    """Load a folder that `i21k export --format safetensors` wrote.

    Raises:
        UserError: if a file is missing or damaged, or the package safetensors is not installed.
    """
    folder = Path(path)
    tree, config = safetensors.read_safetensors(folder)
    paths = (folder / safetensors.WEIGHTS, folder / safetensors.CONFIG)
    hashes = map(files.hash_file, paths)
    origin = config.get("origin", {})
    meta: dict[str, Any] = {
        key: config[key] for key in ("classes", "probability", "preprocessing") if key in config
    }
    meta |= {
        "model": config.get("network"),
        "meta_digest": hashlib.sha256("".join(hashes).encode()).hexdigest(),
    }
    step = origin.get("step", 0) if isinstance(origin, dict) else 0
    checkpoint = Checkpoint(step, tree, meta)
    try:
        return CheckpointModel(checkpoint, folder, *described(checkpoint))
    except (UserError, KeyError) as error:
        raise UserError(
            f"{folder} cannot be used: {error} Export the model again with i21k export --format"
            " safetensors."
        ) from error
