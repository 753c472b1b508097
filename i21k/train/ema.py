"""A moving average of the weights and of the BatchNorm statistics, beside the trained ones."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

_DELAY = 10  # steps; the usual warm-up of such averages, as in TensorFlow's


def weight_of_old(step: int | Int[Array, ""], decay: float) -> Float[Array, ""]:
    """Return the weight of the old average in the step after `step` others.

    It is small in the first steps, so that the initial weights are forgotten at once:
    min(decay, (1 + step) / (10 + step)).
    """
    steps = jnp.asarray(step).astype(jnp.float32)
    return jnp.minimum(jnp.float32(decay), (1 + steps) / (_DELAY + steps))


def moved(average: Any, variables: Any, step: int | Int[Array, ""], decay: float) -> Any:
    """Return the average after a step.

    Args:
        average: a tree like `variables`.
        variables: parameters and statistics after the step.
        step: steps done before it.
        decay: weight of the old average in a long run, 0 up to below 1.
    """
    old = weight_of_old(step, decay)
    return jax.tree.map(lambda a, x: a + (1 - old) * (x - a), average, variables)
