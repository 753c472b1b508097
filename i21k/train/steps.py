"""The training and the evaluation step, their state and its place on the devices: the only pmap, axis name and collectives."""

import contextlib
import functools
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, Int32, UInt8

from i21k.data.load.loader import Batch
from i21k.models.inception_bn import MEAN, InceptionBN
from i21k.train.metrics import Sums
from i21k.train.recipe import ModelConfig

AXIS = "batch"


class TrainState(struct.PyTreeNode):
    """All that a step changes; every device holds the same."""

    step: Int[Array, ""]  # steps done
    params: Any
    batch_stats: Any
    opt_state: Any
    sums: Sums  # of the epoch so far


class DeviceBatch(struct.PyTreeNode):
    """A batch on the devices; the axis D is theirs."""

    images: UInt8[Array, "D b S S 3"]
    labels: Int32[Array, "D b"]
    mirror: Bool[Array, "D b"]
    weights: Float[Array, "D b"]


def make_model(cfg: ModelConfig, num_classes: int) -> InceptionBN:
    """Build the network of a recipe."""
    return InceptionBN(
        num_classes=num_classes,
        variant=cfg.variant,
        revision=cfg.revision,
        width=cfg.width,
        dtype=jnp.dtype(cfg.dtype),
        remat=cfg.remat,
        bn_axis_name=AXIS if cfg.sync_bn else None,
        bn_momentum=None if cfg.bn_momentum == "default" else cfg.bn_momentum,
    )


def init_state(
    model: InceptionBN,
    optimizer: optax.GradientTransformation,
    image_size: int,
    init: str,
    seed: int,
) -> TrainState:
    """Make a state from a seed, the same on every machine: each kernel is drawn by NumPy from a key of its own.

    XLA would compile the random numbers of 70 kernels for longer than the train step (`notebooks/LOG.md`), to run them once.

    Args:
        model: the network.
        optimizer: whose state is made too.
        image_size: in pixels; refused if the network cannot take it.
        init: "uniform" (-0.01 .. 0.01, as in 2015) or "he_normal" (He et al. 2015).
        seed: of the run.
    """
    images = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), images)

    def initial(path: tuple[Any, ...], shape: jax.ShapeDtypeStruct) -> np.ndarray:
        layer, name = path[-2].key, path[-1].key
        if name != "kernel":
            return np.full(shape.shape, 1 if name in ("gamma", "moving_var") else 0, np.float32)
        rng = np.random.Generator(
            np.random.Philox(key=np.array([seed, zlib.crc32(layer.encode())], np.uint64))
        )
        if init == "uniform":
            return rng.uniform(-0.01, 0.01, shape.shape).astype(np.float32)
        fan_in = np.prod(shape.shape[:-1])
        return rng.standard_normal(shape.shape, np.float32) * np.float32(np.sqrt(2 / fan_in))

    variables = jax.tree_util.tree_map_with_path(initial, shapes)
    params = variables["params"]
    return TrainState(
        jnp.zeros((), jnp.int32),
        params,
        variables["batch_stats"],
        jax.jit(optimizer.init)(params),
        Sums.zero(),
    )


def put_state(state: Any, devices: Sequence[jax.Device]) -> Any:
    """Replicate a tree over this process's part of the devices; before the first step, so that donation finds the buffers where pmap wants
    them: in several processes it would otherwise delete what it has just aliased."""
    return jax.device_put(state, NamedSharding(_mesh(devices), PartitionSpec()))


def put_batch(batch: Batch, devices: Sequence[jax.Device]) -> DeviceBatch:
    """Send this process's part of a batch to its part of the devices, without waiting; the host arrays must not be written again."""
    mesh = _mesh(devices)
    sharding = NamedSharding(mesh, PartitionSpec(AXIS))
    parts = (np.reshape(x, (mesh.size, -1, *x.shape[1:])) for x in batch)
    return DeviceBatch(*(jax.device_put(part, sharding) for part in parts))


@contextlib.contextmanager
def transfers(level: Literal["allow", "disallow", "disallow_explicit"]) -> Iterator[None]:
    """Allow or refuse transfers between host and devices, in this thread: "disallow" those that nobody asked for by name.

    Where the CPU is the device JAX sees those to the device alone; the ones back copy nothing.
    """
    with jax.transfer_guard_host_to_device(level), jax.transfer_guard_device_to_host(level):
        yield


def check_donated(state: TrainState) -> None:
    """Assert that a step has taken the buffers of the state it was given: JAX's warning does not come under `pmap`."""
    kept = [
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
        if not leaf.is_deleted()
    ]
    if kept:
        raise AssertionError(
            f"{len(kept)} buffers of the state were donated in vain, such as {kept[0]}: the new ones stand beside them"
        )


@functools.cache
def _mesh_of(devices: tuple[jax.Device, ...]) -> Mesh:
    return Mesh(np.array(devices), (AXIS,))


def _mesh(devices: Sequence[jax.Device]) -> Mesh:
    return _mesh_of(
        tuple(device for device in devices if device.process_index == jax.process_index())
    )


