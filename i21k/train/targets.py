"""From a recipe and its data to the loss of training: WordNet's levels, and class frequencies."""

import numpy as np
from jaxtyping import Float32, Int

from i21k.data.format.class_counts import class_counts
from i21k.data.format.splits import Split, open_split, split_names
from i21k.errors import UserError
from i21k.train.losses import Loss, make_loss
from i21k.train.recipe import LossRecipe
from i21k.wordnet.hierarchy import Hierarchy
from i21k.wordnet.levels import make_levels


def loss_of(cfg: LossRecipe, train_split: Split) -> Loss:
    """Make the loss of a recipe for the classes of its training split.

    Raises:
        UserError: if WordNet lacks a class, or the class frequencies cannot be had.
    """
    levels = offsets = None
    if cfg.smooth_to != "all":
        levels = make_levels(_hierarchy(cfg, train_split), cfg.level_decay)
    if cfg.prior_weight:
        offsets = _offsets(cfg, train_split)
    return make_loss(cfg.name, cfg.smoothing, cfg.smooth_to, levels, offsets)


def log_prior(counts: Int[np.ndarray, " K"]) -> Float32[np.ndarray, " K"]:
    """Return the logarithm of class frequencies. A class without images counts as half an image."""
    counts = np.maximum(counts.astype(np.float64), 0.5)
    return np.log(counts / counts.sum()).astype(np.float32)


def _hierarchy(cfg: LossRecipe, split: Split) -> Hierarchy:
    try:
        return Hierarchy(split.classes)
    except UserError as error:
        raise UserError(
            f"config.loss.smooth_to is {cfg.smooth_to!r}, and of config.data.directory"
            f" {split.directory}, {error} Or use --config.loss.smooth_to=all."
        ) from error


def _expected(cfg: LossRecipe, train_split: Split) -> Split:
    if cfg.prior_for not in (known := split_names(train_split.directory)):
        raise UserError(
            f"config.loss.prior_for is {cfg.prior_for!r}, and config.data.directory"
            f" {train_split.directory} has the splits {', '.join(known)}. Use one of them, or"
            " --config.loss.prior_for=uniform."
        )
    return open_split(train_split.directory, cfg.prior_for)


def _offsets(cfg: LossRecipe, train_split: Split) -> Float32[np.ndarray, " K"]:
    """Return what is added to the logits in training, so that they fit other class frequencies."""
    offsets = log_prior(class_counts(train_split))
    if cfg.prior_for != "uniform":
        offsets -= log_prior(class_counts(_expected(cfg, train_split)))
    else:
        offsets -= offsets.mean()  # a constant changes nothing; this one keeps the logits small
    return np.float32(cfg.prior_weight) * offsets
