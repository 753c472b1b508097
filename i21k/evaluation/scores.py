"""Score log-probabilities batch by batch: accuracies, loss, calibration, heights of mistakes.

It knows neither images nor networks. Sums are of integers (fractions in units of 2**-30), so that
neither the order of images nor their batches change a bit of them. No more is kept than a few numbers
per class and the mistaken pairs: 50,000 x 21,841 log-probabilities would take 4.4 GB.

An image is right among the best k if fewer than k classes rank before its class. Of equally probable
classes, the one earlier in the list ranks first, so a model that gives all classes the same
probability is right by chance alone. A class that the model lacks makes its images wrong: they count
in every denominator but that of the loss.
"""

import collections
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from i21k.errors import UserError
from i21k.labels import ClassList
from i21k.wordnet.class_lists import columns
from i21k.wordnet.hierarchy import Hierarchy
from i21k.wordnet.taxonomy import wordnet

RANKS = (1, 5, 20)  # as those who released the model of 2015 reported
NUM_BINS = 15  # of confidence, equally wide: Guo et al. 2017, arXiv 1706.04599
NEVER = 1 << 30  # the rank of what is right if it was not answered at all
_UNIT = 1 << 30  # of the sums: 14 million losses of up to 400 nats fit into 64 bits

Labels = Int[np.ndarray, "_"]  # lists of these have different lengths


def ranks(values: Float[np.ndarray, "B M"], accepted: Sequence[Labels]) -> Int[np.ndarray, " B"]:
    """Return the rank, from 0, of the best right column of each row.

    Of equal values the earlier column ranks first. `NEVER` where no column is right, or the best
    right one is minus infinity.
    """
    ranks = np.full(len(values), NEVER)
    for row, (of_row, right) in enumerate(zip(values, accepted, strict=True)):
        if len(right) and (best := of_row[right].max()) > -np.inf:
            first = right[of_row[right] == best].min()
            ranks[row] = np.count_nonzero(of_row > best) + np.count_nonzero(of_row[:first] == best)
    return ranks


def accuracies(tallies: Sequence[dict[str, list[int]]]) -> dict[str, float]:
    """Return `top1`, `top5`, `top20`, and with a subset `over_top1` ..., from the tallies of several parts."""
    found: dict[str, float] = {}
    for prefix in tallies[0]:
        count, *hits = (
            sum(numbers) for numbers in zip(*(tally[prefix] for tally in tallies), strict=True)
        )
        found |= {f"{prefix}top{k}": n / max(count, 1) for k, n in zip(RANKS, hits, strict=True)}
    return found


class _Column:
    """One column of the table: a way to rank, with its hits, loss and calibration."""

    def __init__(self, calibrated: bool = True) -> None:
        self.calibrated = calibrated
        self.count = 0
        self.hits = np.zeros(len(RANKS), np.int64)
        self.num_answerable = 0  # images that some column is right for
        self.num_impossible = 0  # of these, images whose class has probability 0
        self.loss = 0
        self.bins = np.zeros((3, NUM_BINS), np.int64)  # images, right ones, confidence

    def add(
        self, values: Float[np.ndarray, "B M"], accepted: Sequence[Labels]
    ) -> Int[np.ndarray, " B"]:
        """Count a batch of log-probabilities and return the rank of what is right in each."""
        found = ranks(values, accepted)
        self.count += len(values)
        self.hits += (found[:, None] < RANKS).sum(axis=0)
        if not self.calibrated:
            return found
        likelihoods = np.array(
            [
                of_row[right].max()
                for of_row, right in zip(values, accepted, strict=True)
                if len(right)
            ],
            np.float64,
        )
        possible = likelihoods > -np.inf
        self.num_answerable += len(likelihoods)
        self.num_impossible += int((~possible).sum())
        self.loss += int(_integers(-likelihoods[possible]).sum())
        confidence = np.exp(values.max(axis=1).astype(np.float64)).clip(0, 1)
        places = np.minimum((confidence * NUM_BINS).astype(int), NUM_BINS - 1)
        for sums, term in zip(self.bins, (1, found == 0, _integers(confidence)), strict=True):
            np.add.at(sums, places, term)
        return found

    def reliability(self) -> list[dict[str, float]]:
        """Return each bin that has images: their number, mean confidence, and accuracy."""
        return [
            {
                "pictures": int(n),
                "confidence": int(confidence) / _UNIT / int(n),
                "accuracy": int(right) / int(n),
            }
            for n, right, confidence in self.bins.T
            if n
        ]

    def tally(self) -> list[int]:
        """Return the number of images, and of those right among the best 1, 5, 20."""
        return [self.count, *self.hits.tolist()]

    def summary(self) -> dict[str, float | None]:
        """Return accuracies, and for calibrated columns loss and calibration error.

        The loss is in nats, over the `answerable` images; None if it is infinite or there are none.
        """
        means: dict[str, float | None] = {**accuracies([{"": self.tally()}])}
        if self.calibrated:
            known = self.num_answerable and not self.num_impossible
            means["answerable"] = self.num_answerable
            means["loss"] = self.loss / _UNIT / self.num_answerable if known else None
            gaps = sum(
                b["pictures"] * abs(b["confidence"] - b["accuracy"]) for b in self.reliability()
            )
            means["ece"] = gaps / max(self.count, 1)
        return means


