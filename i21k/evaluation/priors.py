"""Class frequencies: answer as if the images had other ones than the training images.

The correction is the post-hoc logit adjustment of Menon et al. 2021, arXiv 2007.07314.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from i21k import files
from i21k.data.format.class_counts import class_counts
from i21k.data.format.splits import open_split
from i21k.errors import UserError
from i21k.evaluation.ranks import renormalised
from i21k.labels import ClassList
from i21k.train.targets import log_prior
from i21k.trained import CheckpointModel, TrainedModel

PRIORS = ("train", "uniform")  # or a file


def offsets_of(
    model: TrainedModel, prior: str | Path | None = None, tau: float = 1.0, data: Any = None
) -> Float32[np.ndarray, " K"] | None:
    """Return what is added to the log-probabilities of a model, for other class frequencies.

    It is `tau` * (log wanted frequency - log frequency that the model learned). None: nothing is
    added, since the model learned from the frequencies that are wanted.

    Args:
        model: whose probabilities are adjusted.
        prior: the frequencies that are wanted: those of the training images ("train"), equal ones
            ("uniform"), or those of a file with a class id and a number of images in each line.
            Classes that the file lacks count as half an image. None: those that the model was
            trained for, whatever they are.
        tau: strength of the correction; 0: none, 1: Bayes' rule.
        data: dataset that the model was trained on, if the checkpoint has no class counts.

    Raises:
        UserError: if the class counts of the training images are unknown, the file cannot be used,
            or the probabilities are not of classes that exclude each other.
    """
    if not 0 <= tau < np.inf:
        raise UserError(f"tau is {tau}. Use a number from 0 on, such as 1.")
    if prior is None:
        return None
    if str(prior) not in PRIORS:
        wanted = log_prior(_read_counts(Path(prior), model.classes))
    elif str(prior) == "train":
        if not _weight(model):
            return None
        wanted = log_prior(train_counts(model, data))
    else:
        wanted = np.zeros(len(model.classes), np.float32)
    if model.probability != "softmax":
        raise UserError(
            f"a prior is given, and the classes of {model.origin.path} do not exclude each other."
            " Omit --prior, or use a model that was trained with softmax."
        )
    learned = (1 - _weight(model)) * log_prior(train_counts(model, data))
    return (tau * (wanted - learned)).astype(np.float32)


def adjusted(
    log_probabilities: Float[np.ndarray, "B K"], offsets: Float32[np.ndarray, " K"] | None
) -> Float[np.ndarray, "B K"]:
    """Return log-probabilities with the offsets added, which add up to 1 again."""
    return log_probabilities if offsets is None else renormalised(log_probabilities + offsets)


def train_counts(model: TrainedModel, data: Any = None) -> np.ndarray:
    """Return the number of training images of each class of a model.

    They are in the checkpoint, if the dataset's manifest had them. Else they are those of the
    split `train` of `data`, or of the dataset of the recipe, if the model was trained on it.

    Raises:
        UserError: if neither is the case.
    """
    if model.class_counts is not None:
        return model.class_counts
    recipe: Mapping[str, Any] = {}
    if isinstance(model, CheckpointModel):
        recipe = model.checkpoint.meta.get("config", {}).get("data", {})
    for directory in filter(None, (data, recipe.get("directory"))):
        try:
            split = open_split(directory, recipe.get("train_split", "train"))
        except UserError:
            continue
        if split.fingerprint == model.train_fingerprint:
            return class_counts(split)
    raise UserError(
        f"{model.origin.path} has no class counts, and the dataset that it was trained on is not"
        " given. Use --data with that dataset, or omit --prior."
    )


def _weight(model: TrainedModel) -> float:
    """Return how much of the training frequencies was taken away in training.

    Raises:
        UserError: if other frequencies than equal ones took their place.
    """
    if not isinstance(model, CheckpointModel):
        return 0.0
    loss = model.checkpoint.meta.get("config", {}).get("loss", {})
    weight, wanted = loss.get("prior_weight", 0.0), loss.get("prior_for", "uniform")
    if weight and wanted != "uniform":
        raise UserError(
            f"{model.origin.path} was trained for the class frequencies of split {wanted!r}."
            " Omit --prior."
        )
    return float(weight)


def _read_counts(path: Path, classes: ClassList) -> np.ndarray:
    try:
        lines = files.read_given(path).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"prior {path} cannot be read ({error}). Use {', '.join(PRIORS)}, or a text file with a"
            " class id and a number in each line."
        ) from error
    counts = np.zeros(len(classes), np.int64)
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        class_id, _, count = line.strip().rpartition("\t" if "\t" in line else " ")
        if not count.isdecimal() or not class_id:
            raise UserError(
                f"line {number} of prior {path} is {line!r}. Expected a class id and a number of"
                " images."
            )
        if class_id.strip() in classes.label_of:
            counts[classes.label_of[class_id.strip()]] += int(count)
    if not counts.any():
        raise UserError(
            f"prior {path} has no images of the model's {len(classes):,} classes. Use class ids"
            f" such as {classes.ids[0]}."
        )
    return counts
