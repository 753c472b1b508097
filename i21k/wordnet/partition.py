"""Assign each class to exactly one of some synsets, although WordNet is not a tree."""

from collections.abc import Iterable, Sequence

import numpy as np
import scipy.sparse
from jaxtyping import Bool, Int

from i21k.wordnet.hierarchy import Hierarchy
from i21k.wordnet.taxonomy import Taxonomy


def main_parent(taxonomy: Taxonomy, parents: Iterable[str]) -> str | None:
    """Return the most specific of some parents (of equal ones the first), None if there is none."""
    return next(iter(by_specificity(taxonomy, parents)), None)


def by_specificity(taxonomy: Taxonomy, parents: Iterable[str]) -> list[str]:
    """Return some parents in the order in which `main_parent` prefers them."""
    number_of = taxonomy.number_of
    return sorted(
        parents, key=lambda parent: (-taxonomy.specificity[number_of[parent]], number_of[parent])
    )


def owners(members: Sequence[str], hierarchy: Hierarchy) -> Int[np.ndarray, " K"]:
    """Return for each class the place in `members` of the one it is under, -1 if there is none.

    A class that is a member is under itself. Any other class is under the member of its most
    specific parent that has one. Members may be any synsets, classes or not.
    """
    place = {member: m for m, member in enumerate(members)}
    owner: dict[str, int] = {}
    for synset_id in hierarchy.ids:  # parents first
        parents = hierarchy.taxonomy[synset_id].parents
        parent = main_parent(hierarchy.taxonomy, (p for p in parents if owner[p] >= 0))
        owner[synset_id] = place.get(synset_id, -1 if parent is None else owner[parent])
    return np.array([owner[class_id] for class_id in hierarchy.classes.ids])


def membership(members: Sequence[str], hierarchy: Hierarchy) -> scipy.sparse.csr_array:
    """Return the matrix [S, K] of float32 with a 1 where a class is under a member.

    It has the shape of `Hierarchy.below`, but each class counts at most once:
    `(membership(members, hierarchy) @ probabilities.T).T` adds up to at most 1 for each image.
    """
    owner = owners(members, hierarchy)
    labels = np.flatnonzero(owner >= 0)
    ones = np.ones(len(labels), np.float32)
    shape = (len(members), len(owner))
    return scipy.sparse.coo_array((ones, (owner[labels], labels)), shape=shape).tocsr()


def partition(chosen: Bool[np.ndarray, " K"], hierarchy: Hierarchy) -> Bool[np.ndarray, " K"]:
    """Return the members of a partition of all classes: `owners` puts each class under one of them.

    The members are the chosen classes without another chosen class above them, and the classes
    without a chosen class at or above them. Each of the latter has itself only.
    """
    picked = frozenset(hierarchy.class_nodes[chosen].tolist())
    above = (hierarchy.ancestors[node] & picked for node in hierarchy.class_nodes.tolist())
    nodes = hierarchy.class_nodes.tolist()
    return np.array([found <= {node} for node, found in zip(nodes, above, strict=True)])
