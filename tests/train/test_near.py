"""Targets from WordNet against their definitions, written with a K x K matrix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from i21k.labels import ClassList
from i21k.train.losses import AdjustedLoss, Several, SoftmaxLoss, initial_bias, make_loss
from i21k.train.targets import log_prior
from i21k.wordnet.hierarchy import Hierarchy
from i21k.wordnet.levels import Levels, make_levels
from tests.helpers.levels import members

# Two dogs, a cat and a wolf's relative, two fruits: several levels, and classes of few levels.
IDS = ("n02110341", "n02110806", "n02123045", "n02114367", "n07742313", "n07747607", "n02084071")
K = len(IDS)
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(0, 3, (9, K)).astype(np.float32)
LABELS = RNG.integers(0, K, 9).astype(np.int32)
SECOND, SHARE = RNG.integers(0, K, 9).astype(np.int32), RNG.random(9).astype(np.float32)


@pytest.fixture(scope="module")
def levels() -> Levels:
    return make_levels(Hierarchy(ClassList(IDS)), 0.4)


def kernel(levels: Levels) -> np.ndarray:
    """The weight of each class (column) near each class (row)."""
    matrix = np.zeros((K, K))
    for label in range(K):
        sets = members(levels, label)
        for weight, found in zip(levels.weights[label], sets, strict=False):
            matrix[label, sorted(found)] += weight / len(found)
    return matrix


def log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = np.asarray(logits, np.float64)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def mixed(values: np.ndarray) -> np.ndarray:
    """Rows of an array [K, ...] for the label and the second label of each image, mixed."""
    share = SHARE.reshape(-1, *(1,) * (values.ndim - 1))
    return share * values[LABELS] + (1 - share) * values[SECOND]


SEVERAL = Several(
    jnp.stack([LABELS, SECOND], axis=1), jnp.stack([SHARE, 1 - SHARE], axis=1).astype(jnp.float32)
)


def test_the_kernel_prefers_near_classes(levels):
    matrix = kernel(levels)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, rtol=1e-6)
    dalmatian, pug, cat, _, apple, _, _ = range(K)
    assert matrix[dalmatian, pug] > matrix[dalmatian, cat] > matrix[dalmatian, apple] > 0


@pytest.mark.parametrize("name", ["softmax", "sigmoid"])
def test_smoothing_to_near_classes(levels, name):
    smoothing = 0.2
    rows = (1 - smoothing) * np.eye(K) + smoothing * kernel(levels)
    loss = make_loss(name, smoothing, "near", levels)
    for targets, dense in ((jnp.array(LABELS), rows[LABELS]), (SEVERAL, mixed(rows))):
        if name == "softmax":
            expected = -(dense * log_softmax(LOGITS)).sum(axis=1)
        else:
            p = 1 / (1 + np.exp(-LOGITS.astype(np.float64)))
            expected = -(dense * np.log(p) + (1 - dense) * np.log(1 - p)).sum(axis=1)
        got = loss.per_image(jnp.array(LOGITS), targets)
        np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_cross_entropy_of_ancestors(levels):
    smoothing = 0.3
    p = np.exp(log_softmax(LOGITS))
    terms = np.zeros((K, len(LOGITS)))  # of each class, if it were the label of each image
    for label in range(K):
        for weight, found in zip(levels.weights[label], members(levels, label), strict=False):
            terms[label] -= weight * np.log(p[:, sorted(found)].sum(axis=1))
    terms = (1 - smoothing) * -log_softmax(LOGITS).T + smoothing * terms
    loss, images = make_loss("softmax", smoothing, "ancestors", levels), np.arange(len(LOGITS))
    hard = terms[LABELS, images]
    np.testing.assert_allclose(loss.per_image(jnp.array(LOGITS), jnp.array(LABELS)), hard, 1e-5)
    soft = SHARE * hard + (1 - SHARE) * terms[SECOND, images]
    np.testing.assert_allclose(loss.per_image(jnp.array(LOGITS), SEVERAL), soft, 1e-5)


@pytest.mark.parametrize("smooth_to", ["near", "ancestors"])
def test_gradients_are_finite_where_probabilities_vanish(levels, smooth_to):
    loss = make_loss("softmax", 0.1, smooth_to, levels)
    logits = jnp.zeros((1, K)).at[0, 4].set(500.0)  # an apple, beyond all doubt
    value, gradient = jax.value_and_grad(lambda x: loss.per_image(x, jnp.array([0])).sum())(logits)
    assert np.isfinite(value) and np.isfinite(gradient).all()
    assert gradient[0, 0] < -0.5 < 0.5 < gradient[0, 4]


@pytest.mark.parametrize("name", ["softmax", "sigmoid"])
def test_several_labels_are_the_weighted_mean_of_each(name):
    loss = make_loss(name, 0.1)
    of_each = [loss.per_image(jnp.array(LOGITS), jnp.array(y)) for y in (LABELS, SECOND)]
    expected = SHARE * of_each[0] + (1 - SHARE) * of_each[1]
    np.testing.assert_allclose(loss.per_image(jnp.array(LOGITS), SEVERAL), expected, rtol=1e-5)


def test_logit_adjustment(levels):
    counts = np.array([100, 50, 20, 10, 5, 1, 0])
    offsets = log_prior(counts)
    frequencies = np.maximum(counts, 0.5) / np.maximum(counts, 0.5).sum()
    np.testing.assert_allclose(np.exp(offsets), frequencies, rtol=1e-5)
    loss = make_loss("softmax", offsets=2 * offsets)
    weights = np.exp(LOGITS.astype(np.float64)) * frequencies**2  # Menon et al. 2021, equation 10
    expected = -np.log(weights / weights.sum(axis=1, keepdims=True))[np.arange(9), LABELS]
    np.testing.assert_allclose(loss.per_image(jnp.array(LOGITS), jnp.array(LABELS)), expected, 1e-5)
    both = make_loss("softmax", 0.1, "near", levels, offsets)
    assert isinstance(both, AdjustedLoss) and both.for_evaluation() == SoftmaxLoss()


def test_the_first_bias_of_the_head():
    assert initial_bias("softmax", 10) == 0.0
    bias = initial_bias("sigmoid", 21841)
    assert 1 / (1 + np.exp(-bias)) == pytest.approx(1 / 21842)
