import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from i21k.models.inception_bn import InceptionBN
from i21k.models.inception_network import InceptionNetwork
from i21k.train import steps
from i21k.train.augment import mirror
from i21k.train.devices import check_donated, put_batch, put_state
from i21k.train.metrics import Sums, Totals
from i21k.train.optimizer import make_optimizer, make_schedule
from i21k.train.recipe import parse
from i21k.train.state import AXIS, init_state, make_network
from tests.helpers.stepping import make_batch

pytestmark = pytest.mark.usefixtures("few_blocks")


def run_steps(recipe, num_devices: int, batches):
    cfg = parse(recipe)
    network = make_network(cfg.model, 4)
    optimizer = make_optimizer(cfg.optimizer, make_schedule(cfg.optimizer, 5, 10), network)
    devices = jax.local_devices()[:num_devices]
    first = put_state(jax.device_get(init_state(network, optimizer, 32, "he_normal", 0)), devices)
    step = steps.make_train_step(network, optimizer, devices)
    state = first
    for batch in batches:
        state = step(state, put_batch(batch, devices))
    return first, state


def test_replicas_stay_identical_and_donated_buffers_are_gone(recipe):
    first, state = run_steps(recipe, 4, [make_batch(8)] * 20)
    assert Totals.fetch(state.sums).count == 160
    assert Totals.fetch(state.sums).means()["loss"] < 0.8 * np.log(
        4
    )  # a batch seen so often is learnt
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        copies = [np.asarray(shard.data) for shard in leaf.addressable_shards]
        assert len(copies) == 4
        assert all(np.array_equal(copies[0], other) for other in copies[1:]), jax.tree_util.keystr(
            path
        )
    check_donated(first)


def test_the_sums_can_be_donated_after_they_were_fetched(recipe):
    _, state = run_steps(recipe, 2, [make_batch(8)])
    before = Totals.fetch(state.sums)
    add = jax.pmap(
        lambda sums, ones: jax.tree.map(lambda x: x + ones.astype(x.dtype), sums),
        in_axes=(None, 0),
        out_axes=None,
        devices=jax.local_devices()[:2],
        donate_argnums=0,
    )
    after = Totals.fetch(add(state.sums, np.ones(2)))
    check_donated(state.sums)
    assert (before.count, after.count) == (8, 9)


def test_gammas_that_are_held_at_1_stay_there(recipe):
    recipe.optimizer.weight_decay = 0.1
    first, state = run_steps(recipe, 4, [make_batch(8)])
    del first
    for layer, params in state.params.items():
        if "gamma" in params:
            assert (np.asarray(params["gamma"]) == 1).all(), layer
    assert not (np.asarray(state.params["fc1"]["bias"]) == 0).all()


def test_the_recipe_chooses_whose_statistics_normalise(recipe):
    assert make_network(parse(recipe).model, 4).module.bn_axis_name is None
    recipe.model.sync_bn = True
    assert make_network(parse(recipe).model, 4).module.bn_axis_name == AXIS


def test_the_device_mirrors_the_flagged_images():
    images = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    out = np.asarray(mirror(jnp.asarray(images), jnp.array([False, True])))
    assert out.dtype == np.uint8
    assert (out[0] == images[0]).all() and (out[1] == images[1, :, ::-1]).all()


def test_initial_weights():
    network = InceptionNetwork(InceptionBN(num_classes=10, variant="standard", width=0.25))
    a, b = (init_state(network, optax.sgd(0.1), 64, "uniform", seed) for seed in (0, 1))
    kernel = a.params["conv_conv2"]["kernel"]
    assert np.abs(kernel).max() <= 0.01 and kernel.std() == pytest.approx(0.01 / 3**0.5, rel=0.02)
    assert not np.array_equal(kernel, b.params["conv_conv2"]["kernel"])
    he = init_state(network, optax.sgd(0.1), 64, "he_normal", 0).params["conv_conv2"]["kernel"]
    assert he.std() == pytest.approx((2 / (9 * 16)) ** 0.5, rel=0.05)
    assert (a.params["bn_conv1"]["gamma"] == 1).all() and (
        a.batch_stats["bn_conv1"]["moving_mean"] == 0
    ).all()


def test_sums_count_hits_by_rank_and_never_a_nan():
    logits = jnp.array(
        [
            [3.0, 2, 1, 0, -1, -2, -3],
            [3, 2, 1, 0, -1, -2, -3],
            [3, 2, 1, 0, -1, -2, -3],
            [jnp.nan] * 7,
        ]
    )  # the true class is 1st, 5th, 7th
    labels = jnp.array([0, 4, 6, 0])
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    totals = Totals.fetch(Sums.of(losses, logits, labels, jnp.array([1.0, 1, 1, 1])))
    assert (totals.hits, totals.count) == ((1, 2, 3), 4)
    halves = [
        Totals.fetch(Sums.of(losses[i], logits[i], labels[i], jnp.ones(2)))
        for i in (slice(0, 2), slice(2, 4))
    ]
    assert (halves[0] + halves[1]).hits == totals.hits
    padded = Totals.fetch(Sums.of(losses, logits, labels, jnp.array([1.0, 1, 0, 0])))
    assert (padded.hits, padded.count) == ((1, 2, 2), 2) and padded.loss == pytest.approx(
        halves[0].loss
    )


def test_of_equal_logits_the_first_comes_first():
    labels = jnp.arange(7)
    sums = Sums.of(jnp.ones(7), jnp.zeros((7, 7)), labels, jnp.ones(7))
    assert Totals.fetch(sums).hits == (1, 5, 7)


def test_the_sum_of_many_losses_keeps_its_digits():
    one = Sums.of(jnp.full(64, 6.1), jnp.zeros((64, 5)), jnp.zeros(64, jnp.int32), jnp.ones(64))
    total = jax.jit(
        lambda: jax.lax.fori_loop(0, 200_000, lambda _, sums: sums.add(one), Sums.zero())
    )()
    assert Totals.fetch(total).means()["loss"] == pytest.approx(float(one.loss) / 64, rel=1e-7)
