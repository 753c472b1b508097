"""The loss functions of training. A new one implements `Loss` and has a name in `LOSSES`."""

import dataclasses
from collections.abc import Callable
from typing import ClassVar, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from i21k.models.probabilities import Probability

# A label per image, or a weight per class and image. Weights of an image add up to 1 under softmax.
Targets = Int[Array, " b"] | Float[Array, "b K"]

LossName = Literal["softmax", "sigmoid"]


@runtime_checkable
class Loss(Protocol):
    """Compares logits with targets. Instances are immutable and hashable."""

    # How logits of a network that was trained with this loss become class probabilities: this name
    # is saved with the model, and `i21k.models.probabilities.log_probabilities` computes them.
    probability: ClassVar[Probability]
    # Whether `per_image` draws random numbers. If not, its key is None.
    needs_key: ClassVar[bool]

    def per_image(
        self, logits: Float[Array, "b K"], targets: Targets, key: Key[Array, ""] | None = None
    ) -> Float[Array, " b"]:
        """Return the loss of each image (nats, float32).

        Args:
            logits: float32.
            targets: labels, or weights of classes.
            key: random key of this step, device and micro-batch; None unless `needs_key`.
        """
        ...

    def for_evaluation(self) -> "Loss":
        """Return the loss that evaluations report: without smoothing, so that runs compare."""
        ...


@dataclasses.dataclass(frozen=True)
class SoftmaxLoss:
    """Softmax cross-entropy: exactly one class of an image is right."""

    probability: ClassVar[Probability] = "softmax"
    needs_key: ClassVar[bool] = False

    smoothing: float = 0.0  # weight that is spread over all K classes (Szegedy et al. 2016)

    def per_image(
        self, logits: Float[Array, "b K"], targets: Targets, key: Key[Array, ""] | None = None
    ) -> Float[Array, " b"]:
        if not _are_labels(targets):
            losses = optax.softmax_cross_entropy(logits, targets)
        else:
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
        if not self.smoothing:
            return losses
        # Cross-entropy is linear in the targets, so that smooth ones need no array of [b, K].
        uniform = jax.nn.logsumexp(logits, axis=-1) - jnp.mean(logits, axis=-1)
        return (1 - self.smoothing) * losses + self.smoothing * uniform

    def for_evaluation(self) -> "SoftmaxLoss":
        return SoftmaxLoss()


@dataclasses.dataclass(frozen=True)
class SigmoidLoss:
    """Binary cross-entropy, summed over the classes: each class is right or wrong by itself."""

    probability: ClassVar[Probability] = "sigmoid"
    needs_key: ClassVar[bool] = False

    smoothing: float = 0.0  # weight that is spread over all K classes, as for softmax

    def per_image(
        self, logits: Float[Array, "b K"], targets: Targets, key: Key[Array, ""] | None = None
    ) -> Float[Array, " b"]:
        # -t log(p) - (1 - t) log(1 - p) = softplus(logit) - t logit.
        if not _are_labels(targets):
            agreement = jnp.sum(targets * logits, axis=-1)
        else:
            agreement = jnp.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
        if self.smoothing:
            mean = jnp.mean(logits, axis=-1)
            agreement = (1 - self.smoothing) * agreement + self.smoothing * mean
        return jnp.sum(jax.nn.softplus(logits), axis=-1) - agreement

    def for_evaluation(self) -> "SigmoidLoss":
        return SigmoidLoss()


LOSSES: dict[LossName, Callable[[float], Loss]] = {"softmax": SoftmaxLoss, "sigmoid": SigmoidLoss}


def make_loss(name: LossName, smoothing: float = 0.0) -> Loss:
    """Make the loss of a recipe.

    Args:
        name: a key of `LOSSES`.
        smoothing: label smoothing, 0 up to below 1.
    """
    assert 0 <= smoothing < 1, smoothing
    return LOSSES[name](smoothing)


def _are_labels(targets: Targets) -> bool:
    return targets.ndim == 1