def connect(devices: Sequence[jax.Device]) -> None:
    """Let the devices of several processes meet in a sum of nothing: while they wait, not when the first of them is done compiling.

    On CPUs they have 30 s for it, and 30 minutes in every later collective.
    """
    nothing = np.zeros(_mesh(devices).size, np.float32)
    jax.block_until_ready(
        jax.pmap(lambda x: lax.psum(x, AXIS), axis_name=AXIS, out_axes=None, devices=devices)(
            nothing
        )
    )


def make_train_step(
    model: InceptionBN,
    optimizer: optax.GradientTransformation,
    devices: Sequence[jax.Device],
    accumulate_steps: int = 1,
    reduce_dtype: str = "float32",
) -> Callable[[TrainState, DeviceBatch], TrainState]:
    """Compile, at its first call, a step that updates the state in place (its buffers are donated).

    Args:
        model: the network.
        optimizer: makes updates of gradients.
        devices: to run on.
        accumulate_steps: micro-batches into which each device divides its part of a batch.
        reduce_dtype: in which gradients travel between the devices.
    """
    step = functools.partial(
        train_step,
        model=model,
        optimizer=optimizer,
        accumulate_steps=accumulate_steps,
        reduce_dtype=reduce_dtype,
    )
    return jax.pmap(
        step, axis_name=AXIS, in_axes=(None, 0), out_axes=None, devices=devices, donate_argnums=(0,)
    )


def make_eval_step(
    model: InceptionBN, devices: Sequence[jax.Device], columns: Bool[np.ndarray, " K"] | None = None
) -> Callable[[Any, DeviceBatch], Sums]:
    """Compile, at its first call, a function of (variables, batch) that returns the sums over all devices.

    Args:
        model: the network.
        devices: to run on.
        columns: the classes among which to rank; all by default.
    """
    step = functools.partial(eval_step, model=model, columns=columns)
    return jax.pmap(step, axis_name=AXIS, in_axes=(None, 0), out_axes=None, devices=devices)


def make_subset_eval_step(
    model: InceptionBN, devices: Sequence[jax.Device], columns: Bool[np.ndarray, " K"]
) -> Callable[[Any, DeviceBatch], tuple[Sums, Sums]]:
    """Compile, at its first call, a function of (variables, batch) that returns two sums over all
    devices: images ranked among all classes, and among some.

    Args:
        model: the network.
        devices: to run on.
        columns: the classes among which to rank for the second sums.
    """

    def step(variables: Any, batch: DeviceBatch) -> tuple[Sums, Sums]:
        logits: Any = model.apply(variables, prepare(batch.images, batch.mirror), train=False)

        def count(logits: Float[Array, "b K"]) -> Sums:
            losses = optax.softmax_cross_entropy_with_integer_labels(
                logits, jnp.maximum(batch.labels, 0)
            )
            return Sums.of(losses, logits, batch.labels, batch.weights)

        return lax.psum((count(logits), count(jnp.where(columns, logits, -jnp.inf))), AXIS)

    return jax.pmap(step, axis_name=AXIS, in_axes=(None, 0), out_axes=None, devices=devices)


def make_answer_step(
    model: InceptionBN, devices: Sequence[jax.Device], flip: bool = False
) -> Callable[[Any, DeviceBatch], Any]:
    """Compile, at its first call, a function of (variables, batch) that returns log-probabilities of all classes, float32 [D, b, K]; of
    several processes each gets those of its own devices.

    Args:
        model: the network.
        devices: to run on.
        flip: average the probabilities of each picture and its mirror image.
    """

    def step(variables: Any, batch: DeviceBatch) -> Float[Array, "b K"]:
        def answer(flipped: Bool[Array, ""]) -> Float[Array, "b K"]:
            logits: Any = model.apply(
                variables, prepare(batch.images, batch.mirror ^ flipped), train=False
            )
            return jax.nn.log_softmax(logits)

        if not flip:
            return answer(jnp.array(False))
        both = lax.map(
            answer, jnp.array([False, True])
        )  # one after the other: the network is compiled once, and needs its memory once
        return jnp.logaddexp(both[0], both[1]) - np.float32(np.log(2))

    return jax.pmap(step, axis_name=AXIS, in_axes=(None, 0), out_axes=0, devices=devices)


def make_statistics_step(
    model: InceptionBN, devices: Sequence[jax.Device]
) -> Callable[[Any, DeviceBatch], Any]:
    """Compile, at its first call, a function of (variables, batch) that returns each device's batch statistics, with an axis D in front:
    those of all devices, in every process."""
    momentless = model.clone(
        bn_momentum=0.0
    )  # so that the new moving statistics are the batch's own

    def step(variables: Any, batch: DeviceBatch) -> Any:
        _, updated = momentless.apply(
            variables, prepare(batch.images, batch.mirror), train=True, mutable=["batch_stats"]
        )
        return lax.all_gather(updated["batch_stats"], AXIS)

    return jax.pmap(step, axis_name=AXIS, in_axes=(None, 0), out_axes=None, devices=devices)


