"""Combinations of a recipe's keys that cannot work. All are refused here, before anything starts.

The check of a single key is beside the key, in `recipe.py`.
"""

from i21k.errors import UserError
from i21k.train.recipe import Recipe


def check(cfg: Recipe) -> None:
    """Check that the keys of a recipe fit each other.

    Raises:
        UserError: naming both keys, their values, and what to use instead.
    """
    _check_schedule(cfg)
    _check_groups(cfg)


def _check_schedule(cfg: Recipe) -> None:
    own = cfg.optimizer
    if own.schedule == "trapezoid" and not own.decay_epochs:
        raise UserError(
            "config.optimizer.schedule is 'trapezoid' and config.optimizer.decay_epochs is 0, so"
            " the learning rate would never fall. Use --config.optimizer.decay_epochs="
            f"{cfg.epochs / 5:g}, or schedule 'constant'."
        )
    if own.schedule != "trapezoid" and own.decay_epochs:
        raise UserError(
            f"config.optimizer.decay_epochs is {own.decay_epochs:g} and config.optimizer.schedule"
            f" is {own.schedule!r}, which does not use it. Use 0, or schedule 'trapezoid'."
        )
    ramps = own.warmup_epochs + own.decay_epochs
    if own.schedule == "trapezoid" and ramps > cfg.epochs:
        raise UserError(
            f"config.optimizer.warmup_epochs and config.optimizer.decay_epochs are {ramps:g}"
            f" together, and config.epochs is {cfg.epochs}. Use shorter ramps."
        )


def _check_groups(cfg: Recipe) -> None:
    own = cfg.optimizer
    if own.decay == "kernels" and own.weight_decay_norm != 1:
        raise UserError(
            f"config.optimizer.weight_decay_norm is {own.weight_decay_norm:g} and"
            " config.optimizer.decay is 'kernels', so biases do not decay at all. Use"
            " --config.optimizer.decay=all, or a factor of 1."
        )
