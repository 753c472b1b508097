import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from i21k.data.loader import Batch
from i21k.model.inception_bn import InceptionBN
from i21k.train import steps
from i21k.train.config import parse
from i21k.train.metrics import Sums, Totals
from i21k.train.optimizer import make_optimizer, make_schedule

from .conftest import picture

pytestmark = pytest.mark.usefixtures("few_blocks")


def make_batch(size: int, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, size).astype(np.int32)
    images = np.stack([picture(y, i, 32, 32) for i, y in enumerate(labels.tolist())])
    return Batch(images, labels, rng.random(size) < 0.5, np.ones(size, np.float32))


def run_steps(recipe, num_devices: int, batches, *, sync_bn: bool):
    recipe.model.sync_bn = sync_bn
    cfg = parse(recipe)
    model = steps.make_model(cfg.model, 4)
    optimizer = make_optimizer(cfg.optimizer, make_schedule(cfg.optimizer, 5, 10), fixed_gamma=True)
    devices = jax.local_devices()[:num_devices]
    first = steps.put_state(steps.init_state(model, optimizer, 32, "he_normal", 0), devices)
    step = steps.make_train_step(model, optimizer, devices)
    state = first
    for batch in batches:
        state = step(state, steps.put_batch(batch, devices))
    return first, state


def norm(tree) -> float:
    return float(np.sqrt(sum(np.sum(np.square(leaf, dtype=np.float64)) for leaf in jax.tree.leaves(tree))))


def assert_close(a, b, tolerance: float):
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=tolerance, atol=tolerance, err_msg=jax.tree_util.keystr(path))


def test_four_devices_with_synchronised_batchnorm_do_the_step_of_one(recipe):
    batch = make_batch(8)
    _, one = run_steps(recipe, 1, [batch], sync_bn=False)
    first, four = run_steps(recipe, 4, [batch], sync_bn=True)
    del first
    start = steps.init_state(steps.make_model(parse(recipe).model, 4), optax.sgd(0.1), 32, "he_normal", 0)
    # Rounding moves single pictures across a ReLU's or a max pool's kink, so the whole update is compared, not each number.
    update = jax.tree.map(lambda a, b: np.asarray(a) - b, one.params, start.params)
    difference = jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), one.params, four.params)
    assert norm(difference) < 0.01 * norm(update)
    assert_close(one.batch_stats, four.batch_stats, 1e-4)
    assert Totals.fetch(one.sums).hits == Totals.fetch(four.sums).hits
    assert Totals.fetch(one.sums).loss == pytest.approx(Totals.fetch(four.sums).loss, rel=1e-5)


def test_each_device_normalises_by_itself_and_statistics_are_averaged(recipe):
    batch = make_batch(8)
    cfg = parse(recipe)
    model = steps.make_model(cfg.model, 4)
    state = steps.init_state(model, optax.sgd(0.1), 32, "he_normal", 0)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    forward = jax.jit(lambda v, x, m: model.apply(v, steps.prepare(x, m), train=True, mutable=["batch_stats"])[1]["batch_stats"])
    parts = [forward(variables, batch.images[2 * d : 2 * d + 2], batch.mirror[2 * d : 2 * d + 2]) for d in range(4)]
    averaged = jax.tree.map(lambda *stats: sum(map(np.asarray, stats)) / 4, *parts)
    _, four = run_steps(recipe, 4, [batch], sync_bn=False)
    assert_close(four.batch_stats, averaged, 1e-5)


def test_replicas_stay_identical_and_donated_buffers_are_gone(recipe):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # "Some donated buffers were not usable"
        first, state = run_steps(recipe, 4, [make_batch(8)] * 20, sync_bn=False)
    assert Totals.fetch(state.sums).count == 160
    assert Totals.fetch(state.sums).means()["loss"] < 0.8 * np.log(4)  # a batch seen so often is learnt
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        copies = [np.asarray(shard.data) for shard in leaf.addressable_shards]
        assert len(copies) == 4
        assert all(np.array_equal(copies[0], other) for other in copies[1:]), jax.tree_util.keystr(path)
    donated = jax.tree_util.tree_leaves_with_path(dataclasses.replace(first, sums=None))
    kept = [jax.tree_util.keystr(path) for path, leaf in donated if not leaf.is_deleted()]
    assert kept == []


