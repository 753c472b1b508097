"""How far the answers to images are from the truth in WordNet, summed batch by batch."""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from i21k.evaluation.ranks import RANKS, Labels, best
from i21k.labels import ClassList
from i21k.wordnet.class_lists import columns
from i21k.wordnet.hierarchy import Hierarchy


class Distances:
    """Edges between wrong answers and the truth, and the heights of their common ancestors."""

    def __init__(self, hierarchy: Hierarchy, model: ClassList, data: ClassList) -> None:
        """Prepare the sums.

        Args:
            hierarchy: has all classes of `model` and `data`.
            model: the K classes of the answers.
            data: the classes of the labels.
        """
        self.hierarchy = hierarchy
        self._of_model, self._of_data = (
            columns(hierarchy.classes, classes) for classes in (model, data)
        )
        self._heights = np.zeros(len(RANKS), np.int64)  # of common ancestors of truth and answers

    def add(self, values: Float[np.ndarray, "B K"], labels: Labels) -> None:
        """Count a batch of log-probabilities."""
        k = min(RANKS[-1], values.shape[1])
        answers = np.array([best(row, k) for row in values], int).reshape(-1, k)
        truth = np.repeat(self._of_data[labels][:, None], k, axis=1)
        num_classes = len(self.hierarchy.classes)
        pairs, place = np.unique(truth * num_classes + self._of_model[answers], return_inverse=True)
        a, b = np.divmod(pairs, num_classes)
        heights = np.where(a == b, 0, self.lca_heights(a, b))[place.reshape(answers.shape)]
        self._heights += [heights[:, :r].sum() for r in RANKS]

    def lca_heights(
        self, a: Int[np.ndarray, " B"], b: Int[np.ndarray, " B"]
    ) -> Int[np.ndarray, " B"]:
        """Return the height in all of WordNet of the lowest common ancestor of each pair.

        Args:
            a: labels in the class list of `hierarchy`.
            b: the other labels.
        """
        heights, ancestors = self._heights_in_wordnet, self.hierarchy.ancestors
        nodes = self.hierarchy.class_nodes
        pairs = zip(nodes[a].tolist(), nodes[b].tolist(), strict=True)
        return np.array(
            [min(heights[n] for n in ancestors[x] & ancestors[y]) for x, y in pairs], int
        )

    @functools.cached_property
    def _heights_in_wordnet(self) -> list[int]:
        """Height of each node in all of WordNet, so that models of different classes compare."""
        taxonomy = self.hierarchy.taxonomy
        heights = [0] * len(taxonomy.synsets)
        for number in reversed(range(len(heights))):  # parents have smaller numbers
            for parent in taxonomy.synsets[number].parents:
                above = taxonomy.number_of[parent]
                heights[above] = max(heights[above], heights[number] + 1)
        return [heights[taxonomy.number_of[synset_id]] for synset_id in self.hierarchy.ids]

    def summary(self, mistakes: Mapping[int, int], count: int) -> dict[str, Any]:
        """Return where the best answers are in WordNet, and how far wrong ones are from the truth.

        Args:
            mistakes: how often each wrong answer was given, by `label of the data * K + answer`.
            count: images so far.
        """
        pairs, times = (
            np.array(list(numbers), np.int64) for numbers in (mistakes, mistakes.values())
        )
        label, answer = np.divmod(pairs, len(self._of_model))
        truth, answer = self._of_data[label], self._of_model[answer]
        covers, nodes = self.hierarchy.covers, self.hierarchy.class_nodes
        below, above = covers(nodes[truth], answer), covers(nodes[answer], truth)
        num_wrong, num_images = int(times.sum()), max(count, 1)
        edges = (times * self.hierarchy.distances(truth, answer)).sum()
        heights = (times * self.lca_heights(truth, answer)).sum()
        return {
            "right": (count - num_wrong) / num_images,
            "below": int(times[below].sum()) / num_images,
            "above": int(times[above].sum()) / num_images,
            "elsewhere": int(times[~below & ~above].sum()) / num_images,
            "mistakes": num_wrong,
            "mistake_distance": int(edges) / max(num_wrong, 1),
            "mistake_lca_height": int(heights) / max(num_wrong, 1),
            "lca_height": {
                f"top{k}": int(total) / min(k, len(self._of_model)) / num_images
                for k, total in zip(RANKS, self._heights, strict=True)
            },
        }
