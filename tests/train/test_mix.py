"""Mixup and CutMix: what they do to images and targets, on any division of a batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from i21k.train.augment import Mix, make_augmentation, step_key
from i21k.train.losses import Several, SoftmaxLoss
from i21k.train.metrics import Totals
from i21k.train.recipe import AugmentRecipe
from tests.helpers.stepping import Frozen, distance, do_step, make_batch, make_small_network

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3)).astype(np.uint8)
LABELS = np.arange(4, dtype=np.int32)


def mix(how: Mix, step: int) -> tuple[np.ndarray, Several]:
    mixed, targets = how(step_key(0, step, 0), jnp.array(IMAGES), jnp.array(LABELS))
    return np.asarray(mixed), jax.tree.map(np.asarray, targets)


def check_targets(targets: Several) -> float:
    """Return the share of an image itself; the rest is of the image before it."""
    share = float(targets.weights[0, 0])
    assert (targets.labels == np.stack([LABELS, np.roll(LABELS, 1)], axis=1)).all()
    np.testing.assert_allclose(targets.weights, [[share, 1 - share]] * 4, atol=1e-6)
    return share


def test_mixup_blends_images_by_the_weights_of_their_labels():
    shares = []
    for step in range(200):
        mixed, targets = mix(Mix(mixup=0.4), step)
        share = check_targets(targets)
        expected = share * IMAGES + (1 - share) * np.roll(IMAGES, 1, axis=0).astype(np.float64)
        np.testing.assert_allclose(mixed, expected, atol=1e-3)
        shares.append(share)
    # Beta(a, a) has the mean 1/2 and the variance 1 / (4 (2 a + 1)).
    assert np.mean(shares) == pytest.approx(0.5, abs=0.08)
    assert np.var(shares) == pytest.approx(1 / (4 * 1.8), rel=0.15)


def test_cutmix_pastes_a_box_and_weighs_labels_by_its_area():
    areas = []
    for step in range(200):
        mixed, targets = mix(Mix(cutmix=1.0), step)
        share = check_targets(targets)
        is_own, is_other = (np.isclose(mixed, x) for x in (IMAGES, np.roll(IMAGES, 1, axis=0)))
        assert (is_own | is_other).all()
        pasted = ~is_own.all(axis=(0, 3))  # [16, 16]: pixels of the other image
        rows, columns = np.flatnonzero(pasted.any(axis=1)), np.flatnonzero(pasted.any(axis=0))
        assert pasted.sum() == len(rows) * len(columns)  # one box
        assert share == pytest.approx(1 - pasted.mean(), abs=1e-6)
        areas.append(pasted.mean())
    assert 0.2 < np.mean(areas) < 0.4 and max(areas) > 0.7  # uniform, and cut off at the border


def test_with_both_each_is_used_for_half_of_the_batches():
    boxes = 0
    for step in range(100):
        mixed, _ = mix(Mix(mixup=1.0, cutmix=1.0), step)
        boxes += bool(((mixed == IMAGES) | (mixed == np.roll(IMAGES, 1, axis=0))).all())
    assert 35 <= boxes <= 65


def test_nothing_is_mixed_by_default():
    assert make_augmentation(AugmentRecipe()) is None
    assert make_augmentation(AugmentRecipe(cutmix=0.5)) == Mix(0.0, 0.5)


@pytest.mark.usefixtures("few_blocks")
@pytest.mark.parametrize(("num_devices", "accumulate_steps"), [(1, 2), (2, 2)])
def test_micro_batches_are_mixed_as_on_as_many_devices(num_devices, accumulate_steps):
    network, batch = make_small_network(Frozen), make_batch(8)
    options = {"augment": Mix(0.2, 1.0), "seed": 3}
    wanted = do_step(network, batch, num_devices * accumulate_steps, **options)
    got = do_step(network, batch, num_devices, accumulate_steps=accumulate_steps, **options)
    assert distance(got.opt_state, wanted.opt_state) < 1e-5
    # Different parts of a batch are mixed in different ways.
    whole = do_step(network, batch, 1, **options)
    assert distance(whole.opt_state, wanted.opt_state) > 1e-3


@pytest.mark.slow
@pytest.mark.usefixtures("few_blocks")
def test_the_gradient_and_the_accuracy_of_a_mixed_batch():
    network, batch = make_small_network(Frozen), make_batch(4)
    state = do_step(network, batch, 1, augment=Mix(mixup=1.0), seed=3)
    plain = do_step(network, batch, 1)

    def loss_of(params):
        key = jax.random.split(step_key(3, 0, 0))[0]
        variables = {"params": params, "batch_stats": plain.batch_stats}
        flags = jnp.asarray(batch.mirror)[:, None, None, None]
        images = jnp.where(flags, jnp.asarray(batch.images)[:, :, ::-1], jnp.asarray(batch.images))
        mixed, targets = Mix(mixup=1.0)(key, images, jnp.asarray(batch.labels))
        logits = network.apply(variables, network.prepare(mixed)).logits
        hits = jnp.sum(jnp.argmax(logits, axis=1) == batch.labels)
        return jnp.mean(SoftmaxLoss().per_image(logits, targets)), hits

    from tests.helpers.stepping import initial

    gradient, hits = jax.grad(loss_of, has_aux=True)(initial(network).params)
    assert distance(state.opt_state, gradient) < 1e-5
    assert Totals.fetch(state.sums).hits[0] == hits  # the true label, not the heavier one
