"""The view `diverse`: a few synsets that say what is in an image and do not repeat each other."""

from collections.abc import Sequence

import numpy as np
import scipy.sparse.csgraph
from jaxtyping import Bool, Float, Int

from i21k.errors import UserError
from i21k.wordnet.answers import Answer, Answers, Probabilities, checked
from i21k.wordnet.hierarchy import Hierarchy

FLOOR = 0.3  # our choice: for fall11, conifer (0.47) and bird (0.33) are answers, placental is not
LEAST = 0.003  # our choice: 65 times what 21,841 equally probable classes have
SHARE = 0.5  # our choice: more probable than not


def diverse(
    probabilities: Probabilities,
    hierarchy: Hierarchy,
    k: int = 5,
    floor: float = FLOOR,
    least: float = LEAST,
    share: float = SHARE,
) -> Answers:
    """Answer with at most `k` synsets that together say the most about an image.

    For a synset v over K classes:

        M(v)       probability of the classes at or below v
        n(v)       number of those classes
        b          background: mean probability of all classes but the k most probable
        E(v)       M(v) - n(v) * b, what v has more than its background
        s(v)       specificity, from 0 at the root to 1 where there is one class
        s(u, v)    the largest specificity of a common ancestor of u and v

    The answers are the set A of at most k synsets with the largest

        sum over v in A of E(v) * (s(v) - max of s(u, v) over the u in A with a larger E(u)).

    The reasons, factor by factor:

    - E(v) * s(v) is the information that one answer is expected to give. The specificity is what
      the answer says, and the probability is how often it is right.
    - A wide synset always collects some probability, because every class has a little. E(v)
      subtracts that share, so a synset with only background is worth nothing. The k most probable
      classes are not background, so that a confident model has little of it.
    - A second answer says again what it has in common with a more probable answer. Only the rest
      counts. Five kinds of fir mostly repeat each other, so one answer `conifer` is better.
      A valley and an alp have less in common, so both are worth an answer.

    Synsets with s(v) < `floor`, with M(v) < `least` or with E(v) <= 0 are never answers. Nor is a
    synset if one synset below it has M(v) of at least `least` and more than a `share` of its E(v).
    The narrower one is more specific, and probably right too: `tabby`, and not `cat`, if it is more
    probable than all other cats together. No two
    answers have a class in common, so no answer is above another, and the probabilities add up to
    at most 1. The best set is found exactly (to one part in 1e9), by branch and bound.

    Args:
        probabilities: over the classes of `hierarchy`.
        hierarchy: of the classes.
        k: largest number of answers.
        floor: least specificity of an answer, above 0 and at most 1.
        least: least probability of an answer.
        share: of the excess of a synset, above 0. From 1 on it excludes almost nothing.
    """
    if k < 1 or not 0 < floor <= 1:
        raise UserError(
            f"k and floor are {k} and {floor}. Use at least 1 for k, and above 0 up to 1 for floor."
        )
    nodes = np.flatnonzero(hierarchy.specificity >= floor - 1e-12)[::-1]  # most specific first
    probabilities = checked(probabilities, hierarchy.classes)
    mass = hierarchy.fold(probabilities)[:, nodes]
    sizes = hierarchy.sizes[nodes]
    answers = []
    for row, background in zip(mass, _background(probabilities, k), strict=True):
        excess = row - background * sizes
        places = np.flatnonzero((row >= least) & (excess > 1e-12))
        places = places[np.argsort(-excess[places].round(12), kind="stable")]
        places = places[~_mostly_one(nodes[places], excess[places], hierarchy, share)]
        best = places[_best_set(nodes[places], excess[places], hierarchy, k)]
        chosen = sorted(best.tolist(), key=lambda m: (-row[m], m))
        answers.append([Answer(hierarchy.ids[nodes[m]], float(row[m])) for m in chosen])
    return answers


def _background(probabilities: Probabilities, k: int) -> Float[np.ndarray, " B"]:
    """Return the mean probability of all classes but the `k` most probable, for each image."""
    num_rest = probabilities.shape[1] - k
    if num_rest < 1:
        return np.zeros(len(probabilities))
    return np.partition(probabilities, num_rest - 1, axis=1)[:, :num_rest].mean(axis=1)


def _mostly_one(
    nodes: Int[np.ndarray, " M"],
    excess: Float[np.ndarray, " M"],
    hierarchy: Hierarchy,
    share: float,
) -> Bool[np.ndarray, " M"]:
    """Return which nodes have more than a `share` of their excess in one other node below them."""
    place = {node: m for m, node in enumerate(nodes.tolist())}
    mostly = np.zeros(len(nodes), bool)
    for m, node in enumerate(nodes.tolist()):
        for above in hierarchy.ancestors[node] & place.keys() - {node}:
            mostly[place[above]] |= excess[m] > share * excess[place[above]] + 1e-12
    return mostly


