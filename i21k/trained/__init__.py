"""A trained model: its classes, how images are prepared for it, and its probabilities and features.

Everything that uses a trained model starts with `load`. `TrainedModel` is the interface, with two
implementations: a checkpoint of ours, and an ONNX classifier of any program.
"""

from pathlib import Path

from i21k.checkpoints import Which
from i21k.trained.checkpoint import CheckpointModel, Weights, load_checkpoint
from i21k.trained.model import Origin, TrainedModel
from i21k.trained.preprocessing import AnyImage, Preprocessing

__all__ = (
    "AnyImage",
    "CheckpointModel",
    "Origin",
    "Preprocessing",
    "TrainedModel",
    "Weights",
    "is_onnx",
    "load",
    "load_checkpoint",
)


def is_onnx(path: Path) -> bool:
    """Return whether a path is one file, or a folder with `model.onnx`, and not a run."""
    return path.is_file() or path.suffix == ".onnx" or onnx_path(path) != path


def onnx_path(path: Path) -> Path:
    """Return the ONNX file of a folder; other paths as they are."""
    inside = (path / "model.onnx", path / "onnx" / "model.onnx")  # the latter as Optimum writes it
    return next((file for file in inside if file.is_file()), path)


def load(path: str | Path, step: Which = "last", weights: Weights = "recipe") -> TrainedModel:
    """Load a trained model: a checkpoint or a safetensors export of ours, or an ONNX classifier.

    Args:
        path: the working directory of a run or of an imported model; a folder that
            `i21k export --format safetensors` wrote; an ONNX file with its class list, or a folder
            with `model.onnx`.
        step: which checkpoint, as for `load_checkpoint`. Other models have only one.
        weights: which ones of a checkpoint, as for `load_checkpoint`.

    Raises:
        UserError: if there is no intact checkpoint, or its description does not fit its arrays.
    """
    path = Path(path)
    if is_onnx(path):
        from i21k.trained.onnx_model import OnnxModel  # onnxruntime takes a second to import

        return OnnxModel(onnx_path(path))
    return load_checkpoint(path, step, weights)
