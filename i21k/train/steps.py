"""The steps that run on all devices: train, evaluate, log-probabilities, and batch statistics.

Every `pmap` and every collective of a step is here.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, path_aware_map, unflatten_dict
from jax import lax
from jaxtyping import Array, Bool, Float

from i21k.models.network import Network, Path
from i21k.models.probabilities import DEFAULT, Probability, log_probabilities
from i21k.train import ema
from i21k.train.augment import Augmentation, Targets, mirror, step_key
from i21k.train.losses import Loss, SoftmaxLoss, with_others
from i21k.train.metrics import Sums
from i21k.train.state import AXIS, DeviceBatch, TrainState, divided, joined

_SOFTMAX = SoftmaxLoss()


def make_train_step(
    network: Network,
    optimizer: optax.GradientTransformation,
    devices: Sequence[jax.Device],
    accumulate_steps: int = 1,
    reduce_dtype: str = "float32",
    loss: Loss = _SOFTMAX,
    augment: Augmentation | None = None,
    seed: int = 0,
    ema_decay: float = 0.0,
    head_steps: int = 0,
) -> Callable[[TrainState, DeviceBatch], TrainState]:
    """Return a step that updates the state in place (its buffers are donated).

    It compiles at its first call.

    Args:
        network: as it is trained.
        optimizer: turns gradients into updates.
        devices: to run on.
        accumulate_steps: number of micro-batches in each device's part of a batch.
        reduce_dtype: of gradients while they are sent between the devices.
        loss: of a micro-batch.
        augment: changes images and targets on the device, after mirroring.
        seed: of random numbers on the devices; used by `augment` and by a loss that needs a key.
        ema_decay: of the moving average; 0: the state has none.
        head_steps: steps at the start in which only the head changes.
    """
    step = functools.partial(
        train_step,
        network=network,
        optimizer=optimizer,
        accumulate_steps=accumulate_steps,
        reduce_dtype=reduce_dtype,
        loss=loss,
        augment=augment,
        seed=seed,
        ema_decay=ema_decay,
        head_steps=head_steps,
    )
    return jax.pmap(
        step, axis_name=AXIS, in_axes=(None, 0), out_axes=None, devices=devices, donate_argnums=(0,)
    )


def make_eval_step(
    network: Network, devices: Sequence[jax.Device], loss: Loss = _SOFTMAX
) -> Callable[[Any, DeviceBatch], Sums]:
    """Return a function of (variables, batch) that returns the sums over all devices."""
    step = functools.partial(eval_step, network=network, loss=loss.for_evaluation())
    return jax.pmap(step, axis_name=AXIS, in_axes=(None, 0), out_axes=None, devices=devices)


def make_subset_eval_step(
    network: Network,
    devices: Sequence[jax.Device],
    columns: Bool[np.ndarray, " K"],
    loss: Loss = _SOFTMAX,
) -> Callable[[Any, DeviceBatch], tuple[Sums, Sums]]:
    """Return a function of (variables, batch) that returns two sums over all devices.

    The first sum ranks the true class among all classes, the second among some. The label -1 is a
    class that the model lacks, see `Sums.of`.

    Args:
        network: to evaluate.
        devices: to run on.
        columns: the classes among which the second sums rank.
        loss: as in training.
    """
    evaluated = loss.for_evaluation()

    def step(variables: Any, batch: DeviceBatch) -> tuple[Sums, Sums]:
        images = network.prepare(mirror(batch.images, batch.mirror))
        logits = network.apply(variables, images).logits
        labels, known = jnp.maximum(batch.labels, 0), batch.labels >= 0

        def count(logits: Float[Array, "b K"]) -> Sums:
            losses = evaluated.per_image(logits, labels)
            return Sums.of(losses, logits, labels, batch.weights, known, batch.others)

        return lax.psum((count(logits), count(jnp.where(columns, logits, -jnp.inf))), AXIS)

    return jax.pmap(step, axis_name=AXIS, in_axes=(None, 0), out_axes=None, devices=devices)


def make_log_probabilities_step(
    network: Network,
    devices: Sequence[jax.Device],
    flip: bool = False,
    probability: Probability = DEFAULT,
) -> Callable[[Any, DeviceBatch], Any]:
    """Return a function of (variables, batch) that returns log-probabilities, float32 [D, b, K].

    Each process gets those of its own devices.

    Args:
        network: for inference.
        devices: to run on.
        flip: average the probabilities of each image and its mirror image.
        probability: how logits become probabilities.
    """

    def step(variables: Any, batch: DeviceBatch) -> Float[Array, "b K"]:
        def one_way(flipped: Bool[Array, ""]) -> Float[Array, "b K"]:
            images = network.prepare(mirror(batch.images, batch.mirror ^ flipped))
            return log_probabilities(network.apply(variables, images).logits, probability)

        if not flip:
            return one_way(jnp.array(False))
        # A loop compiles the network once, and uses its memory once.
        both = lax.map(one_way, jnp.array([False, True]))
        return jnp.logaddexp(both[0], both[1]) - np.float32(np.log(2))

    return jax.pmap(step, axis_name=AXIS, in_axes=(None, 0), out_axes=0, devices=devices)


def make_statistics_step(
    network: Network, devices: Sequence[jax.Device]
) -> Callable[[Any, DeviceBatch], Any]:
    """Return a function of (variables, batch) that returns each device's batch statistics.

    Every process gets those of all devices: arrays have an axis D in front.
    """
    network = network.with_momentum(0.0)  # the new statistics are those of the batch

    def step(variables: Any, batch: DeviceBatch) -> Any:
        images = network.prepare(mirror(batch.images, batch.mirror))
        _, batch_stats = network.apply_train(variables, images)
        return lax.all_gather(batch_stats, AXIS)

    return jax.pmap(step, axis_name=AXIS, in_axes=(None, 0), out_axes=None, devices=devices)


def train_step(
    state: TrainState,
    batch: DeviceBatch,
    *,
    network: Network,
    optimizer: optax.GradientTransformation,
    accumulate_steps: int = 1,
    reduce_dtype: str = "float32",
    loss: Loss = _SOFTMAX,
    augment: Augmentation | None = None,
    seed: int = 0,
    ema_decay: float = 0.0,
    head_steps: int = 0,
) -> TrainState:
    """Do one update with one device's part of the batch. See `make_train_step`.

    Gradients and normalisation statistics are averaged over devices and micro-batches. Several
    micro-batches on one device therefore do the same update as several devices. Statistics are
    linear in those of a batch: averaging them at every step gives what MXNet got by averaging once
    an epoch. BatchNorm normalises each micro-batch by itself, unless the network names the axis.
    """
    moving, fixed = divided(network, state.params)
    # Without pcast, autodiff would sum the gradients by itself under `shard_map`.
    params, frozen, batch_stats = lax.pcast((moving, fixed, state.batch_stats), AXIS, to="varying")
    is_random = augment is not None or loss.needs_key

    def micro_step(micro_index: Any, part: DeviceBatch) -> tuple[Any, Any, Sums]:
        images: Any = mirror(part.images, part.mirror)
        targets: Targets = part.labels
        if part.others is not None:
            targets = with_others(part.labels, part.others, loss.probability)
        loss_key = None
        if is_random:  # otherwise the step has no instructions for it
            part_index = lax.axis_index(AXIS) * accumulate_steps + micro_index
            key = step_key(seed, state.step, part_index)
            augment_key, loss_key = jax.random.split(key)
            if augment is not None:
                images, targets = augment(augment_key, images, targets)
        images = network.prepare(images)

        def loss_of(params: Any) -> tuple[Float[Array, ""], tuple[Any, Sums]]:
            variables = {"params": joined(params, frozen), "batch_stats": batch_stats}
            output, updated = network.apply_train(variables, images)
            losses = loss.per_image(output.logits, targets, loss_key if loss.needs_key else None)
            # Accuracy counts the true labels, also where the targets are soft.
            sums = Sums.of(losses, output.logits, part.labels, part.weights)
            return jnp.mean(losses), (updated, sums)

        gradients, (updated, sums) = jax.grad(loss_of, has_aux=True)(params)
        return gradients, updated, sums

    if accumulate_steps == 1:
        totals = micro_step(0, batch)
    else:
        totals = _add_up(micro_step, batch, accumulate_steps, (moving, state.batch_stats))
    gradients, batch_stats, sums = _reduce(*totals, reduce_dtype, network.head)
    num_parts = lax.axis_size(AXIS) * accumulate_steps
    gradients, batch_stats = jax.tree.map(lambda x: x / num_parts, (gradients, batch_stats))
    fixed_statistics = divided(network, state.batch_stats, "batch_stats")[1]
    batch_stats = joined(batch_stats, fixed_statistics)  # a mean of equal numbers may round
    seen = moving  # by the optimizer
    if head_steps:
        gradients, seen = _only_head((gradients, moving), state.step < head_steps, network)
    updates, opt_state = optimizer.update(gradients, state.opt_state, seen)
    params, average = joined(optax.apply_updates(moving, updates), fixed), state.ema
    if ema_decay:
        variables = {"params": params, "batch_stats": batch_stats}
        average = ema.moved(average, variables, state.step, ema_decay)
    return TrainState(
        step=state.step + 1,
        params=params,
        batch_stats=batch_stats,
        opt_state=opt_state,
        sums=state.sums.add(sums),
        ema=average,
    )


def _only_head(trees: Any, where: Any, network: Network) -> Any:
    """Return zeros for all parameters but the head's, where a condition holds.

    An optimizer that gets zeros for gradient and parameter changes neither the parameter nor its
    own state of it.
    """

    def one(path: Any, leaf: Any) -> Any:
        is_head = path[: len(network.head)] == network.head
        return leaf if is_head else jnp.where(where, jnp.zeros_like(leaf), leaf)

    return tuple(path_aware_map(one, tree) for tree in trees)


def eval_step(
    variables: Any, batch: DeviceBatch, *, network: Network, loss: Loss = _SOFTMAX
) -> Sums:
    """Sum loss and hits over all devices' parts of a batch. Images of weight 0 do not count."""
    images = network.prepare(mirror(batch.images, batch.mirror))
    logits = network.apply(variables, images).logits
    losses = loss.per_image(logits, batch.labels)
    if batch.others is not None:  # the loss of the most probable right class
        for others in batch.others.T:
            of_other = loss.per_image(logits, jnp.maximum(others, 0))
            losses = jnp.where(others >= 0, jnp.minimum(losses, of_other), losses)
    sums = Sums.of(losses, logits, batch.labels, batch.weights, others=batch.others)
    return lax.psum(sums, AXIS)


