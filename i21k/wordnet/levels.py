"""The classes near each class: growing sets around it, one for each level of WordNet.

WordNet is not a tree. Here each synset is only below its most specific parent, as in `partition`,
so that all sets are intervals of one order of the classes. A K x K matrix is never made.
"""

import dataclasses

import numpy as np
from jaxtyping import Float32, Int32

from i21k.wordnet.hierarchy import Hierarchy
from i21k.wordnet.partition import main_parent

# The sets beyond have 0.4 % of the weight at a decay of 0.5, and each one costs time in every step.
MAX_LEVELS = 8


@dataclasses.dataclass(frozen=True, eq=False)
class Levels:
    """Up to D sets of classes around each of K classes, the smallest first.

    Each set holds the class itself and has more members than the one before it. A class with fewer
    than D sets has empty ones of weight 0 at the end.
    """

    place: Int32[np.ndarray, " K"]  # of each class, in an order in which each set is an interval
    first: Int32[np.ndarray, "K D"]  # place of the first member of each set
    stop: Int32[np.ndarray, "K D"]  # place behind the last member
    weights: Float32[np.ndarray, "K D"]  # of a class's sets; they add up to 1

    @property
    def sizes(self) -> Int32[np.ndarray, "K D"]:
        """Number of members of each set."""
        return self.stop - self.first


def make_levels(hierarchy: Hierarchy, decay: float) -> Levels:
    """Return the `MAX_LEVELS` smallest sets of each class.

    Args:
        hierarchy: of the classes.
        decay: weight of a set over that of the next smaller one, above 0.
    """
    parent = _tree(hierarchy)
    place, first, stop = _intervals(hierarchy, parent)
    chains: list[list[tuple[int, int]]] = []
    for node in hierarchy.class_nodes.tolist():
        chain: list[tuple[int, int]] = []
        above, size = node, 1
        while above >= 0 and len(chain) < MAX_LEVELS:
            interval = first[above], stop[above]
            if interval[1] - interval[0] > size:
                chain.append(interval)
                size = interval[1] - interval[0]
            above = parent[above]
        chains.append(chain or [(first[node], stop[node])])  # of a single class
    depth = max(map(len, chains))
    bounds = np.zeros((len(chains), depth, 2), np.int32)
    weights = np.zeros((len(chains), depth))
    for label, chain in enumerate(chains):
        bounds[label, : len(chain)] = chain
        weights[label, : len(chain)] = decay ** np.arange(len(chain))
    weights /= weights.sum(axis=1, keepdims=True)
    return Levels(place, bounds[..., 0], bounds[..., 1], weights.astype(np.float32))


def _tree(hierarchy: Hierarchy) -> list[int]:
    """Return the one parent of each node; -1 for the root."""
    found = []
    for synset_id in hierarchy.ids:
        parents = hierarchy.taxonomy[synset_id].parents
        above = main_parent(hierarchy.taxonomy, parents)
        found.append(-1 if above is None else hierarchy.node_of[above])
    return found


def _intervals(
    hierarchy: Hierarchy, parent: list[int]
) -> tuple[Int32[np.ndarray, " K"], list[int], list[int]]:
    """Return the place of each class, and the first place of each node and the one behind it."""
    num_nodes = len(parent)
    class_of = {node: label for label, node in enumerate(hierarchy.class_nodes.tolist())}
    sizes = [int(node in class_of) for node in range(num_nodes)]
    for node in reversed(range(num_nodes)):  # parents have smaller numbers
        if parent[node] >= 0:
            sizes[parent[node]] += sizes[node]
    first, free = [0] * num_nodes, [0] * num_nodes  # free: where the next child begins
    place = np.zeros(len(class_of), np.int32)
    next_root = 0
    for node in range(num_nodes):
        if parent[node] < 0:
            first[node] = next_root
            next_root += sizes[node]
        else:
            first[node] = free[parent[node]]
            free[parent[node]] += sizes[node]
        if node in class_of:
            place[class_of[node]] = first[node]
        free[node] = first[node] + (node in class_of)
    return place, first, [start + size for start, size in zip(first, sizes, strict=True)]
