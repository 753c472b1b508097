"""One update from devices and micro-batches: every part counts in the sum."""

import functools
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from i21k.data.load.loader import Batch
from i21k.models.inception_bn import WIDTHS
from i21k.models.network import Network
from i21k.train import steps
from i21k.train.augment import mirror
from i21k.train.devices import put_batch, put_state
from i21k.train.metrics import Sums, Totals
from i21k.train.state import AXIS, DeviceBatch, TrainState
from tests.helpers.stepping import (
    KEEP_GRADIENT,
    Frozen,
    compiled,
    distance,
    do_step,
    initial,
    make_batch,
    make_small_network,
)

ROUNDING = 1e-5  # of float32, added up in another order; seen: 1e-7 to 2e-6


@pytest.fixture(scope="module", autouse=True)
def one_block() -> Iterator[None]:
    """Reduce the standard network to the stem and one block: the sums do not depend on them."""
    standard = WIDTHS["standard"]
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setitem(
            WIDTHS, "standard", standard._replace(blocks={"3c": standard.blocks["3c"]})
        )
        yield


@pytest.fixture(scope="module")
def batch() -> Batch:
    return make_batch(8)


@pytest.fixture(scope="module")
def trained(one_block, batch) -> TrainState:
    """Return a state with moving statistics of the images."""
    network = make_small_network()
    return initial(network).replace(batch_stats=do_step(network, batch, 1).batch_stats)


@pytest.fixture(scope="module")
def whole(trained, batch) -> tuple[Any, Totals]:
    """Return gradient and sums of a batch with BatchNorm frozen, without a step."""

    def loss_of(params):
        variables = {"params": params, "batch_stats": trained.batch_stats}
        network = make_small_network()
        images = network.prepare(mirror(jnp.asarray(batch.images), jnp.asarray(batch.mirror)))
        logits = network.apply(variables, images).logits
        labels, weights = jnp.asarray(batch.labels), jnp.asarray(batch.weights)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.mean(losses), Sums.of(losses, logits, labels, weights)

    gradient, sums = jax.jit(jax.grad(loss_of, has_aux=True))(trained.params)
    return gradient, Totals.fetch(sums)


def part(batch: Batch, some: slice | list[int]) -> Batch:
    return Batch(*(x[some] for x in batch[:4]))  # no image has several labels


def assert_same_sums(got: Sums, wanted: Totals) -> None:
    totals = Totals.fetch(got)
    assert (totals.hits, totals.count) == (wanted.hits, wanted.count)
    assert totals.loss == pytest.approx(wanted.loss, rel=1e-6)


def assert_same_update(got: TrainState, wanted: TrainState) -> None:
    assert distance(got.opt_state, wanted.opt_state) < ROUNDING  # the gradient
    assert distance(got.params, wanted.params) < ROUNDING
    assert_same_sums(got.sums, Totals.fetch(wanted.sums))
    assert got.step == wanted.step


@pytest.mark.parametrize(("num_devices", "accumulate_steps"), [(4, 1), (1, 4), (2, 2)])
def test_the_gradient_is_that_of_the_whole_batch_if_batchnorm_is_frozen(
    trained, batch, whole, num_devices, accumulate_steps
):
    state = do_step(
        make_small_network(Frozen), batch, num_devices, trained, accumulate_steps=accumulate_steps
    )
    gradient, totals = whole
    assert distance(state.opt_state, gradient) < ROUNDING
    assert_same_sums(state.sums, totals)
    assert distance(state.batch_stats, trained.batch_stats) == 0


@pytest.mark.parametrize(
    "fields", [{}, {"dtype": jnp.bfloat16, "remat": "block"}], ids=["float32", "bfloat16, block"]
)
def test_micro_batches_on_one_device_do_the_update_of_as_many_devices(batch, fields):
    network = make_small_network(**fields)
    state = do_step(network, batch, 1, accumulate_steps=4)
    assert_same_update(state, do_step(network, batch, 4))
    assert state.step == 1  # updates, not micro-batches


