"""The loss functions of training. A new one implements `Loss` and has a name in `LOSSES`."""

import dataclasses
import math
from collections.abc import Callable
from typing import ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Float32, Int, Key

from i21k.models.probabilities import Probability
from i21k.train import near
from i21k.wordnet.levels import Levels


class Several(NamedTuple):
    """Several labels of each image. A label may come twice, with weight 0 then.

    Under softmax the weights add up to 1.
    """

    labels: Int[Array, "b T"]
    weights: Float[Array, "b T"]


def with_others(
    labels: Int[Array, " b"], others: Int[Array, "b M"], probability: Probability = "softmax"
) -> Several:
    """Return a target over the label of each image and its others; -1 is none.

    It is uniform under softmax. Under sigmoid each label is right by itself, with weight 1.
    """
    all_labels = jnp.concatenate([labels[:, None], others], axis=1)
    is_there = (all_labels >= 0).astype(jnp.float32)
    weights = is_there
    if probability == "softmax":
        weights = is_there / jnp.sum(is_there, axis=1, keepdims=True)
    return Several(jnp.where(all_labels >= 0, all_labels, labels[:, None]), weights)


# A label per image, several of them, or a weight per class and image. Weights add up to 1 under
# softmax.
Targets = Int[Array, " b"] | Several | Float[Array, "b K"]

LossName = Literal["softmax", "sigmoid"]
SmoothTo = Literal["all", "near", "ancestors"]


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
    levels: Levels | None = None  # spread over the classes near in WordNet instead

    def per_image(
        self, logits: Float[Array, "b K"], targets: Targets, key: Key[Array, ""] | None = None
    ) -> Float[Array, " b"]:
        if isinstance(targets, Several):
            losses = jax.nn.logsumexp(logits, axis=-1) - _agreement(logits, targets)
        elif not _are_labels(targets):
            losses = optax.softmax_cross_entropy(logits, targets)
        else:
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
        if not self.smoothing:
            return losses
        # Cross-entropy is linear in the targets, so that smooth ones need no array of [b, K].
        spread = jax.nn.logsumexp(logits, axis=-1) - _spread(logits, targets, self.levels)
        return (1 - self.smoothing) * losses + self.smoothing * spread

    def for_evaluation(self) -> "SoftmaxLoss":
        return SoftmaxLoss()


@dataclasses.dataclass(frozen=True)
class SigmoidLoss:
    """Binary cross-entropy, summed over the classes: each class is right or wrong by itself."""

    probability: ClassVar[Probability] = "sigmoid"
    needs_key: ClassVar[bool] = False

    smoothing: float = 0.0  # weight that is spread over all K classes, as for softmax
    levels: Levels | None = None  # spread over the classes near in WordNet instead

    def per_image(
        self, logits: Float[Array, "b K"], targets: Targets, key: Key[Array, ""] | None = None
    ) -> Float[Array, " b"]:
        # -t log(p) - (1 - t) log(1 - p) = softplus(logit) - t logit.
        agreement = _agreement(logits, targets)
        if self.smoothing:
            spread = _spread(logits, targets, self.levels)
            agreement = (1 - self.smoothing) * agreement + self.smoothing * spread
        return jnp.sum(jax.nn.softplus(logits), axis=-1) - agreement

    def for_evaluation(self) -> "SigmoidLoss":
        return SigmoidLoss()


@dataclasses.dataclass(frozen=True)
class AncestorLoss:
    """Softmax cross-entropy of the class and, with the weight `smoothing`, of the sets around it.

    The probability of a set is the sum of its classes'. This is the hierarchical cross-entropy of
    Bertinetto et al. 2020 ("Making Better Mistakes"), with weights of its own.
    """

    probability: ClassVar[Probability] = "softmax"
    needs_key: ClassVar[bool] = False

    smoothing: float
    levels: Levels

    def per_image(
        self, logits: Float[Array, "b K"], targets: Targets, key: Key[Array, ""] | None = None
    ) -> Float[Array, " b"]:
        of_class = SoftmaxLoss().per_image(logits, targets)
        of_sets = _over_labels(targets, lambda labels: near.set_losses(logits, labels, self.levels))
        return (1 - self.smoothing) * of_class + self.smoothing * of_sets

    def for_evaluation(self) -> SoftmaxLoss:
        return SoftmaxLoss()


