"""Classify by features: nearest neighbours and ridge regression.

NumPy is enough: both need a few matrix products and no iterations.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from i21k.errors import UserError
from i21k.evaluation.features import Features

NEIGHBOURS = 20  # our choice: Wu et al. 2018, arXiv 1805.01978, use 200 of a million images
TEMPERATURE = 0.07  # of the votes, Wu et al. 2018
SHOTS, DRAWS, HELD_OUT = (1, 5, 10), 5, 0.2  # our choice
# From which the strength of the ridge is chosen; big_vision's few-shot evaluator has 2**-10..2**20.
_STRENGTHS = tuple(2.0**n for n in range(-6, 21, 2))
_BIAS = 100.0  # of the constant feature: it is hardly regularised. From big_vision too
_DEFAULT_STRENGTH = 1024.0  # of big_vision; it wins where several are equally good
_ROWS = 4096  # that are scored at a time, our choice
_Z95 = 1.959964  # of a normal distribution, 95 % two-sided
Scorer = Callable[[np.ndarray, np.ndarray, np.ndarray, int], np.ndarray]


class Accuracy(NamedTuple):
    """Images that a probe gets right."""

    right: int
    num: int

    @property
    def value(self) -> float:
        return self.right / self.num

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of Wilson 1927, for a sample of images."""
        return wilson(self.right, self.num)


class Shots(NamedTuple):
    """Accuracies of probes that saw the same number of images of each class, drawn repeatedly."""

    shots: int
    accuracies: tuple[float, ...]

    @property
    def mean(self) -> float:
        return float(np.mean(self.accuracies))

    @property
    def spread(self) -> float:
        """Standard deviation over the draws; 0 for one draw."""
        return float(np.std(self.accuracies, ddof=1)) if len(self.accuracies) > 1 else 0.0


@dataclasses.dataclass(frozen=True, eq=False)
class Probed:
    """What probes found."""

    num_train: int
    num_test: int
    num_classes: int
    accuracy: dict[str, Accuracy]  # by probe
    shots: dict[str, list[Shots]]  # by probe
    strength: float  # of the ridge, as chosen
    confusion: Int[np.ndarray, "K K"]  # of the ridge: true class, answer

    def worst_pairs(self, num: int = 10) -> list[tuple[int, int, int]]:
        """Return the most frequent mistakes: true class, answer, images."""
        mistakes = self.confusion - np.diag(np.diag(self.confusion))
        order = np.argsort(-mistakes, axis=None, kind="stable")[:num]
        pairs = [divmod(int(place), len(mistakes)) for place in order]
        return [(a, b, int(mistakes[a, b])) for a, b in pairs if mistakes[a, b]]

    def summary(self) -> dict[str, Any]:
        """Return everything but the confusion, ready for JSON."""
        return {
            "train": self.num_train,
            "test": self.num_test,
            "classes": self.num_classes,
            "strength": self.strength,
            "accuracy": {
                name: {"top1": found.value, "interval": list(found.interval)}
                for name, found in self.accuracy.items()
            },
            "shots": {
                name: [
                    {
                        "shots": one.shots,
                        "mean": one.mean,
                        "spread": one.spread,
                        "all": list(one[1]),
                    }
                    for one in several
                ]
                for name, several in self.shots.items()
            },
        }


