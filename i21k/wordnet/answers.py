"""What all views share: the type of an answer, the check of probabilities, ranking."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from i21k.errors import UserError
from i21k.labels import ClassList

Probabilities = Float[np.ndarray, "B K"]


class Answer(NamedTuple):
    """A synset and a probability.

    It is the probability that the class is at or below the synset. For the views `top` and
    `subset` it is the probability that the class is this synset.
    """

    id: str
    probability: float


Answers = list[list[Answer]]  # for each image, the most probable first


def checked(
    probabilities: Probabilities, classes: ClassList, exclusive: bool = True
) -> Probabilities:
    """Return the probabilities in float64, scaled to add up to 1 for each image.

    Args:
        probabilities: of the classes.
        classes: the class list.
        exclusive: False for sigmoids, which are not scaled.

    Raises:
        UserError: if the shape is wrong, or they are not a softmax over the classes (or not from 0
            to 1, for sigmoids).
    """
    if probabilities.ndim != 2 or probabilities.shape[1] != len(classes):
        raise UserError(
            f"probabilities have shape {list(probabilities.shape)}, expected"
            f" [images, {len(classes)} classes]. Use the class list of the model."
        )
    probabilities = probabilities.astype(np.float64)
    if not exclusive:
        if not ((probabilities >= 0) & (probabilities <= 1)).all():
            raise UserError(
                f"probabilities are between {probabilities.min():.3g} and"
                f" {probabilities.max():.3g}. Apply a sigmoid to logits."
            )
        return probabilities
    total = probabilities.sum(axis=1, keepdims=True)
    # The tolerance is for bfloat16: a softmax in bfloat16 may be off by 0.01.
    if not ((probabilities >= 0).all() and np.allclose(total, 1, atol=0.02)):
        raise UserError(
            f"probabilities are between {probabilities.min():.3g} and {probabilities.max():.3g}"
            f" and add up to {total.min():.3g}..{total.max():.3g} for an image, expected a softmax."
            " Apply a softmax over the classes to logits."
        )
    return probabilities / total


def largest(values: Float[np.ndarray, " M"], k: int) -> Int[np.ndarray, " k"]:
    """Return the places of the `k` largest values, largest first. Of equal values, the first."""
    if k < 1:
        raise UserError(f"k is {k}. Use at least 1 answer.")
    places = (
        np.arange(len(values))
        if k >= len(values)
        else np.flatnonzero(values >= np.partition(values, -k)[-k])
    )
    return places[np.argsort(-values[places], kind="stable")[:k]]


def rank(mass: Float[np.ndarray, "B M"], ids: Sequence[str], k: int) -> Answers:
    """Answer with the `k` of `ids` that have the largest mass."""
    by_id = np.argsort(np.array(ids))
    mass = mass[:, by_id]
    return [[Answer(ids[by_id[m]], float(row[m])) for m in largest(row, k)] for row in mass]
