"""A trained model: its classes, how images are prepared for it, and its probabilities and features.

Everything that uses a trained model starts with `load`. `TrainedModel` is the interface, with two
implementations: a checkpoint of ours, and an ONNX classifier of any program.
"""

from pathlib import Path

from i21k.checkpoints import Which
from i21k.errors import UserError
from i21k.trained.checkpoint import CheckpointModel, Weights, load_checkpoint
from i21k.trained.model import Origin, TrainedModel, in_batches_of
from i21k.trained.preprocessing import AnyImage, Preprocessing

__all__ = (
    "AnyImage",
    "CheckpointModel",
    "Origin",
    "Preprocessing",
    "TrainedModel",
    "Weights",
    "in_batches_of",
    "is_onnx",
    "load",
    "load_checkpoint",
    "load_if_path",
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


def load_if_path(model: str | Path | TrainedModel, step: Which = "last") -> TrainedModel:
    """Load a model if its path is given; return one that is loaded already.

    Args:
        model: a path, as for `load`, or what `load` returned.
        step: which checkpoint of the path, as for `load`.

    Raises:
        UserError: as `load`, or if a step is given with a model that is loaded already.
    """
    if isinstance(model, (str, Path)):
        return load(model, step)
    if step != "last":
        raise UserError(
            f"step is {step!r}, and the model is loaded already ({model.origin}). Give the step to"
            " i21k.trained.load, or give a path."
        )
    return model
