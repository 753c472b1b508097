"""The most classes of a scene that any view can be expected to name exactly, learned from scenes.

The expected number of classes that an answer names is the sum of their chances to be in the scene.
So the best answer is the `k` classes with the largest chances. A logistic regression on the model's
log-probabilities estimates these chances from other scenes. No view of the probabilities can be
expected to name more, as far as the regression is right.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from i21k.labels import ClassList
from i21k.wordnet import views
from i21k.wordnet.answers import Answers, Probabilities

REGULARISATION = 1e-3  # our choice
NUM_STEPS = 60  # of L-BFGS, our choice


def learned_bound(
    learn: Probabilities,
    truths: Sequence[Sequence[str]],
    probabilities: Probabilities,
    classes: ClassList,
    k: int,
) -> Answers:
    """Answer with the `k` classes that a regression finds most likely to be in the scene."""
    present = np.zeros(learn.shape, np.float32)
    for row, truth in zip(present, truths, strict=True):
        row[[classes.label_of[class_id] for class_id in truth]] = 1
    logs = np.log(learn + 1e-12)
    mean, deviation = logs.mean(axis=0), logs.std(axis=0) + 1e-6
    inputs = (logs - mean) / deviation

    def loss_of(weights: Any) -> Any:
        logits = inputs @ weights["slope"] + weights["bias"]
        fit = optax.sigmoid_binary_cross_entropy(logits, present).sum(axis=1).mean()
        return fit + REGULARISATION * jnp.square(weights["slope"]).sum()

    weights = {"slope": jnp.eye(len(classes)), "bias": jnp.full(len(classes), -2.0)}
    optimizer = optax.lbfgs()
    state = optimizer.init(weights)

    @jax.jit
    def step(weights: Any, state: Any) -> tuple[Any, Any]:
        value, gradient = jax.value_and_grad(loss_of)(weights)
        updates, state = optimizer.update(
            gradient, state, weights, value=value, grad=gradient, value_fn=loss_of
        )
        return optax.apply_updates(weights, updates), state

    for _ in range(NUM_STEPS):
        weights, state = step(weights, state)
    chances = (np.log(probabilities + 1e-12) - mean) / deviation @ np.asarray(weights["slope"])
    chances = jax.nn.softmax(chances + np.asarray(weights["bias"]), axis=1)
    return views.top(np.asarray(chances), classes, k)
