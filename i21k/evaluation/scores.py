"""Score log-probabilities batch by batch: accuracies, loss, calibration, distances of mistakes.

It uses neither images nor networks. It keeps only a few numbers per class and the mistaken pairs:
50,000 x 21,841 log-probabilities would take 4.4 GB.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from i21k.errors import UserError
from i21k.evaluation.by_class import ByClass
from i21k.evaluation.column import Column
from i21k.evaluation.distances import Distances
from i21k.evaluation.ranks import Labels, renormalised
from i21k.labels import ClassList
from i21k.wordnet.class_lists import columns
from i21k.wordnet.hierarchy import Hierarchy
from i21k.wordnet.partition import membership
from i21k.wordnet.taxonomy import wordnet


class Scores:
    """Sums over images whose classes are those of `data`, answered by a model of any classes.

    There are up to four columns. Each is one way to rank:

    - `all` ranks every class of the model.
    - `over` ranks the classes of a subset. Their probabilities are renormalised.
    - `folded` ranks the subset too. Each class of the subset has the probability of all classes
      that `i21k.wordnet.partition` puts under it. Each class is under at most one of them. An image
      is right where the class is that its own class is under.
    - `tolerant` ranks every class. A class below the image's class is right too.

    A class that the model lacks makes its images wrong: they count in every denominator but that of
    the loss.
    """

    def __init__(self, model: ClassList, data: ClassList, over: ClassList | None = None) -> None:
        """Prepare the columns.

        A column is omitted where it cannot be computed, and `omitted` contains the reason: all that
        need WordNet, if it lacks a class, and `over`, if the model has none of the subset.

        Args:
            model: the K classes that log-probabilities are given for.
            data: the classes that labels count.
            over: the subset of `over` and `folded`; None omits both.

        Raises:
            UserError: if the model has no class of the data, and none below one; or none of the
                subset, and none below one.
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
        self._ranked = np.zeros(0, int)  # the model's labels of the subset
        if over is not None:
            self._prepare_subset(over)
        if self.hierarchy is not None:
            below = self.hierarchy.below(data.ids)[:, columns(self.hierarchy.classes, model)]
            self._accepted["tolerant"] = dict(
                zip(data.ids, np.split(below.indices, below.indptr[1:-1]), strict=True)
            )
        if len(self.lacking) == len(data) and not any(
            map(len, self._accepted.get("tolerant", {}).values())
        ):
            raise UserError(
                f"the model has none of the data's {wordnet().enumerate(data.ids)}; its own are"
                f" {wordnet().enumerate(model.ids)}; evaluate on data of its classes"
            )
        names = [name for name in ("all", "over", "folded", "tolerant") if name in self._accepted]
        self._table = {name: Column(calibrated=name != "tolerant") for name in names}
        self._real = {name: Column() for name in self._table if name != "tolerant"}
        self.num_several = 0  # images of which several classes are right
        self._by_class = ByClass(model, data)
        self._distances = None if self.hierarchy is None else Distances(self.hierarchy, model, data)

    def _prepare_subset(self, over: ClassList) -> None:
        labels = columns(self.model, over)
        self._ranked = labels[labels >= 0]
        if len(self._ranked):
            self._accepted["over"] = {
                self.model.ids[label]: np.array([place])
                for place, label in enumerate(self._ranked.tolist())
            }
        else:
            self.omitted["over"] = f"the model has none of {wordnet().enumerate(over.ids)}"
        if self.hierarchy is not None:
            under = membership(over.ids, self.hierarchy)
            self._fold = under[:, columns(self.hierarchy.classes, self.model)]
            of_class = under.tocsc()
            places = np.split(of_class.indices, of_class.indptr[1:-1])
            self._accepted["folded"] = dict(zip(self.hierarchy.classes.ids, places, strict=True))
        if not len(self._ranked) and (self.hierarchy is None or not self._fold.nnz):
            raise UserError(
                f"none of the {len(over)} classes to rank is one of the model's"
                f" {len(self.model)}, or above one. Choose another list."
            )

    def add(
        self,
        log_probabilities: Float[np.ndarray, "B K"],
        labels: Labels,
        real: Sequence[Sequence[str]] | None = None,
        all_labels: Sequence[Sequence[int]] | None = None,
    ) -> Int[np.ndarray, " B"]:
        """Count a batch of images.

        Args:
            log_probabilities: of the model's classes.
            labels: of the images, in the data's class list. By them images are put into classes.
            all_labels: all labels that are right for each image, where images have several.
            real: ids of all classes that are right for each image by the ReaL labels. Images
                without any are not counted by them.

        Returns:
            The rank of the right class among all classes for each image, from 0; `NEVER` where the
            model cannot answer it.

        Raises:
            UserError: if an array does not fit the class lists, or is not a number.
        """
        values = log_probabilities
        if values.shape != (len(labels), len(self.model)):
            expected = f"[{len(labels)} images, {len(self.model)} classes]"
            raise UserError(
                f"log-probabilities have shape {list(values.shape)}; expected {expected}"
            )
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(self.data):
            raise UserError(
                f"labels are from {labels.min()} to {labels.max()}; expected 0 to"
                f" {len(self.data) - 1}, the data's classes"
            )
        # A sum over 21,841 may be off a little.
        if np.isnan(values).any() or (len(values) and values.max() > 0.01):
            raise UserError(
                "log-probabilities are not numbers, or above 0; expected a log-softmax of finite"
                " logits"
            )
        of_column = self._values(values)
        right_labels = [[label] for label in labels.tolist()] if all_labels is None else all_labels
        self.num_several += sum(len(right) > 1 for right in right_labels)
        ids = [[self.data.ids[label] for label in right] for right in right_labels]
        found = {
            name: column.add(of_column[name], self._right_of_each(name, ids))
            for name, column in self._table.items()
        }
        if real is not None:
            known = np.array([bool(right) for right in real], bool)
            sets = [right for right in real if right]
            for name, column in self._real.items():
                column.add(of_column[name][known], self._right_of_each(name, sets))
        self._by_class.add(labels, values.argmax(axis=1), found["all"], found.get("tolerant"))
        if self._distances is not None:
            self._distances.add(values, labels)
        return found["all"]

    def _values(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """Return the log-probabilities that each column ranks."""
        of_column = {"all": values, "tolerant": values}
        if "over" in self._accepted:
            of_column["over"] = renormalised(values[:, self._ranked])
        if "folded" in self._accepted:
            mass = (self._fold @ np.ascontiguousarray(np.exp(values).T)).T
            with np.errstate(divide="ignore"):
                of_column["folded"] = np.log(mass)
        return of_column

    def _right_of_each(self, name: str, ids: Sequence[Sequence[str]]) -> list[Labels]:
        """Return what a column counts as right for each image, whose classes are all right."""
        nothing, accepted = np.zeros(0, int), self._accepted[name]
        return [
            accepted.get(right[0], nothing)
            if len(right) == 1
            else np.unique(np.concatenate([accepted.get(class_id, nothing) for class_id in right]))
            for right in ids
        ]

    @property
    def count(self) -> int:
        """Images so far."""
        return self._table["all"].count

    def reliability(self) -> list[dict[str, float]]:
        """Return the bins of confidence over all classes: images, mean confidence, accuracy."""
        return self._table["all"].reliability()

    def reliabilities(self) -> dict[str, list[dict[str, float]]]:
        """Return the bins of each column that has probabilities."""
        return {
            name: column.reliability() for name, column in self._table.items() if column.calibrated
        }

    def per_class(self) -> list[dict[str, Any]]:
        """Return a row for each class that has images, in the order of the data's list."""
        return self._by_class.rows()

    def summary(
        self, sizes: Int[np.ndarray, " K"] | None = None, num_confusions: int = 20
    ) -> dict[str, Any]:
        """Return everything but the single classes, ready for JSON.

        Args:
            sizes: training images of each class of the model, or other numbers in their order.
                None, or equal numbers, omit `by_size`.
            num_confusions: pairs of `confusions`.
        """
        counts = {
            "model": len(self.model),
            "data": len(self.data),
            "seen": int((self._by_class.counts > 0).sum()),
        }
        if self.over is not None:
            counts |= {"over": len(self.over), "ranked": len(self._ranked)}
        num_real = self._real["all"].count
        num_lacking = self._by_class.counts[[self.data.label_of[i] for i in self.lacking]].sum()
        real = {name: column.summary() for name, column in self._real.items()}
        by_size = sizes is not None and not (sizes == sizes[0]).all()
        return {
            "count": self.count,
            "num_several": self.num_several,
            "classes": counts,
            "lacking": {"classes": list(self.lacking), "images": int(num_lacking)},
            "omitted": self.omitted,
            "table": {name: column.summary() for name, column in self._table.items()},
            "real": real if num_real else None,
            "num_real": num_real,
            "hierarchy": (
                self._distances.summary(self._by_class.mistakes, self.count)
                if self._distances
                else None
            ),
            "mean_of_classes": self._by_class.mean(),
            "by_size": self._by_class.by_size(sizes) if sizes is not None and by_size else None,
            "reliability": self.reliability(),
            "confusions": self._by_class.confusions(num_confusions),
        }