class Scores:
    """Sums over images whose classes are those of `data`, answered by a model of any classes.

    Columns: `all` ranks every class of the model; `over` those of a subset, among which probabilities are renormalised; `folded` the
    subset's classes, each with the probability of all classes at or below it, where a picture's class counts as the subset's class it is
    or lies below; `tolerant` ranks every class, and one below the picture's class is right too.
    """

    def __init__(self, model: ClassList, data: ClassList, over: ClassList | None = None) -> None:
        """Prepare the columns.

        Where a class is not in WordNet, the columns that need WordNet are omitted, and `omitted` says
        why.

        Args:
            model: the K classes that log-probabilities are given for.
            data: the classes that labels count.
            over: the subset of `over` and `folded`; None omits both.

        Raises:
            ValueError: if none of the subset's classes, or none of the data's, is one of the model's.
        """
        self.model, self.data, self.over = model, data, over
        self.lacking = tuple(class_id for class_id in data.ids if class_id not in model.label_of)
        self.omitted: dict[str, str] = {}
        self._accepted: dict[str, dict[str, Labels]] = {
            "all": {class_id: np.array([k]) for k, class_id in enumerate(model.ids)}
        }
        ids = set(model.ids) | set(data.ids) | set(over.ids if over else ())
        if foreign := sorted(class_id for class_id in ids if class_id not in wordnet()):
            self.omitted["hierarchy"] = f"WordNet lacks {wordnet().enumerate(foreign)}"
        self.hierarchy = None if foreign else Hierarchy(ClassList.sorted(ids))
        if over is not None:
            self._prepare_subset(over)
        if self.hierarchy is not None:
            self._of_model, self._of_data = (
                columns(self.hierarchy.classes, classes) for classes in (model, data)
            )
            below = self.hierarchy.below(data.ids)[:, self._of_model]
            self._accepted["tolerant"] = dict(
                zip(data.ids, np.split(below.indices, below.indptr[1:-1]), strict=True)
            )
        if len(self.lacking) == len(data) and not any(
            map(len, self._accepted.get("tolerant", {}).values())
        ):
            raise UserError(
                f"the model has none of the data's {wordnet().enumerate(data.ids)}; its own are {wordnet().enumerate(model.ids)}; evaluate "
                "on data whose classes it knows"
            )
        names = [name for name in ("all", "over", "folded", "tolerant") if name in self._accepted]
        self._table = {name: _Column(calibrated=name != "tolerant") for name in names}
        self._real = {name: _Column() for name in self._table if name != "tolerant"}
        self._class_counts = np.zeros(len(data), np.int64)
        self._class_hits = np.zeros((len(data), len(RANKS)), np.int64)
        self._class_tolerated = np.zeros(len(data), np.int64)
        self._mistakes = collections.Counter[int]()  # by label of the data * K + answer
        self._heights = np.zeros(len(RANKS), np.int64)  # of common ancestors of truth and answers

    def _prepare_subset(self, over: ClassList) -> None:
        self._ranked = columns(self.model, over)
        self._ranked = self._ranked[self._ranked >= 0]
        if not len(self._ranked):
            raise UserError(
                f"none of the {len(over)} classes to rank is one of the model's {len(self.model)}; choose another list"
            )
        self._accepted["over"] = {
            self.model.ids[label]: np.array([place])
            for place, label in enumerate(self._ranked.tolist())
        }
        if self.hierarchy is None:
            return
        within = columns(self.hierarchy.classes, over)
        between = self.hierarchy.below(over.ids)[:, within]
        if between.nnz > len(over):
            above = next(
                row for row in range(len(over)) if between.indptr[row + 1] - between.indptr[row] > 1
            )
            self.omitted["folded"] = (
                f"{wordnet().enumerate([over.ids[above]])} has others of the subset below, and would hold theirs"
            )
            return
        below = self.hierarchy.below(over.ids)
        self._fold = below[:, columns(self.hierarchy.classes, self.model)]
        above = below.tocsc()
        rows = np.split(above.indices, above.indptr[1:-1])
        self._accepted["folded"] = dict(zip(self.hierarchy.classes.ids, rows, strict=True))

    def add(
        self,
        log_probabilities: Float[np.ndarray, "B K"],
        labels: Labels,
        real: Sequence[Sequence[str]] | None = None,
    ) -> None:
        """Count a batch of images.

        Args:
            log_probabilities: of the model's classes.
            labels: of the images, in the data's class list.
            real: ids of all classes that are right for each image by the ReaL labels. Images without
                any are not counted by them.

        Raises:
            ValueError: if an array does not fit the class lists, or is not a number.
        """
        values = log_probabilities
        if values.shape != (len(labels), len(self.model)):
            expected = f"[{len(labels)} pictures, {len(self.model)} classes]"
            raise UserError(
                f"log-probabilities have shape {list(values.shape)}; expected {expected}"
            )
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(self.data):
            raise UserError(
                f"labels lie in {labels.min()}..{labels.max()}; expected 0..{len(self.data) - 1}, the data's classes"
            )
        if np.isnan(values).any() or (
            len(values) and values.max() > 0.01
        ):  # a sum over 21,841 may be off a little
            raise UserError(
                "log-probabilities are not numbers, or above 0; expected a log-softmax of finite logits"
            )
        of_column = self._values(values)
        ids = [self.data.ids[label] for label in labels.tolist()]
        found = {
            name: column.add(of_column[name], self._right(name, ids))
            for name, column in self._table.items()
        }
        if real is not None:
            known = np.array([bool(right) for right in real], bool)
            sets = [right for right in real if right]
            for name, column in self._real.items():
                accepted = [np.concatenate(self._right(name, right)) for right in sets]
                column.add(of_column[name][known], accepted)
        np.add.at(self._class_counts, labels, 1)
        np.add.at(self._class_hits, labels, found["all"][:, None] < RANKS)
        if "tolerant" in found:
            np.add.at(self._class_tolerated, labels, found["tolerant"] == 0)
        wrong = found["all"] > 0
        pairs = labels[wrong].astype(np.int64) * len(self.model) + values[wrong].argmax(axis=1)
        self._mistakes.update(pairs.tolist())
        if self.hierarchy is not None:
            self._add_heights(values, labels, self.hierarchy)

    def _values(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """Return the log-probabilities that each column ranks."""
        of_column = {"all": values, "tolerant": values}
        if "over" in self._accepted:
            of_column["over"] = _renormalised(values[:, self._ranked])
        if "folded" in self._accepted:
            mass = (self._fold @ np.ascontiguousarray(np.exp(values).T)).T
            with np.errstate(divide="ignore"):
                of_column["folded"] = np.log(mass)
        return of_column

    def _right(self, name: str, ids: Sequence[str]) -> list[Labels]:
        nothing = np.zeros(0, int)
        return [self._accepted[name].get(class_id, nothing) for class_id in ids]

    def _add_heights(self, values: np.ndarray, labels: Labels, hierarchy: Hierarchy) -> None:
        k = min(RANKS[-1], values.shape[1])
        best = np.array([_best(row, k) for row in values]).reshape(-1, k)
        truth = np.repeat(self._of_data[labels][:, None], k, axis=1)
        pairs, places = np.unique(
            truth * len(hierarchy.classes) + self._of_model[best], return_inverse=True
        )
        a, b = np.divmod(pairs, len(hierarchy.classes))
        heights = np.where(a == b, 0, self._lca_heights(hierarchy, a, b))[
            places.reshape(best.shape)
        ]
        self._heights += [heights[:, :r].sum() for r in RANKS]

    @functools.cached_property
    def _whole_heights(self) -> list[int]:
        """Height of each node in all of WordNet, so that models of different classes compare."""
        assert self.hierarchy is not None
        taxonomy = self.hierarchy.taxonomy
        heights = [0] * len(taxonomy.synsets)
        for number in reversed(range(len(heights))):  # parents have smaller numbers
            for parent in taxonomy.synsets[number].parents:
                above = taxonomy.number_of[parent]
                heights[above] = max(heights[above], heights[number] + 1)
        return [heights[taxonomy.number_of[synset_id]] for synset_id in self.hierarchy.ids]

    def _lca_heights(
        self, hierarchy: Hierarchy, a: Int[np.ndarray, " B"], b: Int[np.ndarray, " B"]
    ) -> Int[np.ndarray, " B"]:
        """Return the height in all of WordNet of the lowest common ancestor of each pair."""
        heights, ancestors = self._whole_heights, hierarchy.ancestors
        pairs = zip(
            hierarchy.class_nodes[a].tolist(), hierarchy.class_nodes[b].tolist(), strict=True
        )
        return np.array(
            [min(heights[n] for n in ancestors[x] & ancestors[y]) for x, y in pairs], int
        )

    @property
    def count(self) -> int:
        """Images so far."""
        return self._table["all"].count

    @property
    def num_lacking(self) -> int:
        """Images whose class the model does not have."""
        return int(
            sum(self._class_counts[self.data.label_of[class_id]] for class_id in self.lacking)
        )

    def tally(self) -> dict[str, list[int]]:
        """Return the counts for `accuracies`: of all classes and, as `over_`, of the subset."""
        columns = {"": self._table["all"]} | (
            {"over_": self._table["over"]} if "over" in self._table else {}
        )
        return {prefix: column.tally() for prefix, column in columns.items()}

    def reliability(self) -> list[dict[str, float]]:
        """Return the bins of confidence over all classes: images, mean confidence, accuracy."""
        return self._table["all"].reliability()

    def summary(
        self, sizes: Int[np.ndarray, " K"] | None = None, num_confusions: int = 20
    ) -> dict[str, Any]:
        """Return everything but the single classes, ready for JSON.

        Args:
            sizes: training images of each class of the model, or other numbers in their order. None,
                or equal numbers, omit `by_size`.
            num_confusions: pairs of `confusions`.
        """
        counts = {
            "model": len(self.model),
            "data": len(self.data),
            "seen": int((self._class_counts > 0).sum()),
        }
        if self.over is not None:
            counts |= {"over": len(self.over), "ranked": len(self._ranked)}
        num_real, there = self._real["all"].count, self._class_counts > 0
        per_class = self._class_hits[there] / self._class_counts[there, None]
        return {
            "count": self.count,
            "classes": counts,
            "lacking": {"classes": list(self.lacking), "pictures": self.num_lacking},
            "omitted": self.omitted,
            "table": {name: column.summary() for name, column in self._table.items()},
            "real": {name: column.summary() for name, column in self._real.items()}
            if num_real
            else None,
            "num_real": num_real,
            "hierarchy": self._distances(),
            "mean_of_classes": {
                f"top{k}": float(per_class[:, r].mean()) if there.any() else 0.0
                for r, k in enumerate(RANKS)
            },
            "by_size": None if sizes is None or (sizes == sizes[0]).all() else self._by_size(sizes),
            "reliability": self.reliability(),
            "confusions": self.confusions(num_confusions),
        }

    def _distances(self) -> dict[str, Any] | None:
        """Return where answers are in WordNet, and how far wrong ones are from the truth."""
        if self.hierarchy is None:
            return None
        pairs = np.array(list(self._mistakes), np.int64)
        times = np.array(list(self._mistakes.values()), np.int64)
        truth, answer = (
            self._of_data[pairs // len(self.model)],
            self._of_model[pairs % len(self.model)],
        )
        nodes = self.hierarchy.class_nodes
        below, above = (
            self.hierarchy.covers(nodes[truth], answer),
            self.hierarchy.covers(nodes[answer], truth),
        )
        number, all_pictures = max(int(times.sum()), 1), max(self.count, 1)
        return {
            "right": (self.count - int(times.sum())) / all_pictures,
            "below": int(times[below].sum()) / all_pictures,
            "above": int(times[above].sum()) / all_pictures,
            "elsewhere": int(times[~below & ~above].sum()) / all_pictures,
            "mistakes": int(times.sum()),
            "mistake_distance": int((times * self.hierarchy.distances(truth, answer)).sum())
            / number,
            "mistake_lca_height": int(
                (times * self._lca_heights(self.hierarchy, truth, answer)).sum()
            )
            / number,
            "lca_height": {
                f"top{k}": int(total) / min(k, len(self.model)) / all_pictures
                for k, total in zip(RANKS, self._heights, strict=True)
            },
        }

    def _by_size(self, sizes: Int[np.ndarray, " K"]) -> dict[str, dict[str, float | int | None]]:
        """Return count and accuracies by thirds of the model's classes; ties go by class id."""
        if sizes.shape != (len(self.model),):
            raise UserError(
                f"sizes have shape {list(sizes.shape)}; expected [{len(self.model)}], one for each class of the model"
            )
        order = np.lexsort((np.array(self.model.ids), -sizes))
        parts: dict[str, dict[str, float | int | None]] = {}
        for name, part in zip(("head", "middle", "tail"), np.array_split(order, 3), strict=True):
            labels = [
                self.data.label_of[self.model.ids[k]]
                for k in part
                if self.model.ids[k] in self.data.label_of
            ]
            count, hits = (
                int(self._class_counts[labels].sum()),
                self._class_hits[labels].sum(axis=0),
            )
            parts[name] = {"classes": len(part), "count": count}
            parts[name] |= {
                f"top{k}": int(n) / count if count else None
                for k, n in zip(RANKS, hits, strict=True)
            }
        return parts

    def confusions(self, most: int) -> list[dict[str, Any]]:
        """Return the most frequent pairs of a class and a wrong answer; ties go by class id."""
        pairs = [
            (-n, self.data.ids[p // len(self.model)], self.model.ids[p % len(self.model)])
            for p, n in self._mistakes.items()
        ]
        return [
            {
                "class": a,
                "name": wordnet().name(a),
                "answer": b,
                "answer_name": wordnet().name(b),
                "pictures": -n,
            }
            for n, a, b in sorted(pairs)[:most]
        ]

    def per_class(self) -> list[dict[str, Any]]:
        """Return a row for each class that has images, in the order of the data's list.

        Accuracies are over all classes of the model.
        """
        worst: dict[int, tuple[int, str]] = {}  # the most frequent wrong answer
        for pair, n in self._mistakes.items():
            label, answer = divmod(pair, len(self.model))
            candidate = (-n, self.model.ids[answer])
            worst[label] = min(worst.get(label, candidate), candidate)
        rows = []
        for label in np.flatnonzero(self._class_counts).tolist():
            class_id, count = self.data.ids[label], int(self._class_counts[label])
            row: dict[str, Any] = {
                "class": class_id,
                "name": wordnet().name(class_id),
                "pictures": count,
            }
            row |= {
                f"top{k}": int(n) / count
                for k, n in zip(RANKS, self._class_hits[label], strict=True)
            }
            row["tolerant_top1"] = (
                None if self.hierarchy is None else int(self._class_tolerated[label]) / count
            )
            times, wrong = worst.get(label, (0, ""))
            rows.append(row | {"most_mistaken_for": wrong, "times": -times})
        return rows


def _best(values: Float[np.ndarray, " K"], k: int) -> Int[np.ndarray, " k"]:
    """Return the labels of the k largest values, the largest first; equal ones in list order."""
    least = np.partition(values, len(values) - k)[len(values) - k]
    candidates = np.flatnonzero(values >= least)  # in list order, with all that equal the last
    return candidates[np.argsort(-values[candidates], kind="stable")][:k]


def _renormalised(values: Float[np.ndarray, "B M"]) -> Float[np.ndarray, "B M"]:
    """Return the log-probabilities given that one of these columns is right.

    A row that is minus infinity everywhere stays so.
    """
    top = values.max(axis=1, keepdims=True)
    shifted = values - np.where(top > -np.inf, top, 0)
    total = np.exp(shifted).sum(axis=1, keepdims=True)
    return shifted - np.log(np.where(total > 0, total, 1))


def _integers(fractions: Float[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    return np.rint(fractions * _UNIT).astype(np.int64)