@dataclasses.dataclass(frozen=True, eq=False)
class AdjustedLoss:
    """Another loss, of logits to which a number per class is added (Menon et al. 2021).

    With the logarithms of class frequencies, the network learns the logits of a world in which all
    classes are equally frequent. Evaluations take its logits as they are.
    """

    probability: ClassVar[Probability] = "softmax"
    needs_key: ClassVar[bool] = False

    loss: SoftmaxLoss | AncestorLoss
    offsets: Float32[np.ndarray, " K"]

    def per_image(
        self, logits: Float[Array, "b K"], targets: Targets, key: Key[Array, ""] | None = None
    ) -> Float[Array, " b"]:
        return self.loss.per_image(logits + self.offsets, targets, key)

    def for_evaluation(self) -> SoftmaxLoss:
        return self.loss.for_evaluation()


LOSSES: dict[LossName, Callable[..., Loss]] = {"softmax": SoftmaxLoss, "sigmoid": SigmoidLoss}


def make_loss(
    name: LossName,
    smoothing: float = 0.0,
    smooth_to: SmoothTo = "all",
    levels: Levels | None = None,
    offsets: Float32[np.ndarray, " K"] | None = None,
) -> Loss:
    """Make the loss of a recipe.

    Args:
        name: a key of `LOSSES`.
        smoothing: label smoothing, 0 up to below 1.
        smooth_to: where it goes.
        levels: the classes near each class; only if `smooth_to` is not "all".
        offsets: to be added to the logits in training; softmax only.
    """
    assert 0 <= smoothing < 1, smoothing
    assert (smooth_to == "all") == (levels is None), smooth_to
    loss: Loss
    if smooth_to == "ancestors":
        assert name == "softmax" and levels is not None
        loss = AncestorLoss(smoothing, levels)
    else:
        loss = LOSSES[name](smoothing) if levels is None else LOSSES[name](smoothing, levels)
    if offsets is None:
        return loss
    assert isinstance(loss, SoftmaxLoss | AncestorLoss)
    return AdjustedLoss(loss, offsets)


def initial_bias(probability: Probability, num_classes: int) -> float:
    """Return the bias of the classifier head with which training starts.

    Under sigmoid each class begins with the probability 1 / K, so that the first steps need not
    learn that most classes are wrong (Beyer et al. 2020, "Are we done with ImageNet?").
    """
    return -math.log(num_classes) if probability == "sigmoid" else 0.0


def _are_labels(targets: Targets) -> bool:
    return not isinstance(targets, Several) and targets.ndim == 1


def _agreement(logits: Float[Array, "b K"], targets: Targets) -> Float[Array, " b"]:
    """Return the sum over classes of target times logit."""
    if isinstance(targets, Several):
        chosen = jnp.take_along_axis(logits, targets.labels, axis=-1)
        return jnp.sum(targets.weights * chosen, axis=-1)
    if not _are_labels(targets):
        return jnp.sum(targets * logits, axis=-1)
    return jnp.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]


def _spread(
    logits: Float[Array, "b K"], targets: Targets, levels: Levels | None
) -> Float[Array, " b"]:
    """Return the agreement with the targets after they were spread over other classes."""
    if levels is None:
        return jnp.mean(logits, axis=-1)
    return _over_labels(
        targets, lambda labels: jnp.sum(near.near_targets(labels, levels) * logits, axis=-1)
    )


def _over_labels(
    targets: Targets, of_labels: Callable[[Int[Array, " b"]], Float[Array, " b"]]
) -> Float[Array, " b"]:
    """Return the weighted mean over the labels of each image of a function of one label."""
    if isinstance(targets, Several):
        columns = range(targets.labels.shape[1])
        terms = (targets.weights[:, t] * of_labels(targets.labels[:, t]) for t in columns)
        return jnp.sum(jnp.stack(list(terms)), axis=0)
    assert _are_labels(targets), "dense targets have no levels of WordNet"
    return of_labels(targets)
