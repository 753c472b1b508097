"""How logits become class probabilities. The name of the rule is saved with a model."""

from typing import Literal

import jax
from jaxtyping import Array, Float

from i21k.errors import UserError

# softmax: exactly one class is right, and the probabilities of an image add up to 1.
# sigmoid: each class is right or wrong by itself.
Probability = Literal["softmax", "sigmoid"]

DEFAULT: Probability = "softmax"  # of models that were saved without a name


def log_probabilities(logits: Float[Array, "B K"], probability: Probability) -> Float[Array, "B K"]:
    """Return the logarithm of each class's probability.

    Raises:
        UserError: if the name is unknown, as in a checkpoint of a later version.
    """
    if probability == "softmax":
        return jax.nn.log_softmax(logits)
    if probability == "sigmoid":
        return jax.nn.log_sigmoid(logits)
    raise UserError(
        f"The model's class probabilities are of kind {probability!r}. "
        "This version knows 'softmax' and 'sigmoid'."
    )