@pytest.mark.parametrize("num_devices", [1, 2])
def test_micro_batches_move_the_statistics_as_devices_do(batch, num_devices):
    network = make_small_network()
    accumulated = do_step(network, batch, num_devices, accumulate_steps=4 // num_devices)
    assert distance(accumulated.batch_stats, do_step(network, batch, 4).batch_stats) < ROUNDING


def test_accumulating_takes_the_memory_of_a_micro_batch():
    def temporary_bytes(accumulate_steps: int) -> int:
        devices, network = jax.local_devices()[:1], make_small_network()
        state, batch = (
            put_state(initial(network), devices),
            put_batch(make_batch(32), devices),
        )
        return (
            compiled(network, 1, accumulate_steps=accumulate_steps)
            .lower(state, batch)
            .compile()
            .memory_analysis()
            .temp_size_in_bytes
        )

    assert temporary_bytes(8) < 0.25 * temporary_bytes(1)


def test_statistics_are_what_mxnet_averages_at_the_end_of_an_epoch():
    """There every device kept moving averages of its own, beside parameters that were the same on
    all."""
    network, batches = make_small_network(), [make_batch(8, seed) for seed in range(3)]
    together, alone = initial(network), [initial(network) for _ in range(4)]
    for batch in batches:
        alone = [
            do_step(
                network, part(batch, slice(2 * d, 2 * d + 2)), 1, a.replace(params=together.params)
            )
            for d, a in enumerate(alone)
        ]
        together = do_step(network, batch, 4, together)
    averaged = jax.tree.map(
        lambda *parts: sum(np.asarray(x, np.float64) for x in parts) / 4,
        *(a.batch_stats for a in alone),
    )
    assert distance(together.batch_stats, averaged) < ROUNDING
    assert distance(alone[0].batch_stats, averaged) > 0.01


@pytest.mark.parametrize("accumulate_steps", [1, 2])
def test_synchronised_batchnorm_is_that_of_the_large_batch(batch, accumulate_steps):
    synchronised = do_step(
        make_small_network(bn_axis_name=AXIS), batch, 2, accumulate_steps=accumulate_steps
    )
    # A micro-batch is normalised over the devices: images 0 and 1 together with 4 and 5, the
    # first two of the other device.
    order = [0, 1, 4, 5, 2, 3, 6, 7] if accumulate_steps == 2 else list(range(8))
    one = do_step(make_small_network(), part(batch, order), 1, accumulate_steps=accumulate_steps)
    assert_same_update(synchronised, one)
    assert distance(synchronised.batch_stats, one.batch_stats) < ROUNDING
    apart = do_step(make_small_network(), batch, 2, accumulate_steps=accumulate_steps)
    assert distance(apart.batch_stats, one.batch_stats) > 0.01
    assert distance(apart.opt_state, one.opt_state) > 0.01


# -------------------------------------------------------------------- a twin under shard_map, which


def checked(
    function: Callable[[Any, DeviceBatch], Any],
) -> Callable[[Any, DeviceBatch], Any]:
    """The step under `shard_map`, which refuses outputs that may differ between devices."""
    mesh = Mesh(np.array(jax.local_devices()), (AXIS,))
    specs = (PartitionSpec(), PartitionSpec(AXIS))

    def of_one_device(replicated: Any, batch: DeviceBatch) -> Any:
        return function(replicated, jax.tree.map(lambda x: x[0], batch))

    return jax.jit(
        jax.shard_map(
            of_one_device, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(), check_vma=True
        )
    )


def twin(network: Network, **how: Any) -> Callable[[Any, DeviceBatch], Any]:
    return checked(
        functools.partial(steps.train_step, network=network, optimizer=KEEP_GRADIENT, **how)
    )


TWINS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "sync_bn, conv": ({"bn_axis_name": AXIS, "remat": "conv"}, {}),
    "bfloat16, block, accumulated, reduced in bfloat16": (
        {"dtype": jnp.bfloat16, "remat": "block"},
        {"accumulate_steps": 2, "reduce_dtype": "bfloat16"},
    ),
}


