"""Hits and wrong answers of each class, summed batch by batch."""

import collections
from typing import Any

import numpy as np
from jaxtyping import Int

from i21k.errors import UserError
from i21k.evaluation.ranks import RANKS, Labels
from i21k.labels import ClassList
from i21k.wordnet.taxonomy import wordnet


class ByClass:
    """Sums over images for each class of the data."""

    def __init__(self, model: ClassList, data: ClassList) -> None:
        self.model, self.data = model, data
        self.counts = np.zeros(len(data), np.int64)
        self.mistakes = collections.Counter[int]()  # by label of the data * K + answer
        self._hits = np.zeros((len(data), len(RANKS)), np.int64)
        self._tolerated = np.zeros(len(data), np.int64)
        self._has_tolerant = False

    def add(
        self,
        labels: Labels,
        answers: Labels,
        found: Int[np.ndarray, " B"],
        tolerant: Int[np.ndarray, " B"] | None,
    ) -> None:
        """Count a batch.

        Args:
            labels: of the images, in the data's class list.
            answers: the most probable class of each image, in the model's class list.
            found: the rank of the right class.
            tolerant: the rank of the best class at or below the right one. None without WordNet.
        """
        np.add.at(self.counts, labels, 1)
        np.add.at(self._hits, labels, found[:, None] < RANKS)
        if tolerant is not None:
            self._has_tolerant = True
            np.add.at(self._tolerated, labels, tolerant == 0)
        wrong = found > 0
        pairs = labels[wrong].astype(np.int64) * len(self.model) + answers[wrong]
        self.mistakes.update(pairs.tolist())

    def mean(self) -> dict[str, float]:
        """Return the mean over classes of the accuracies of each."""
        seen = self.counts > 0
        if not seen.any():
            return {f"top{k}": 0.0 for k in RANKS}
        means = (self._hits[seen] / self.counts[seen, None]).mean(axis=0)
        return {f"top{k}": float(mean) for k, mean in zip(RANKS, means, strict=True)}

    def by_size(self, sizes: Int[np.ndarray, " K"]) -> dict[str, dict[str, float | int | None]]:
        """Return count and accuracies by thirds of the model's classes; ties go by class id.

        Args:
            sizes: training images of each class of the model, or other numbers in their order.

        Raises:
            UserError: if `sizes` has another length.
        """
        if sizes.shape != (len(self.model),):
            raise UserError(
                f"sizes have shape {list(sizes.shape)}; expected [{len(self.model)}], one for each"
                " class of the model"
            )
        order = np.lexsort((np.array(self.model.ids), -sizes))
        parts: dict[str, dict[str, float | int | None]] = {}
        for name, part in zip(("head", "middle", "tail"), np.array_split(order, 3), strict=True):
            ids = [self.model.ids[k] for k in part.tolist()]
            labels = [self.data.label_of[i] for i in ids if i in self.data.label_of]
            count, hits = int(self.counts[labels].sum()), self._hits[labels].sum(axis=0)
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
            for p, n in self.mistakes.items()
        ]
        return [
            {
                "class": truth,
                "name": wordnet().name(truth),
                "answer": answer,
                "answer_name": wordnet().name(answer),
                "images": -n,
            }
            for n, truth, answer in sorted(pairs)[:most]
        ]

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each class that has images, in the order of the data's list.

        Accuracies are over all classes of the model.
        """
        worst: dict[int, tuple[int, str]] = {}  # the most frequent wrong answer
        for pair, n in self.mistakes.items():
            label, answer = divmod(pair, len(self.model))
            candidate = (-n, self.model.ids[answer])
            worst[label] = min(worst.get(label, candidate), candidate)
        rows = []
        for label in np.flatnonzero(self.counts).tolist():
            class_id, count = self.data.ids[label], int(self.counts[label])
            row: dict[str, Any] = {
                "class": class_id,
                "name": wordnet().name(class_id),
                "images": count,
            }
            row |= {
                f"top{k}": int(n) / count for k, n in zip(RANKS, self._hits[label], strict=True)
            }
            tolerated = int(self._tolerated[label]) / count if self._has_tolerant else None
            times, wrong = worst.get(label, (0, ""))
            row |= {"tolerant_top1": tolerated, "most_mistaken_for": wrong, "times": -times}
            rows.append(row)
        return rows
