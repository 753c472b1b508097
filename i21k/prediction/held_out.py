"""Calibrate a model on a packed split of held-out images: its probabilities with true labels."""

from collections.abc import Mapping
from pathlib import Path

from i21k import log
from i21k.data.format.splits import Split, open_split
from i21k.data.load import loader
from i21k.errors import UserError
from i21k.prediction.calibration import Calibrated, HeldOut, calibrate
from i21k.trained import TrainedModel, in_batches_of
from i21k.wordnet import class_lists
from i21k.wordnet.hierarchy import Hierarchy
from i21k.wordnet.taxonomy import wordnet
from i21k.wordnet.views import Calibration


def open_held_out(model: TrainedModel, data: str | Path, split: str = "val") -> Split:
    """Open a packed split to calibrate a model on.

    Raises:
        UserError: if there is no such split, the model was trained on it or lacks classes of it, or
            the model's probabilities do not add up to 1.
    """
    path = model.origin.path
    if model.probability != "softmax":
        raise UserError(
            f"the classes of {path} do not exclude each other, so their probabilities do not add up"
            " to 1. Use a model that was trained with softmax to calibrate."
        )
    opened = open_split(data, split)
    if opened.fingerprint == model.train_fingerprint:
        raise UserError(
            f"split {split!r} of {data} is what the checkpoint in {path} was trained on; "
            "calibrate on another split"
        )
    lacking = [
        class_id for class_id in opened.classes.ids if class_id not in model.classes.label_of
    ]
    if lacking:
        raise UserError(
            f"the checkpoint in {path} lacks {wordnet().enumerate(lacking)}, which {data} has; "
            "use data of its classes"
        )
    return opened


def held_out(model: TrainedModel, split: Split, batch_size: int) -> HeldOut:
    """Yield probabilities [B, K] and true labels [B] of a split of `open_held_out`, by batches.

    Args:
        model: with K classes.
        split: its labels are returned as labels of the model.
        batch_size: how many images the network takes at a time; changes speed and memory only.
    """
    labels = class_lists.columns(model.classes, split.classes)
    contract = model.preprocessing
    options = loader.eval_options(batch_size, contract.image_size, contract.crop_fraction)
    with loader.batches(split, options) as batches:
        for batch in batches:
            real = batch.weights > 0
            with in_batches_of(model, batch_size):
                probabilities = model.probabilities(batch.images)
            yield probabilities[real], labels[batch.labels[real]]


def calibrate_on(
    split: Split, model: TrainedModel, hierarchy: Hierarchy, accuracy: float, batch_size: int
) -> tuple[Calibrated, Mapping[float, Calibration]]:
    """Calibrate on all images of a split (`i21k.prediction.calibration.calibrate`).

    Args:
        split: of `open_held_out`.
        model: with K classes.
        hierarchy: of its classes.
        accuracy: of `hedge`.
        batch_size: how many images the network takes at a time; changes speed and memory only.

    Raises:
        UserError: if there are no images, or the accuracy cannot be reached.
    """
    with log.progress("calibrate", split.num_records) as bar:
        batches = _counted(held_out(model, split, batch_size), bar)
        return calibrate(batches, hierarchy, accuracy)


def _counted(batches: HeldOut, bar: log.Progress) -> HeldOut:
    for probabilities, labels in batches:
        yield probabilities, labels
        bar.advance(len(labels))