def _add_up(
    micro_step: Callable[[Any, DeviceBatch], tuple[Any, Any, Sums]],
    batch: DeviceBatch,
    num_parts: int,
    like: tuple[Any, Any],
) -> tuple[Any, Any, Sums]:
    """Add up the results of micro-batches, which are computed one after the other.

    Args:
        micro_step: a function of (index, micro-batch).
        batch: one device's part. Consecutive images in it form a micro-batch.
        num_parts: the number of micro-batches.
        like: trees of the shapes of the first two results.
    """
    parts = jax.tree.map(lambda x: jnp.reshape(x, (num_parts, -1, *x.shape[1:])), batch)
    zeros = (*jax.tree.map(jnp.zeros_like, like), Sums.zero())

    def add(totals: Any, indexed: tuple[Any, DeviceBatch]) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, totals, micro_step(*indexed)), None

    indexed = (jnp.arange(num_parts), parts)
    totals, _ = lax.scan(add, lax.pcast(zeros, AXIS, to="varying"), indexed)
    return totals


def _reduce(
    gradients: Any, batch_stats: Any, sums: Sums, dtype: str, head: Path
) -> tuple[Any, Any, Sums]:
    """Sum over the devices. Gradients are sent as `dtype` and returned as float32.

    The gradients of the classifier head are sent first: the backward pass computes them first, and
    with many classes they are most of all bytes. XLA runs one all-reduce at a time. Without this
    order it sent 16 bytes of sums after the whole backward pass, and the gradients after those
    (`benchmarks/results/2026-11-22-memory.md`).

    Args:
        gradients: a tree of any depth.
        batch_stats: a tree of any depth.
        sums: of the device's part.
        dtype: of gradients while they are sent.
        head: the path of the head in `gradients`.
    """
    flat = {path: g.astype(dtype) for path, g in flatten_dict(gradients).items()}
    first = {path: g for path, g in flat.items() if path[: len(head)] == head}
    assert first, f"no parameter is below {head}, the network's head"
    others: Any = ({p: g for p, g in flat.items() if p not in first}, batch_stats, sums)
    first = lax.psum(first, AXIS)
    if lax.axis_size(AXIS) > 1:
        others, _ = lax.optimization_barrier((others, first))
    rest, batch_stats, sums = lax.psum(others, AXIS)
    gradients = unflatten_dict({p: g.astype(jnp.float32) for p, g in (first | rest).items()})
    return gradients, batch_stats, sums
