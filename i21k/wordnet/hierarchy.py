"""A class list on the taxonomy: classes below each synset, specificity, distance between classes.

Nodes are the classes and all synsets above them, parents first. Sums are over the classes at or
below a node, each once. WordNet is not a tree: at 161 of fall11's 23,546 nodes, adding up the sums
of the children would count some classes twice.
"""

import collections
import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np
import scipy.sparse
from jaxtyping import Bool, Float, Int

from i21k.errors import UserError
from i21k.labels import ClassList
from i21k.wordnet.taxonomy import Taxonomy, wordnet


@dataclasses.dataclass(frozen=True, eq=False)
class Hierarchy:
    """K classes, and the N synsets that are these classes or above them, called nodes."""

    classes: ClassList
    taxonomy: Taxonomy = dataclasses.field(default_factory=wordnet)

    def __post_init__(self) -> None:
        unknown = [class_id for class_id in self.classes.ids if class_id not in self.taxonomy]
        if unknown:
            raise UserError(
                f"{len(unknown):,} of {len(self.classes):,} classes are not in WordNet, such as"
                f" {unknown[0]!r}. Use synset ids such as n02084071, or a view that needs no"
                " WordNet."
            )

    @functools.cached_property
    def _numbers(self) -> list[int]:
        """Number in the taxonomy of each node."""
        return sorted(
            set[int]().union(
                *(
                    self.taxonomy.ancestors[self.taxonomy.number_of[class_id]]
                    for class_id in self.classes.ids
                )
            )
        )

    @functools.cached_property
    def ids(self) -> tuple[str, ...]:
        """Synset id of each node."""
        return tuple(self.taxonomy.synsets[n].id for n in self._numbers)

    @functools.cached_property
    def node_of(self) -> dict[str, int]:
        """Node of each synset id."""
        return {synset_id: node for node, synset_id in enumerate(self.ids)}

    @functools.cached_property
    def class_nodes(self) -> Int[np.ndarray, " K"]:
        """Node of each class."""
        return np.array([self.node_of[class_id] for class_id in self.classes.ids])

    @functools.cached_property
    def parents(self) -> tuple[tuple[int, ...], ...]:
        """Parents of each node."""
        return tuple(
            tuple(self.node_of[parent] for parent in self.taxonomy[synset_id].parents)
            for synset_id in self.ids
        )

    @functools.cached_property
    def ancestors(self) -> tuple[frozenset[int], ...]:
        """Each node and the nodes above it."""
        node = {n: node for node, n in enumerate(self._numbers)}
        return tuple(frozenset(node[a] for a in self.taxonomy.ancestors[n]) for n in self._numbers)

    @functools.cached_property
    def reach(self) -> scipy.sparse.csr_array:
        """Matrix [N, K] of float32: 1 where the class is at or below the node."""
        above = [np.fromiter(self.ancestors[node], int) for node in self.class_nodes]
        rows, labels = (
            np.concatenate(above),
            np.repeat(np.arange(len(above)), [len(a) for a in above]),
        )
        matrix = scipy.sparse.coo_array(
            (np.ones(len(rows), np.float32), (rows, labels)),
            shape=(len(self.ids), len(self.classes)),
        )
        return matrix.tocsr()

    @functools.cached_property
    def sizes(self) -> Int[np.ndarray, " N"]:
        """Classes at or below each node."""
        return np.diff(self.reach.indptr)

    @functools.cached_property
    def ic(self) -> Float[np.ndarray, " N"]:
        """Information content in nats, -ln(classes at or below / K): from 0 (root) to ln K."""
        return np.log(len(self.classes) / self.sizes)

    @functools.cached_property
    def specificity(self) -> Float[np.ndarray, " N"]:
        """Information content in units of ln K: 0 at the root, 1 if one class is at or below."""
        return self.ic / math.log(max(2, len(self.classes)))

    @functools.cached_property
    def leaf(self) -> Bool[np.ndarray, " K"]:
        """Whether no other class lies below a class."""
        return self.sizes[self.class_nodes] == 1

    def fold(self, probabilities: Float[np.ndarray, "B K"]) -> Float[np.ndarray, "B N"]:
        """Return the probability of the classes at or below each node, in the input's precision."""
        if probabilities.ndim != 2 or probabilities.shape[1] != len(self.classes):
            raise UserError(
                f"probabilities have shape {list(probabilities.shape)}, expected [images,"
                f" {len(self.classes)} classes]. Use the class list of the model."
            )
        return (self.reach @ np.ascontiguousarray(probabilities.T)).T

    def below(self, synset_ids: Sequence[str]) -> scipy.sparse.csr_array:
        """Return the matrix [S, K] of float32 that is 1 where a class is at or below a synset.

        A synset that is not a node has no classes. `(hierarchy.below(ids) @ probabilities.T).T`
        is the probability of each synset with all classes below it.
        """
        found = [
            (row, self.node_of[synset_id])
            for row, synset_id in enumerate(synset_ids)
            if synset_id in self.node_of
        ]
        rows, nodes = np.array(found, int).reshape(-1, 2).T
        pick = scipy.sparse.coo_array(
            (np.ones(len(found), np.float32), (rows, nodes)), shape=(len(synset_ids), len(self.ids))
        )
        return pick.tocsr() @ self.reach

    def covers(
        self, nodes: Int[np.ndarray, " B"], labels: Int[np.ndarray, " B"]
    ) -> Bool[np.ndarray, " B"]:
        """Whether each class is at or below its node: whether an answer is right for the truth."""
        below = zip(nodes.tolist(), self.class_nodes[labels].tolist(), strict=True)
        return np.array([node in self.ancestors[class_node] for node, class_node in below], bool)

    @functools.cached_property
    def heights(self) -> Int[np.ndarray, " N"]:
        """Number of edges on the longest way down from each node."""
        heights = np.zeros(len(self.ids), int)
        for node in reversed(range(len(self.ids))):
            for parent in self.parents[node]:
                heights[parent] = max(heights[parent], heights[node] + 1)
        return heights

    @functools.cached_property
    def _steps_up(self) -> tuple[dict[int, int], ...]:
        """Number of edges on the shortest way up from each node to each of its ancestors."""
        steps: list[dict[int, int]] = []
        for node, parents in enumerate(self.parents):
            up = collections.defaultdict[int, int](lambda: len(self.ids), {node: 0})
            for parent in parents:
                for ancestor, edges in steps[parent].items():
                    up[ancestor] = min(up[ancestor], edges + 1)
            steps.append(dict(up))
        return tuple(steps)

    def lca_heights(
        self, a: Int[np.ndarray, " B"], b: Int[np.ndarray, " B"]
    ) -> Int[np.ndarray, " B"]:
        """Return the height of the lowest common ancestor of each pair of labels.

        It measures how severe a mistake is. It is 0 for a leaf and itself.
        """
        pairs = zip(self.class_nodes[a].tolist(), self.class_nodes[b].tolist(), strict=True)
        return np.array(
            [
                min(self.heights[node] for node in self.ancestors[m] & self.ancestors[n])
                for m, n in pairs
            ],
            int,
        )

    def distances(
        self, a: Int[np.ndarray, " B"], b: Int[np.ndarray, " B"]
    ) -> Int[np.ndarray, " B"]:
        """Return the number of edges between each pair of labels.

        It is the shortest way up to a common ancestor and down again, and 0 for equal labels.
        """
        pairs = [
            (self._steps_up[m], self._steps_up[n])
            for m, n in zip(self.class_nodes[a], self.class_nodes[b], strict=True)
        ]
        return np.array(
            [min(m[node] + n[node] for node in m.keys() & n.keys()) for m, n in pairs], int
        )