def train_step(
    state: TrainState,
    batch: DeviceBatch,
    *,
    model: InceptionBN,
    optimizer: optax.GradientTransformation,
    accumulate_steps: int = 1,
    reduce_dtype: str = "float32",
) -> TrainState:
    """Do one update with one device's part of the batch.

    Gradients are averaged over the devices, moving statistics too: since those are linear in the batch statistics, the average at every
    step is what MXNet got by averaging them at the end of an epoch. BatchNorm itself normalises on each device alone, unless the model
    names the axis.

    With `accumulate_steps` the part is divided into so many micro-batches of neighbours, done one after the other in the memory of one.
    Each is normalised by itself and moves the statistics; gradients are added up in float32 and sent once.
    """
    # Marked as each device's own, or else autodiff would sum the gradients by itself where JAX checks what devices share (`shard_map`).
    params, batch_stats = lax.pcast((state.params, state.batch_stats), AXIS, to="varying")

    def micro_step(batch_stats: Any, part: DeviceBatch) -> tuple[Any, tuple[Any, Sums]]:
        images = prepare(part.images, part.mirror)

        def loss_of(params: Any) -> tuple[Float[Array, ""], tuple[Any, Sums]]:
            logits, updated = model.apply(
                {"params": params, "batch_stats": batch_stats},
                images,
                train=True,
                mutable=["batch_stats"],
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(
                logits, part.labels
            )  # float32, as the logits
            return jnp.mean(losses), (
                updated["batch_stats"],
                Sums.of(losses, logits, part.labels, part.weights),
            )

        gradients, (updated_stats, sums) = jax.grad(loss_of, has_aux=True)(params)
        return updated_stats, (gradients, sums)

    def add_micro_step(
        done: tuple[Any, tuple[Any, Sums]], part: DeviceBatch
    ) -> tuple[tuple[Any, tuple[Any, Sums]], None]:
        batch_stats, added = done
        batch_stats, more = micro_step(batch_stats, part)
        return (batch_stats, jax.tree.map(jnp.add, added, more)), None

    if accumulate_steps == 1:
        batch_stats, (gradients, sums) = micro_step(batch_stats, batch)
    else:
        parts = jax.tree.map(lambda x: jnp.reshape(x, (accumulate_steps, -1, *x.shape[1:])), batch)
        nothing = lax.pcast(
            (jax.tree.map(jnp.zeros_like, state.params), Sums.zero()), AXIS, to="varying"
        )
        (batch_stats, (gradients, sums)), _ = lax.scan(
            add_micro_step, (batch_stats, nothing), parts
        )
    gradients, batch_stats, sums = _reduce(gradients, batch_stats, sums, reduce_dtype)
    gradients = jax.tree.map(lambda g: g / (lax.axis_size(AXIS) * accumulate_steps), gradients)
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    return TrainState(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        batch_stats=jax.tree.map(lambda x: x / lax.axis_size(AXIS), batch_stats),
        opt_state=opt_state,
        sums=state.sums.add(sums),
    )


def _reduce(gradients: Any, batch_stats: Any, sums: Sums, dtype: str) -> tuple[Any, Any, Sums]:
    """Sum over the devices; gradients travel as `dtype` and come back as float32.

    XLA has one all-reduce on its way at a time. Left alone it sent the 16 bytes of hits and count behind the whole backward pass, and
    gradients after it (`benchmarks/results/2026-11-22-memory.md`). So all else waits for the kernel of the head: it is known first, and
    is two thirds of all.
    """
    gradients = jax.tree.map(lambda g: g.astype(dtype), gradients)
    kernel = lax.psum(gradients["fc1"]["kernel"], AXIS)
    others: Any = ({**gradients, "fc1": {"bias": gradients["fc1"]["bias"]}}, batch_stats, sums)
    if lax.axis_size(AXIS) > 1:
        others, _ = lax.optimization_barrier((others, kernel))
    gradients, batch_stats, sums = lax.psum(others, AXIS)
    gradients = {**gradients, "fc1": {"bias": gradients["fc1"]["bias"], "kernel": kernel}}
    return jax.tree.map(lambda g: g.astype(jnp.float32), gradients), batch_stats, sums


def eval_step(
    variables: Any,
    batch: DeviceBatch,
    *,
    model: InceptionBN,
    columns: Bool[np.ndarray, " K"] | None = None,
) -> Sums:
    """Sum loss and hits over one device's part of the batch, then over the devices; pictures of weight 0 do not count."""
    logits: Any = model.apply(variables, prepare(batch.images, batch.mirror), train=False)
    if columns is not None:
        logits = jnp.where(columns, logits, -jnp.inf)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
    return lax.psum(Sums.of(losses, logits, batch.labels, batch.weights), AXIS)


def prepare(images: UInt8[Array, "b S S 3"], mirror: Bool[Array, " b"]) -> Float[Array, "b S S 3"]:
    """Mirror the flagged pictures and subtract the mean: a quarter of float32's bytes have come from the host."""
    images = jnp.where(mirror[:, None, None, None], images[:, :, ::-1], images)
    return images.astype(jnp.float32) - MEAN