@pytest.mark.parametrize("name", TWINS)
def test_the_step_passes_the_checks_of_shard_map_and_does_the_same(batch, name):
    fields, how = TWINS[name]
    network = make_small_network(**fields)
    got = jax.device_get(
        twin(network, **how)(initial(network), put_batch(batch, jax.local_devices()))
    )
    wanted = do_step(network, batch, 4, **how)
    assert_same_update(got, wanted)
    assert distance(got.batch_stats, wanted.batch_stats) < ROUNDING


@pytest.mark.parametrize("accumulate_steps", [1, 2])
@pytest.mark.parametrize("forgotten", ["gradients", "sums", "statistics"])
def test_a_forgotten_reduction_is_refused(batch, monkeypatch, forgotten, accumulate_steps):
    psum, left_out = lax.psum, []

    def forgetting(tree, axis):
        def one(path, before, after):
            name = jax.tree_util.keystr(path)
            kind = (
                "statistics"
                if "moving_" in name
                else "sums"
                if re.search(r"\.(loss|hits|count)", name)
                else "gradients"
            )
            if kind != forgotten:
                return after
            left_out.append(name)
            return before

        return jax.tree_util.tree_map_with_path(one, tree, psum(tree, axis))

    monkeypatch.setattr(lax, "psum", forgetting)
    network = make_small_network()
    step = twin(network, accumulate_steps=accumulate_steps)
    with pytest.raises(
        ValueError,
        match=r"out_specs .*which implies that the corresponding output value is replicated",
    ):
        jax.eval_shape(step, initial(network), put_batch(batch, jax.local_devices()))
    assert left_out


def test_a_forgotten_reduction_of_an_evaluation_is_refused(batch, monkeypatch):
    network = make_small_network()
    state = initial(network)
    arguments = (
        {"params": state.params, "batch_stats": state.batch_stats},
        put_batch(batch, jax.local_devices()),
    )
    jax.eval_shape(checked(functools.partial(steps.eval_step, network=network)), *arguments)
    monkeypatch.setattr(lax, "psum", lambda tree, axis: tree)
    with pytest.raises(
        ValueError,
        match=r"out_specs .*which implies that the corresponding output value is replicated",
    ):
        jax.eval_shape(checked(functools.partial(steps.eval_step, network=network)), *arguments)


# -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulate_steps", [1, 2])
@pytest.mark.parametrize("reduce_dtype", ["float32", "bfloat16"])
def test_gradients_travel_once_an_update_and_in_the_type_asked_for(
    batch, reduce_dtype, accumulate_steps
):
    """Look at the program for XLA. On a CPU XLA reduces bfloat16 in float32."""
    devices, network = jax.local_devices(), make_small_network()
    state = initial(network)
    num_gradients, num_statistics = (
        len(jax.tree.leaves(tree)) for tree in (state.params, state.batch_stats)
    )
    step = compiled(network, 4, accumulate_steps=accumulate_steps, reduce_dtype=reduce_dtype)
    text = step.lower(put_state(state, devices), put_batch(batch, devices)).as_text()
    types = re.findall(r'"stablehlo.all_reduce".*?\}\) : \(tensor<(?:\d+x)*(\w+)>', text, re.DOTALL)
    short = {"float32": "f32", "bfloat16": "bf16"}[reduce_dtype]
    assert sorted(types) == sorted(
        [short] * num_gradients + ["f32"] * (num_statistics + 1) + ["i32"] * 2
    )  # loss; hits and count


def test_reducing_in_bfloat16_costs_its_rounding_and_no_more(batch):
    exact, rounded = (
        do_step(make_small_network(), batch, 4, reduce_dtype=dtype)
        for dtype in ("float32", "bfloat16")
    )
    assert (
        1e-4 < distance(rounded.opt_state, exact.opt_state) < 2**-7
    )  # each part is rounded, and each of up to three sums: 2^-9 a time
    assert distance(rounded.batch_stats, exact.batch_stats) == 0
    assert_same_sums(rounded.sums, Totals.fetch(exact.sums))
    assert {x.dtype for x in jax.tree.leaves(rounded.opt_state)} == {np.dtype(np.float32)}
