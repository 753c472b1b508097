"""Find a learning rate: that at which a step changes kernels by a known part of themselves.

BatchNorm makes the output of a layer independent of the scale of its kernel. What a step does to
the network is therefore the change of a kernel over its norm, and not the learning rate itself
(You et al. 2017, LARS, arXiv 1708.03888). The search measures this change on the images of the run
while the rate is far too low to move anything. The rate that gives the change in `CHANGE` follows.
Short trial runs are no guide: see `docs/results.md`, "Learning rates".
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict

from i21k.data.load import loader
from i21k.errors import UserError
from i21k.models.network import Network
from i21k.train import conflicts, feed, sizes, steps
from i21k.train.augment import make_augmentation
from i21k.train.devices import find_devices, put_batch, put_state
from i21k.train.losses import initial_bias
from i21k.train.optimizer import group_of, make_optimizer
from i21k.train.recipe import Recipe
from i21k.train.state import init_state, make_network
from i21k.train.targets import loss_of

# Of a kernel over its norm, in one step with the highest rate. Chosen from sweeps on two datasets;
# where it holds and where it does not: `docs/results.md`. SGD's updates are largest at the start.
CHANGE = {"sgd": 0.19, "adamw": 0.03, "lamb": 0.007, "muon": 0.023}
FRACTION = 0.1  # of an epoch
_MIN_STEPS, _MAX_STEPS = 12, 40  # our choice: momentum 0.9 grows for about ten
_TINY = 1e-5  # our choice: times the rate of the recipe, while changes are measured


class Found(NamedTuple):
    """What a search has found."""

    learning_rate: float
    muon_learning_rate: float  # in the ratio of the recipe
    change: float  # of kernels in a step with this rate, over their norms
    own_change: float  # the same with the rate of the recipe
    steps: int
    num_images: int
    epochs: float  # how many of the training split's epochs that is


def num_steps(num_records: int, batch_size: int, fraction: float = FRACTION) -> int:
    """Return the number of steps of a search: a fraction of an epoch, at least `_MIN_STEPS`."""
    return max(_MIN_STEPS, min(_MAX_STEPS, int(fraction * num_records / batch_size)))


def find(
    cfg: Recipe,
    fraction: float = FRACTION,
    after_step: Callable[[], object] = lambda: None,
) -> Found:
    """Measure how much steps change kernels, and return the rate for the change in `CHANGE`.

    Nothing is written. The images are the first ones of the run's own stream. What counts is the
    median over all kernels, then over the second half of the steps: in the first ones the momentum
    is still growing.

    Args:
        cfg: of the run. Its schedule is not used.
        fraction: of an epoch; at least 12 steps are done.
        after_step: called after each step.

    Raises:
        UserError: if the recipe or the data are wrong, or the kernels get no gradient.
    """
    conflicts.check(cfg)
    if cfg.init_from != "none" or cfg.optimizer.head_epochs or cfg.model.freeze != "none":
        raise UserError(
            f"config.init_from is {cfg.init_from!r}, config.optimizer.head_epochs is"
            f" {cfg.optimizer.head_epochs:g} and config.model.freeze is {cfg.model.freeze!r}. The"
            " search starts from random values and needs all kernels: use it for a recipe without a"
            " parent, and compare a few rates for fine-tuning."
        )
    devices = find_devices(cfg)
    split, _ = feed.open_data(cfg)
    conflicts.check_with_data(cfg, split, len(devices))
    size = sizes.size_at(cfg.image_size, 0, 1)
    count, own = num_steps(split.num_records, cfg.batch_size, fraction), cfg.optimizer
    network = make_network(cfg.model, len(split.classes))
    loss = loss_of(cfg.loss, split)
    rate = _TINY * own.learning_rate
    optimizer = with_changes(make_optimizer(own, lambda _: rate, network), network)
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
    bias = initial_bias(loss.probability, len(split.classes))
    state = init_state(network, optimizer, size, cfg.model.init, cfg.seed, bias)
    state = put_state(state, devices)
    changes: list[Any] = []
    with loader.batches(split, feed.train_options(cfg, size), 0, count) as batches:
        for batch in batches:
            state = step(state, put_batch(batch, devices))
            changes.append(jax.device_get(state.opt_state.changes))
            after_step()
    own_change = float(np.median(np.median(changes, axis=1)[count // 2 :])) / _TINY
    if not (np.isfinite(own_change) and own_change > 0):
        raise UserError(
            f"a step changes the kernels by {own_change:.2g} of their norm at a learning rate of"
            f" {own.learning_rate:.2g}. Without a finite gradient there is no rate to find: look at"
            " the images and the loss."
        )
    factor = CHANGE[own.name] / own_change
    return Found(
        learning_rate=factor * own.learning_rate,
        muon_learning_rate=factor * own.muon_learning_rate,
        change=CHANGE[own.name],
        own_change=own_change,
        steps=count,
        num_images=count * cfg.batch_size,
        epochs=count * cfg.batch_size / split.num_records,
    )


class _WithChanges(NamedTuple):
    """State of an optimizer, and what its last update did."""

    inner: Any
    changes: Any  # float32 [kernels]


def with_changes(
    inner: optax.GradientTransformation, network: Network
) -> optax.GradientTransformation:
    """Return the same optimizer, whose state has the changes of the last update.

    The change of a kernel is the norm of its update over its own norm. The classifier head has
    none: nothing normalises its output.
    """

    def is_kernel(path: Any) -> bool:
        return group_of(network, path) == "kernels"

    def kernels(tree: Any) -> list[Any]:
        return [leaf for path, leaf in sorted(flatten_dict(tree).items()) if is_kernel(path)]

    def init(params: Any) -> _WithChanges:
        return _WithChanges(inner.init(params), jnp.zeros(len(kernels(params))))

    def update(gradients: Any, state: _WithChanges, params: Any) -> tuple[Any, _WithChanges]:
        updates, inner_state = inner.update(gradients, state.inner, params)
        changes = [
            jnp.linalg.norm(jnp.ravel(change)) / jnp.linalg.norm(jnp.ravel(kernel))
            for change, kernel in zip(kernels(updates), kernels(params), strict=True)
        ]
        return updates, _WithChanges(inner_state, jnp.stack(changes))

    return optax.GradientTransformation(init, update)
