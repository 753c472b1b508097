"""Find a learning rate by a short run whose rate grows at every step.

Source: Smith 2017, "Cyclical Learning Rates for Training Neural Networks", arXiv 1506.01186,
section 3.3. The rule that reads the curve is ours (`choose`).
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from i21k.data.load import loader
from i21k.errors import UserError
from i21k.train import conflicts, feed, sizes, steps
from i21k.train.augment import make_augmentation
from i21k.train.devices import find_devices, put_batch, put_state
from i21k.train.losses import initial_bias
from i21k.train.metrics import Totals
from i21k.train.optimizer import make_optimizer
from i21k.train.recipe import Recipe
from i21k.train.state import init_state, make_network
from i21k.train.targets import loss_of

FRACTION = 0.1  # of an epoch
MIN_STEPS, MAX_STEPS = 40, 300  # our choice: fewer are too noisy, more add nothing
RANGE = 64.0  # our choice: rates from that of the recipe / RANGE to that of the recipe * RANGE
_WINDOW = 4  # our choice: the steepest part is a quarter of the steps
_DIVERGED = 1.5  # our choice: times the first losses


class Found(NamedTuple):
    """What a search has found."""

    learning_rate: float
    muon_learning_rate: float  # in the ratio of the recipe
    rates: tuple[float, ...]  # of each step
    losses: tuple[float, ...]  # of each step, before its update
    num_images: int
    epochs: float  # how many of the training split's epochs that is


def num_steps(num_records: int, batch_size: int, fraction: float = FRACTION) -> int:
    """Return the number of steps of a search: a fraction of an epoch, at least `MIN_STEPS`."""
    return max(MIN_STEPS, min(MAX_STEPS, int(fraction * num_records / batch_size)))


def growing(least: float, most: float, num_steps: int) -> optax.Schedule:
    """Return the schedule that grows by the same factor at each step, from `least` to `most`."""

    def schedule(step: int | Int[Array, ""]) -> Float[Array, ""]:
        grown = jax.numpy.asarray(step).astype(np.float32) / max(1, num_steps - 1)
        return np.float32(least) * jax.numpy.exp(grown * np.float32(math.log(most / least)))

    return schedule


def choose(rates: Sequence[float], losses: Sequence[float]) -> float:
    """Return the rate to train with: that at the end of the steepest fall of the loss.

    The fall is the slope of a straight line through a quarter of the steps, over the logarithm of
    the rate. What comes after a loss that is not finite, or far above the first ones, does not
    count. A network with BatchNorm need not diverge at rates that are far too high: its loss stays
    where it is. So the lowest loss is no guide.

    Raises:
        UserError: if the loss falls nowhere, or fastest at the highest rate.
    """
    width = max(5, len(rates) // _WINDOW)
    limit = _DIVERGED * float(np.mean(losses[:5]))
    good = 0
    while good < len(losses) and losses[good] < limit:  # false for NaN
        good += 1
    x, y = np.log(rates[:good]), np.asarray(losses[:good])
    parts = range(good - width + 1)
    slopes = [float(np.polyfit(x[k : k + width], y[k : k + width], 1)[0]) for k in parts]
    if not slopes or min(slopes) >= 0:
        raise UserError(
            f"the loss falls at no learning rate from {rates[0]:.2g} to {rates[-1]:.2g}. Use a"
            " lower --config.optimizer.learning_rate in the recipe, or look at the images."
        )
    end = int(np.argmin(slopes)) + width - 1
    if end == len(losses) - 1:
        raise UserError(
            f"the loss falls fastest at the highest learning rate, {rates[-1]:.2g}. Use a higher"
            " --config.optimizer.learning_rate in the recipe, and search again."
        )
    return rates[end]


def find(
    cfg: Recipe,
    fraction: float = FRACTION,
    say: Callable[[int, float, float], None] = lambda step, rate, loss: None,
) -> Found:
    """Train for a fraction of an epoch with growing rates and return the rate to use.

    Nothing is written. The images are the first ones of the run's own stream.

    Args:
        cfg: of the run. Its rates are the middle of those that are tried; its schedule is not used.
        fraction: of an epoch; at least `MIN_STEPS` steps are done.
        say: called with the number of each step, its rate and its loss.

    Raises:
        UserError: if the recipe or the data are wrong, or no rate is good.
    """
    conflicts.check(cfg)
    if cfg.init_from != "none" or cfg.optimizer.head_epochs:
        raise UserError(
            f"config.init_from is {cfg.init_from!r} and config.optimizer.head_epochs is"
            f" {cfg.optimizer.head_epochs:g}. The search starts from random values: use it for a"
            " recipe without a parent, and compare a few rates for fine-tuning."
        )
    devices = find_devices(cfg)
    split, _ = feed.open_data(cfg)
    conflicts.check_with_data(cfg, split, len(devices))
    size = sizes.size_at(cfg.image_size, 0, 1)
    count, own = num_steps(split.num_records, cfg.batch_size, fraction), cfg.optimizer
    schedule = growing(own.learning_rate / RANGE, own.learning_rate * RANGE, count)
    network = make_network(cfg.model, len(split.classes))
    optimizer = make_optimizer(own, schedule, network)
    loss = loss_of(cfg.loss, split)
    bias = initial_bias(loss.probability, len(split.classes))
    step = steps.make_train_step(
        network,
        optimizer,
        devices,
        cfg.accumulate_steps,
        cfg.reduce_dtype,
        loss,
        make_augmentation(cfg.augment),
        cfg.seed,
    )
    state = init_state(network, optimizer, size, cfg.model.init, cfg.seed, bias)
    state = put_state(state, devices)
    options, before = feed.train_options(cfg, size), Totals()
    rates: list[float] = []
    losses: list[float] = []
    with loader.batches(split, options, 0, count) as batches:
        for number, batch in enumerate(batches):
            state = step(state, put_batch(batch, devices))
            now = Totals.fetch(state.sums)
            rates.append(float(schedule(number)))
            losses.append((now - before).means()["loss"])
            before = now
            say(number, rates[-1], losses[-1])
            if not math.isfinite(losses[-1]):
                break
    rate = choose(rates, losses)
    return Found(
        learning_rate=rate,
        muon_learning_rate=rate * own.muon_learning_rate / own.learning_rate,
        rates=tuple(rates),
        losses=tuple(losses),
        num_images=len(rates) * cfg.batch_size,
        epochs=len(rates) * cfg.batch_size / split.num_records,
    )
