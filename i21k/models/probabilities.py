"""How logits become class probabilities. The name of the rule is saved with a model."""

from typing import Literal

import jax
from jaxtyping import Array, Float

# softmax: exactly one class is right, and the probabilities of an image add up to 1.
# sigmoid: each class is right or wrong by itself.
Probability = Literal["softmax", "sigmoid"]

DEFAULT: Probability = "softmax"  # of models that were saved without a name


def log_probabilities(logits: Float[Array, "B K"], probability: Probability) -> Float[Array, "B K"]:
    """Return the logarithm of each class's probability."""
    if probability == "softmax":
        return jax.nn.log_softmax(logits)
    assert probability == "sigmoid", probability
    return jax.nn.log_sigmoid(logits)
