"""The view `hedge`: one synset for an image, as specific as it can be while right often enough."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from i21k.errors import UserError
from i21k.wordnet.answers import Answer, Probabilities, checked
from i21k.wordnet.hierarchy import Hierarchy


class Calibration(NamedTuple):
    """The generality that `calibrate` found, and the result of `hedge` on the held-out images."""

    generality: float  # for `hedge`
    accuracy: float  # fraction of answers that were right
    specificity: float  # mean over the answers, 0 (entity) to 1 (a class with none below)
    num_images: int  # held out


def hedge(probabilities: Probabilities, hierarchy: Hierarchy, generality: float) -> list[Answer]:
    """Answer each image with one synset (Deng et al. 2012, "Hedging Your Bets").

    The answer is the node v with the largest (s(v) + generality) * M(v). M(v) is the probability
    of the classes at or below v, and it must be above 0. s(v) is the specificity. Of equal nodes
    the most specific one is the answer.

    At generality 0 the answer is the one that is expected to give the most information. With more
    generality the answers become wider and are right more often, up to the root. `calibrate`
    finds the generality for an accuracy.
    """
    if not generality >= 0:
        raise UserError(
            f"generality is {generality}. Use at least 0, for example what `calibrate` finds."
        )
    mass = hierarchy.fold(checked(probabilities, hierarchy.classes))
    value = np.where(mass > 0, (hierarchy.specificity + generality) * mass, -np.inf)
    best = len(hierarchy.ids) - 1 - np.argmax(value[:, ::-1], axis=1)
    return [
        Answer(hierarchy.ids[node], float(row[node])) for node, row in zip(best, mass, strict=True)
    ]


def calibrate(
    held_out: Iterable[tuple[Float[np.ndarray, "_ K"], Int[np.ndarray, " _"]]],
    hierarchy: Hierarchy,
    accuracy: float,
) -> Calibration:
    """Find the generality with which `hedge` reaches an accuracy on held-out images.

    It is the least generality, 0 or more, from which on at least a fraction `accuracy` of the
    answers is right. An answer is right if the class is at or below it. All generalities at which
    an answer changes are compared, so the result is exact. If generality 0 is accurate enough,
    the result is 0, since that gives the most specific answers.

    Args:
        held_out: batches of probabilities and true labels that nothing was trained on.
        hierarchy: of the classes.
        accuracy: wanted, above 0 and at most 1.

    Raises:
        UserError: if there are no images, a label or `accuracy` is out of range, or the accuracy
            cannot be reached.
    """
    (found,) = calibrate_each(held_out, hierarchy, (accuracy,))
    if isinstance(found, UserError):
        raise found
    return found


def calibrate_each(
    held_out: Iterable[tuple[Float[np.ndarray, "_ K"], Int[np.ndarray, " _"]]],
    hierarchy: Hierarchy,
    accuracies: Sequence[float],
) -> list[Calibration | UserError]:
    """Find what `calibrate` finds, for several accuracies in one pass over the images.

    Returns:
        For each accuracy the calibration, or the error if it cannot be reached.

    Raises:
        UserError: if there are no images, or a label or an accuracy is out of range.
    """
    for accuracy in accuracies:
        if not 0 < accuracy <= 1:
            raise UserError(
                f"accuracy is {accuracy}. Use a fraction above 0 and at most 1, for example 0.9."
            )
    outcomes = _outcomes(held_out, hierarchy)
    return [_calibration(outcomes, accuracy) for accuracy in accuracies]


class _Outcomes(NamedTuple):
    """The results of `hedge` on held-out images, over generality: a step function."""

    starts: Float[np.ndarray, " S"]  # generality from which on the values hold
    num_right: Int[np.ndarray, " S"]
    sum_specific: Float[np.ndarray, " S"]
    num_images: int


def _outcomes(
    held_out: Iterable[tuple[Float[np.ndarray, "_ K"], Int[np.ndarray, " _"]]],
    hierarchy: Hierarchy,
) -> _Outcomes:
    by_specificity = np.lexsort((-np.arange(len(hierarchy.ids)), -hierarchy.specificity))
    count, right, specific = 0, 0, 0.0
    # Generality, and what changes there: the number of right answers, the sum of specificity.
    changes: list[tuple[float, int, float]] = []
    for probabilities, labels in held_out:
        if labels.shape != (len(probabilities),) or (
            labels.size and not 0 <= labels.min() <= labels.max() < len(hierarchy.classes)
        ):
            raise UserError(
                f"{len(probabilities)} images have labels of shape {list(labels.shape)} up to"
                f" {labels.max(initial=0)}. Use one label for each image, from 0 to"
                f" {len(hierarchy.classes) - 1}."
            )
        mass = hierarchy.fold(checked(probabilities, hierarchy.classes))[:, by_specificity]
        for row, label in zip(mass, labels, strict=True):
            truth = hierarchy.ancestors[hierarchy.class_nodes[label]]
            before = None
            for start, node in _answers_by_generality(row, by_specificity, hierarchy.specificity):
                now = (int(node in truth), float(hierarchy.specificity[node]))
                if before is None:
                    count, right, specific = count + 1, right + now[0], specific + now[1]
                else:
                    changes.append((start, now[0] - before[0], now[1] - before[1]))
                before = now
    if not count:
        raise UserError("there are no held-out images. Give a split with images to calibrate on.")
    changes.sort()
    starts = np.array([0.0, *(start for start, _, _ in changes)])
    num_right = np.cumsum([right, *(more for _, more, _ in changes)])
    sum_specific = np.cumsum([specific, *(more for _, _, more in changes)])
    last_of_equal = np.append(starts[1:] > starts[:-1], True)
    return _Outcomes(
        starts[last_of_equal], num_right[last_of_equal], sum_specific[last_of_equal], count
    )


def _calibration(outcomes: _Outcomes, accuracy: float) -> Calibration | UserError:
    starts, num_right, sum_specific, count = outcomes
    enough = num_right >= np.ceil(accuracy * count - 1e-9)
    if not enough[-1]:
        return UserError(
            f"accuracy {accuracy} cannot be reached: the model gives probability 0 to the class of"
            f" {count - num_right[-1]:,} of {count:,} held-out images. Use at most"
            f" {num_right[-1] / count}."
        )
    least = int(np.flatnonzero(~enough)[-1]) + 1 if not enough.all() else 0
    until = starts[least + 1] if least + 1 < len(starts) else 2 * starts[least] + 1
    return Calibration(
        float(starts[least] + until) / 2,
        float(num_right[least] / count),
        float(sum_specific[least] / count),
        count,
    )


def _answers_by_generality(
    mass: Float[np.ndarray, " N"],
    by_specificity: Int[np.ndarray, " N"],
    specificity: Float[np.ndarray, " N"],
) -> list[tuple[float, int]]:
    """Return the answers of `hedge` as generality grows from 0, each with where it starts.

    The value of a node is a straight line over generality, with slope M(v). The answers are the
    upper envelope of these lines. `mass` is in order of falling specificity.
    """
    best_so_far = np.maximum.accumulate(mass)
    # Only nodes that are more probable than all nodes that are as specific.
    better = np.flatnonzero(mass > np.concatenate(([0.0], best_so_far[:-1])))
    envelope: list[tuple[float, int]] = []
    slopes: list[float] = []
    for m, node in zip(mass[better].tolist(), by_specificity[better].tolist(), strict=True):
        start = 0.0
        while envelope:
            start = (slopes[-1] * specificity[envelope[-1][1]] - m * specificity[node]) / (
                m - slopes[-1]
            )
            if start > envelope[-1][0]:
                break
            envelope.pop()
            slopes.pop()
            start = 0.0
        envelope.append((float(start), node))
        slopes.append(m)
    return envelope
