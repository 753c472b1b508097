import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from i21k.models.probabilities import log_probabilities
from i21k.train.augment import step_key
from i21k.train.losses import LOSSES, SoftmaxLoss, make_loss, with_others

LOGITS = jnp.array(np.random.default_rng(0).normal(0, 3, (6, 5)), jnp.float32)
LABELS = jnp.array([0, 1, 2, 3, 4, 0])
ONE_HOT = jax.nn.one_hot(LABELS, 5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_losses_are_those_of_their_definitions(smoothing):
    targets = np.asarray((1 - smoothing) * ONE_HOT + smoothing / 5, np.float64)
    logits = np.asarray(LOGITS, np.float64)
    softmax = -(targets * (logits - np.log(np.exp(logits).sum(1, keepdims=True)))).sum(1)
    p = 1 / (1 + np.exp(-logits))
    sigmoid = -(targets * np.log(p) + (1 - targets) * np.log(1 - p)).sum(1)
    for name, expected in (("softmax", softmax), ("sigmoid", sigmoid)):
        loss = make_loss(name, smoothing)
        np.testing.assert_allclose(loss.per_image(LOGITS, LABELS), expected, rtol=1e-5)
        np.testing.assert_allclose(loss.per_image(LOGITS, ONE_HOT), expected, rtol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_labels_and_one_hot_targets_have_the_same_gradient(name):
    loss = make_loss(name, 0.1)
    hard, soft = (
        jax.grad(lambda x, t=targets: loss.per_image(x, t).sum())(LOGITS)
        for targets in (LABELS, ONE_HOT)
    )
    np.testing.assert_allclose(hard, soft, atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_evaluations_report_the_loss_without_smoothing(name):
    evaluated = make_loss(name, 0.3).for_evaluation()
    assert evaluated == make_loss(name) and evaluated.probability == name


def test_the_default_loss_computes_what_optax_does():
    expected = optax.softmax_cross_entropy_with_integer_labels(LOGITS, LABELS)
    assert np.array_equal(SoftmaxLoss().per_image(LOGITS, LABELS), expected)


def test_log_probabilities():
    softmax = log_probabilities(LOGITS, "softmax")
    np.testing.assert_allclose(np.exp(softmax).sum(axis=1), 1, rtol=1e-5)
    sigmoid = log_probabilities(LOGITS, "sigmoid")
    np.testing.assert_allclose(np.exp(sigmoid), 1 / (1 + np.exp(-LOGITS)), rtol=1e-5)


def test_each_seed_step_and_micro_batch_has_its_own_key():
    numbers = [(0, 0, 0), (1, 0, 0), (2**32, 0, 0), (2**63 - 1, 0, 0)]
    numbers += [(0, 1, 0), (0, 0, 1), (0, 1, 1), (0, 0, 2)]
    keys = [tuple(np.asarray(jax.random.key_data(step_key(*three))).tolist()) for three in numbers]
    assert len(set(keys)) == len(numbers)


def test_several_labels_share_a_softmax_target_and_are_each_right_under_sigmoid():
    others = jnp.array([[1, -1], [-1, -1], [0, 1], [-1, -1], [2, -1], [-1, -1]])
    for name, share in (("softmax", True), ("sigmoid", False)):
        loss = make_loss(name)
        dense = np.zeros((6, 5), np.float32)
        for row, (label, more) in enumerate(zip(LABELS, others, strict=True)):
            right = [int(label), *(int(other) for other in more if other >= 0)]
            dense[row, right] = 1 / len(right) if share else 1
        several = with_others(LABELS, others, loss.probability)
        np.testing.assert_allclose(
            loss.per_image(LOGITS, several), loss.per_image(LOGITS, jnp.array(dense)), rtol=1e-5
        )