def wilson(right: int, num: int) -> tuple[float, float]:
    """Return the 95 % interval of a proportion (Wilson 1927)."""
    if not num:
        return 0.0, 1.0
    share, z2 = right / num, _Z95**2
    centre = (share + z2 / (2 * num)) / (1 + z2 / num)
    half = _Z95 / (1 + z2 / num) * math.sqrt(share * (1 - share) / num + z2 / (4 * num**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def knn(
    train: Float[np.ndarray, "N F"],
    labels: Int[np.ndarray, " N"],
    images: Float[np.ndarray, "M F"],
    num_classes: int,
    neighbours: int = NEIGHBOURS,
) -> Float[np.ndarray, "M K"]:
    """Return the votes of the nearest images by cosine, weighted with exp(cosine / 0.07).

    Wu et al. 2018, arXiv 1805.01978, section 3.4.
    """
    known, unit = _normalised(train), min(neighbours, len(train))
    votes = np.zeros((len(images), num_classes))
    for first in range(0, len(images), _ROWS):
        cosines = _normalised(images[first : first + _ROWS]) @ known.T
        nearest = np.argpartition(-cosines, unit - 1, axis=1)[:, :unit]
        rows = np.arange(len(cosines))[:, None]
        weights = np.exp((cosines[rows, nearest] - 1) / TEMPERATURE)
        np.add.at(votes, (first + rows, labels[nearest]), weights)
    return votes


class Ridge:
    """Least squares of -1 and 1 per class on standardised features, with a penalty in closed form.

    The penalty is chosen by the exact accuracy of leaving out one image at a time, which follows
    from the same eigenvalues (Rifkin and Lippert 2007, "Notes on Regularized Least Squares",
    section 4). Features and constant are those of big_vision's few-shot evaluator.
    """

    def __init__(
        self,
        train: Float[np.ndarray, "N F"],
        labels: Int[np.ndarray, " N"],
        num_classes: int,
        strength: float | None = None,
    ) -> None:
        """Fit.

        Args:
            train: features.
            labels: of the images.
            num_classes: K.
            strength: of the penalty; None: the best one by leaving out one image.
        """
        wide = train.astype(np.float64)
        self._mean, self._std = wide.mean(axis=0), np.maximum(wide.std(axis=0), 1e-5)
        x = self._standardised(train)
        y = np.where(labels[:, None] == np.arange(num_classes), 1.0, -1.0)
        # The smaller of the two products has the same eigenvalues, but for zeros.
        is_dual = len(x) <= x.shape[1]
        values, vectors = np.linalg.eigh(x @ x.T if is_dual else x.T @ x)
        values = np.maximum(values, 0)
        left = vectors if is_dual else x @ vectors  # [N, r]
        projected = left.T @ y
        strengths = _STRENGTHS if strength is None else (strength,)

        def left_out_accuracy(strength: float) -> float:
            gains = (values if is_dual else 1) / (values + strength)
            fitted = left @ (gains[:, None] * projected)
            leverage = np.square(left) @ gains
            rest = np.maximum(1 - leverage, 1e-9)[:, None]
            without = (fitted - leverage[:, None] * y) / rest
            return float((without.argmax(axis=1) == labels).mean())

        def preference(strength: float) -> tuple[float, float]:
            return left_out_accuracy(strength), -abs(math.log2(strength / _DEFAULT_STRENGTH))

        self.strength = max(strengths, key=preference) if len(strengths) > 1 else strengths[0]
        solved = vectors @ (projected / (values + self.strength)[:, None])
        self.weights = x.T @ solved if is_dual else solved  # [F + 1, K]

    def scores(self, images: Float[np.ndarray, "M F"]) -> Float[np.ndarray, "M K"]:
        """Return a score for each class."""
        parts = range(0, len(images), _ROWS)
        found = [self._standardised(images[n : n + _ROWS]) @ self.weights for n in parts]
        return np.concatenate(found) if found else np.empty((0, self.weights.shape[1]))

    def _standardised(self, features: np.ndarray) -> np.ndarray:
        scaled = (features.astype(np.float64) - self._mean) / self._std
        return np.concatenate([scaled, np.full((len(scaled), 1), _BIAS)], axis=1)


def probe(
    train: Features,
    test: Features,
    *,
    shots: Sequence[int] = SHOTS,
    draws: int = DRAWS,
    neighbours: int = NEIGHBOURS,
    strength: float | None = None,
    seed: int = 0,
) -> Probed:
    """Fit probes on labelled features and score them on others.

    Args:
        train: to fit on. All images need labels.
        test: to score on; its classes are matched by id.
        shots: images of each class, for probes of few images.
        draws: how often these images are drawn.
        neighbours: of the nearest-neighbour probe.
        strength: of the ridge; None: chosen by leaving out one image at a time.
        seed: of the draws.

    Raises:
        UserError: if labels are missing, the two do not fit each other, or a class has fewer images
            than shots.
    """
    labels, expected = _checked(train, test)
    assert train.classes is not None
    num_classes, x, y = len(train.classes), train.array, test.array
    if min([draws, neighbours, *shots]) < 1:
        raise UserError("shots, draws and neighbours must be at least 1. Give other numbers.")
    counts = np.bincount(labels, minlength=num_classes)
    few = [k for k in shots if counts.min() < k]
    if few and len(few) < len(shots):
        shots = [k for k in shots if k not in few]
    elif few:
        least = int(counts.argmin())
        raise UserError(
            f"class {train.classes.ids[least]} has {counts[least]} images to fit on, and"
            f" {min(few)} shots are wanted. Use fewer --shots, or more images."
        )
    ridge = Ridge(x, labels, num_classes, strength)
    answers = {
        "knn": knn(x, labels, y, num_classes, neighbours).argmax(axis=1),
        "ridge": ridge.scores(y).argmax(axis=1),
    }
    confusion = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(confusion, (expected, answers["ridge"]), 1)
    of_shots: dict[str, list[Shots]] = {"knn": [], "ridge": []}
    for number in shots:
        found: dict[str, list[float]] = {"knn": [], "ridge": []}
        for draw in range(draws):
            rows = draw_shots(labels, number, np.random.default_rng([seed, number, draw]))
            part, part_labels = x[rows], labels[rows]
            votes = knn(part, part_labels, y, num_classes, neighbours)
            found["knn"].append(float((votes.argmax(axis=1) == expected).mean()))
            scores = Ridge(part, part_labels, num_classes, strength).scores(y)
            found["ridge"].append(float((scores.argmax(axis=1) == expected).mean()))
        for name, several in found.items():
            of_shots[name].append(Shots(number, tuple(several)))
    accuracy = {
        name: Accuracy(int((answer == expected).sum()), len(expected))
        for name, answer in answers.items()
    }
    return Probed(len(train), len(test), num_classes, accuracy, of_shots, ridge.strength, confusion)


def draw_shots(
    labels: Int[np.ndarray, " N"], shots: int, rng: np.random.Generator
) -> Int[np.ndarray, " M"]:
    """Return rows with `shots` images of each class, drawn without repetition."""
    rows = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return np.concatenate([rng.permutation(of_class)[:shots] for of_class in rows])


def held_out(
    features: Features, fraction: float = HELD_OUT, seed: int = 0
) -> tuple[Features, Features]:
    """Divide features by class: those to fit on, and a fraction (at least one) to score on.

    Raises:
        UserError: if images have no labels, or a class has one image.
    """
    if features.classes is None or not 0 < fraction < 1:
        raise UserError(
            "the features have no labels, or the held-out fraction is not between 0 and 1. Give a"
            " folder of class folders, or packed data."
        )
    rng, test = np.random.default_rng(seed), []
    for label in np.unique(features.labels[features.labels >= 0]):
        rows = rng.permutation(np.flatnonzero(features.labels == label))
        if len(rows) < 2:
            raise UserError(
                f"class {features.classes.ids[label]} has one image, so none can be held out."
                " Give more images, or a second set with --test."
            )
        test.append(rows[: max(1, round(fraction * len(rows)))])
    chosen = np.sort(np.concatenate(test))
    others = np.setdiff1d(np.arange(len(features)), chosen)
    return features.take(others), features.take(chosen)


def _checked(train: Features, test: Features) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels of both, in the classes of the first."""
    for what, one in (("to fit on", train), ("to score on", test)):
        if one.classes is None or not len(one) or (one.labels < 0).any():
            raise UserError(
                f"the features {what} have images without a label. Embed packed data, or a folder"
                " of class folders."
            )
    assert train.classes is not None and test.classes is not None
    if train.array.shape[1] != test.array.shape[1]:
        raise UserError(
            f"the features have {train.array.shape[1]} and {test.array.shape[1]} numbers an image."
            " Embed both with one model."
        )
    known = train.classes.label_of
    lacking = [
        id for k, id in enumerate(test.classes.ids) if id not in known and (test.labels == k).any()
    ]
    if lacking:
        raise UserError(
            f"class {lacking[0]} is to be scored and there is no image to fit on. Use data of the"
            " same classes."
        )
    columns = np.array([known.get(class_id, -1) for class_id in test.classes.ids])
    return train.labels.astype(np.int64), columns[test.labels]


def _normalised(features: np.ndarray) -> np.ndarray:
    wide = features.astype(np.float32)
    return wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)