def shared_specificity(
    nodes: Int[np.ndarray, " M"], hierarchy: Hierarchy
) -> Float[np.ndarray, "M M"]:
    """Return for each pair of nodes the largest specificity of a common ancestor."""
    below: dict[int, list[int]] = {}
    for m, node in enumerate(nodes.tolist()):
        for ancestor in hierarchy.ancestors[node]:
            below.setdefault(ancestor, []).append(m)
    shared = np.zeros((len(nodes), len(nodes)))
    for ancestor in sorted(below, key=hierarchy.specificity.__getitem__):
        members = np.array(below[ancestor])
        shared[members[:, None], members] = hierarchy.specificity[ancestor]
    return shared


def share_classes(nodes: Int[np.ndarray, " M"], hierarchy: Hierarchy) -> Bool[np.ndarray, "M M"]:
    """Return for each pair of nodes whether a class is at or below both."""
    reach = hierarchy.reach[nodes]
    return (reach @ reach.T).toarray() > 0


def _best_set(
    nodes: Int[np.ndarray, " M"], excess: Float[np.ndarray, " M"], hierarchy: Hierarchy, k: int
) -> list[int]:
    """Return the places of the best set of at most `k` nodes; `excess` falls.

    Branch and bound. Adding nodes to a set never makes the term of another node larger. So
    the terms that single nodes would add now, summed, are at least what they add together.
    """
    if not len(nodes):
        return []
    shared, clash = shared_specificity(nodes, hierarchy), share_classes(nodes, hierarchy)
    clashes = [int.from_bytes(np.packbits(row, bitorder="little").tobytes(), "little")
               for row in clash]  # fmt: skip
    specificity, worth = hierarchy.specificity[nodes], excess.tolist()
    best: list[int] = []
    best_total = 0.0

    def total_of(chosen: list[int]) -> float:
        total = 0.0
        for n, i in enumerate(chosen):  # the largest excess first
            said = max((shared[i, u] for u in chosen[:n]), default=0.0)
            total += worth[i] * (specificity[i] - said)
        return total

    def bound(places: list[int], values: list[float], room: int) -> float:
        """Bound what `room` of some places can add: nodes that all clash give one at most."""
        groups: list[int] = []
        total = 0.0
        for i, value in zip(places, values, strict=True):
            for g, group in enumerate(groups):
                if not group & ~clashes[i]:
                    groups[g] |= 1 << i
                    break
            else:
                if len(groups) == room:
                    break
                groups.append(1 << i)
                total += value
        return total

    def search(places: Int[np.ndarray, " P"], chosen: list[int], said: np.ndarray) -> None:
        """Try sets of `chosen` and some of `places`; `said` is what each place would repeat."""
        nonlocal best, best_total
        total = total_of(chosen)
        if total > best_total * (1 + 1e-12):
            best, best_total = chosen, total
        if len(chosen) == k or not len(places):
            return
        value = excess[places] * (specificity[places] - said[places])
        order = np.argsort(-value, kind="stable")
        places, values = places[order], value[order].tolist()
        listed = places.tolist()
        for n, i in enumerate(listed):
            room = k - len(chosen)
            if total + sum(values[n : n + room]) <= best_total * (1 + 1e-9):
                return
            if total + bound(listed[n:], values[n:], room) <= best_total * (1 + 1e-9):
                return
            rest = places[n + 1 :]
            repeated = said.copy()
            repeated[i:] = np.maximum(said[i:], shared[i, i:])  # for those with less excess
            search(rest[~clash[i, rest]], sorted([*chosen, i]), repeated)

    search(np.arange(len(nodes)), [], np.zeros(len(nodes)))
    return best


def num_branches(synset_ids: Sequence[str], hierarchy: Hierarchy, alike: float = FLOOR) -> int:
    """Count how many different things some answers name.

    Two answers name the same thing if both are more specific than `alike` and they have a class
    in common or a common ancestor that is more specific than `alike`. So do answers that are
    connected by others.
    """
    nodes = np.array([hierarchy.node_of[synset_id] for synset_id in dict.fromkeys(synset_ids)], int)
    if not len(nodes):
        return 0
    specific = hierarchy.specificity[nodes] > alike
    same = (shared_specificity(nodes, hierarchy) > alike) | share_classes(nodes, hierarchy)
    same &= specific[:, None] & specific
    return int(scipy.sparse.csgraph.connected_components(same)[0])
