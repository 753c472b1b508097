"""Combinations of a recipe's keys that cannot work. All are refused here, before anything starts.

The check of a single key is beside the key, in `recipe/schema.py`. What depends on the data or the
devices is in `check_with_data`.
"""

from collections.abc import Callable
from operator import attrgetter
from typing import NamedTuple

from i21k.data.format.splits import Split
from i21k.errors import UserError
from i21k.train import sizes
from i21k.train.recipe import Recipe
from i21k.train.state import make_network

_MOST_STEPS = 2**31  # the counter of steps on the devices has 32 bits


class Rule(NamedTuple):
    """Keys whose values do not fit each other."""

    keys: tuple[str, str]
    is_broken: Callable[[Recipe], bool]
    advice: str  # what to do instead, as a sentence


RULES = (
    Rule(
        ("loss.smooth_to", "loss.smoothing"),
        lambda cfg: cfg.loss.smooth_to != "all" and not cfg.loss.smoothing,
        "Use a smoothing above 0, such as --config.loss.smoothing=0.1.",
    ),
    Rule(
        ("loss.smooth_to", "loss.name"),
        lambda cfg: cfg.loss.smooth_to == "ancestors" and cfg.loss.name == "sigmoid",
        "Sigmoid probabilities do not add up over classes. Use --config.loss.name=softmax, or"
        " --config.loss.smooth_to=near.",
    ),
    Rule(
        ("loss.prior_weight", "loss.name"),
        lambda cfg: cfg.loss.prior_weight > 0 and cfg.loss.name == "sigmoid",
        "Logit adjustment is defined for softmax. Use --config.loss.name=softmax, or a"
        " prior_weight of 0.",
    ),
    Rule(
        ("loss.prior_for", "loss.prior_weight"),
        lambda cfg: cfg.loss.prior_for != "uniform" and not cfg.loss.prior_weight,
        "Use --config.loss.prior_weight=1, or --config.loss.prior_for=uniform.",
    ),
    Rule(
        ("optimizer.head_epochs", "optimizer.name"),
        lambda cfg: cfg.optimizer.head_epochs > 0 and cfg.optimizer.name == "adamw",
        "AdamW's second moments of the trunk would be 0 when it starts to move, and its first"
        " updates several times too large. Use --config.optimizer.name=sgd, or a head_epochs of 0.",
    ),
    Rule(
        ("data.mirror_order", "data.mirror"),
        lambda cfg: cfg.data.mirror_order != "random" and not cfg.data.mirror,
        "Use --config.data.mirror=True, or --config.data.mirror_order=random.",
    ),
)


def check(cfg: Recipe) -> None:
    """Check that the keys of a recipe fit each other.

    Raises:
        UserError: naming both keys, their values, and what to use instead.
    """
    _check_sizes(cfg)
    _check_schedule(cfg)
    _check_groups(cfg)
    for rule in RULES:
        if rule.is_broken(cfg):
            raise _error(cfg, rule.keys, rule.advice)


def _check_sizes(cfg: Recipe) -> None:
    network = make_network(cfg.model, 2)  # sizes do not depend on the number of classes
    wanted = [("image_size", stage.size) for stage in sizes.read_sizes(cfg.image_size)]
    for key, size in [*wanted, ("evaluation.image_size", cfg.evaluation_size)]:
        try:
            network.check_size(size, size)
        except UserError as error:
            value = cfg.image_size if key == "image_size" else cfg.evaluation.image_size
            raise UserError(
                f"config.{key} is {value!r} and config.model.revision is {cfg.model.revision!r}."
                f" {error}"
            ) from error


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
    if own.muon_weight_decay and own.name != "muon":
        raise UserError(
            f"config.optimizer.muon_weight_decay is {own.muon_weight_decay:g} and"
            f" config.optimizer.name is {own.name!r}, which does not use it. Use"
            " config.optimizer.weight_decay, or the optimizer 'muon'."
        )
    if own.decay == "kernels" and own.weight_decay_norm != 1:
        raise UserError(
            f"config.optimizer.weight_decay_norm is {own.weight_decay_norm:g} and"
            " config.optimizer.decay is 'kernels', so biases do not decay at all. Use"
            " --config.optimizer.decay=all, or a factor of 1."
        )


def check_with_data(cfg: Recipe, train_split: Split, num_devices: int) -> None:
    """Refuse a recipe that does not fit the training data or the devices.

    Raises:
        UserError: naming the keys and what they have to fit.
    """
    per_part = cfg.batch_size // num_devices // cfg.accumulate_steps
    for name in ("augment.mixup", "augment.cutmix"):
        if attrgetter(name)(cfg) and per_part < 2:
            raise _error(
                cfg,
                (name, "batch_size"),
                f"That is {per_part} image per device and micro-batch, which has none to be mixed"
                " with. Use a larger batch_size or fewer accumulate_steps.",
            )


def check_steps(cfg: Recipe, first: int, num_steps: int) -> None:
    """Refuse a run of too many steps, or whose schedule starts after its first step.

    Args:
        cfg: the recipe.
        first: steps that are done when the run starts or resumes.
        num_steps: of the whole run.

    Raises:
        UserError: naming the key.
    """
    if num_steps >= _MOST_STEPS:
        raise UserError(
            f"config.epochs is {cfg.epochs:,}. That is {num_steps:,} steps; the most are"
            f" {_MOST_STEPS - 1:,}. Use fewer epochs."
        )
    start = cfg.optimizer.schedule_from_step
    if start > first:  # the learning rate of a warm-up would be negative
        raise UserError(
            f"config.optimizer.schedule_from_step is {start:,} and this run starts at step"
            f" {first:,}. Use {first}, or --resume or --branch-from a run with a checkpoint of that"
            " step."
        )


def _error(cfg: Recipe, keys: tuple[str, str], advice: str) -> UserError:
    both = " and ".join(f"config.{key} is {attrgetter(key)(cfg)!r}" for key in keys)
    return UserError(f"{both}. {advice}")