def test_gammas_that_are_held_at_1_stay_there(recipe):
    recipe.optimizer.weight_decay = 0.1
    first, state = run_steps(recipe, 4, [make_batch(8)], sync_bn=False)
    del first
    for layer, params in state.params.items():
        if "gamma" in params:
            assert (np.asarray(params["gamma"]) == 1).all(), layer
    assert not (np.asarray(state.params["fc1"]["bias"]) == 0).all()


def test_the_device_mirrors_the_flagged_pictures_and_subtracts_the_mean():
    images = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    out = np.asarray(steps.prepare(jnp.asarray(images), jnp.array([False, True])))
    assert (out[0] == images[0].astype(np.float32) - 117).all()
    assert (out[1] == images[1, :, ::-1].astype(np.float32) - 117).all()


def test_initial_weights():
    model = InceptionBN(num_classes=10, variant="standard", width=0.25)
    a, b = (steps.init_state(model, optax.sgd(0.1), 64, "uniform", seed) for seed in (0, 1))
    kernel = a.params["conv_conv2"]["kernel"]
    assert np.abs(kernel).max() <= 0.01 and kernel.std() == pytest.approx(0.01 / 3**0.5, rel=0.02)
    assert not np.array_equal(kernel, b.params["conv_conv2"]["kernel"])
    he = steps.init_state(model, optax.sgd(0.1), 64, "he_normal", 0).params["conv_conv2"]["kernel"]
    assert he.std() == pytest.approx((2 / (9 * 16)) ** 0.5, rel=0.05)
    assert (a.params["bn_conv1"]["gamma"] == 1).all() and (a.batch_stats["bn_conv1"]["moving_mean"] == 0).all()


def test_sums_count_hits_by_rank_and_never_a_nan():
    logits = jnp.array(
        [[3.0, 2, 1, 0, -1, -2, -3], [3, 2, 1, 0, -1, -2, -3], [3, 2, 1, 0, -1, -2, -3], [jnp.nan] * 7]
    )  # the true class is 1st, 5th, 7th
    labels = jnp.array([0, 4, 6, 0])
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    totals = Totals.fetch(Sums.of(losses, logits, labels, jnp.array([1.0, 1, 1, 1])))
    assert (totals.hits, totals.count) == ((1, 2, 3), 4)
    halves = [Totals.fetch(Sums.of(losses[i], logits[i], labels[i], jnp.ones(2))) for i in (slice(0, 2), slice(2, 4))]
    assert (halves[0] + halves[1]).hits == totals.hits
    padded = Totals.fetch(Sums.of(losses, logits, labels, jnp.array([1.0, 1, 0, 0])))
    assert (padded.hits, padded.count) == ((1, 2, 2), 2) and padded.loss == pytest.approx(halves[0].loss)


def test_of_equal_logits_the_first_comes_first():
    labels = jnp.arange(7)
    sums = Sums.of(jnp.ones(7), jnp.zeros((7, 7)), labels, jnp.ones(7))
    assert Totals.fetch(sums).hits == (1, 5, 7)


def test_the_sum_of_many_losses_keeps_its_digits():
    one = Sums.of(jnp.full(64, 6.1), jnp.zeros((64, 5)), jnp.zeros(64, jnp.int32), jnp.ones(64))
    total = jax.jit(lambda: jax.lax.fori_loop(0, 200_000, lambda _, sums: sums.add(one), Sums.zero()))()
    assert Totals.fetch(total).means()["loss"] == pytest.approx(float(one.loss) / 64, rel=1e-7)
