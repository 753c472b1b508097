"""Ways to read probabilities over many classes: functions of arrays and class ids that answer with synsets, never with pictures.

`top` and `subset` rank classes. The others ask WordNet: `fold` adds up what lies below given synsets, `diverse` gives a few answers that do
not repeat each other, `hedge` one as specific as it can be while right often enough, `basic` everyday names. None depends on the order
of the classes: of equal answers the first by id, or the most specific, comes first.
"""

import functools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from i21k.errors import UserError
from i21k.labels import ClassList
from i21k.wordnet.hierarchy import Hierarchy

Probabilities = Float[np.ndarray, "B K"]

ALIKE = 0.3  # chosen here, as `cut(ic=3)` for fall11: two conifers or two landforms are alike, a landform and a bridge are not


class Answer(NamedTuple):
    """A synset, and the probability that the class is at or below it (for `top` and `subset`: that it is this class)."""

    id: str
    probability: float


Answers = list[list[Answer]]  # for each picture, the most probable first


def _checked(probabilities: Probabilities, classes: ClassList) -> Probabilities:
    """Return the probabilities in float64, each picture's adding up to 1."""
    if probabilities.ndim != 2 or probabilities.shape[1] != len(classes):
        raise UserError(
            f"probabilities have shape {list(probabilities.shape)}; expected [pictures, {len(classes)} classes]"
        )
    probabilities = probabilities.astype(np.float64)
    total = probabilities.sum(axis=1, keepdims=True)
    if not (
        (probabilities >= 0).all() and np.allclose(total, 1, atol=0.02)
    ):  # a softmax in bfloat16 may be off by 0.01
        least, most = probabilities.min(), probabilities.max()
        raise UserError(
            f"probabilities lie in {least:.3g}..{most:.3g} and add up to {total.min():.3g}..{total.max():.3g} a picture; expected a softmax"
            " over the classes, not logits"
        )
    return probabilities / total


def _largest(values: Float[np.ndarray, " M"], k: int) -> Int[np.ndarray, " k"]:
    """Return the places of the `k` largest values, largest first; of equal ones the first."""
    if k < 1:
        raise UserError(f"{k} answers were asked for; expected at least 1")
    places = (
        np.arange(len(values))
        if k >= len(values)
        else np.flatnonzero(values >= np.partition(values, -k)[-k])
    )
    return places[np.argsort(-values[places], kind="stable")[:k]]


def _rank(mass: Float[np.ndarray, "B M"], ids: Sequence[str], k: int) -> Answers:
    """Answer with the `k` of `ids` with the largest mass."""
    by_id = np.argsort(np.array(ids))
    mass = mass[:, by_id]
    return [[Answer(ids[by_id[m]], float(row[m])) for m in _largest(row, k)] for row in mass]


# ------------------------------------------------------------------------------------------------------------------ ranking


def top(probabilities: Probabilities, classes: ClassList, k: int = 5) -> Answers:
    """Answer with the `k` most probable classes."""
    return _rank(_checked(probabilities, classes), classes.ids, k)


def subset(
    probabilities: Probabilities, classes: ClassList, chosen: Bool[np.ndarray, " K"], k: int = 5
) -> Answers:
    """Answer with the `k` most probable of the `chosen` classes, given that it is one of them: their probabilities add up to 1.

    Where all chosen have probability 0, they keep it.
    """
    if chosen.shape != (len(classes),) or not chosen.any():
        raise UserError(
            f"{int(chosen.sum())} of {chosen.size} classes are chosen; expected at least 1 of {len(classes)}"
        )
    some = _checked(probabilities, classes)[:, chosen]
    total = some.sum(axis=1, keepdims=True)
    some = np.divide(some, total, out=np.zeros_like(some), where=total > 0)
    return _rank(some, [class_id for class_id, c in zip(classes.ids, chosen, strict=True) if c], k)


def fold(
    probabilities: Probabilities, hierarchy: Hierarchy, onto: Sequence[str], k: int = 5
) -> Answers:
    """Answer with the `k` most probable of the synsets `onto`, each standing for all classes at or below it.

    These are probabilities of events that may overlap. They add up to at most 1 if no class is below two of `onto`, as below none but
    one of ILSVRC's 1,000.
    """
    return _rank((hierarchy.below(onto) @ _checked(probabilities, hierarchy.classes).T).T, onto, k)


def basic(probabilities: Probabilities, hierarchy: Hierarchy, k: int = 5) -> Answers:
    """Answer with the `k` most probable everyday names. Each class counts for one (`Taxonomy.basic`), so over all names they add up to 1.

    A name may stand above another: animal is what remains of the animals that have no everyday name of their own.
    """
    taxonomy = hierarchy.taxonomy
    ids = [
        taxonomy.synsets[taxonomy.basic[taxonomy.number_of[class_id]]].id
        for class_id in hierarchy.classes.ids
    ]
    names, of = np.unique(ids, return_inverse=True)
    mass = np.zeros((len(probabilities), len(names)))
    np.add.at(mass.T, of, _checked(probabilities, hierarchy.classes).T)
    return _rank(mass, names.tolist(), k)


# ------------------------------------------------------------------------------------------------------------------ diverse


class _Branches:
    """Which nodes say enough to be an answer, and which of them repeat each other, for one level of alikeness."""

    def __init__(self, hierarchy: Hierarchy, alike: float) -> None:
        enough = hierarchy.specificity > alike
        self.nodes = np.flatnonzero(enough)[::-1]  # the most specific first
        self.above = {
            int(n): frozenset(a for a in hierarchy.ancestors[n] if enough[a]) for n in self.nodes
        }
        self.branch = {
            n: min(above) for n, above in self.above.items()
        }  # nodes of one branch all repeat each other
        self._reach = hierarchy.reach

    @functools.lru_cache(maxsize=4096)  # noqa: B019, lives as long as the cache below
    def _labels(self, node: int) -> frozenset[int]:
        return frozenset(
            self._reach.indices[self._reach.indptr[node] : self._reach.indptr[node + 1]].tolist()
        )

    def repeat(self, a: int, b: int) -> bool:
        """Whether two answers share an ancestor that says enough (one of them, perhaps) or a class."""
        return not self.above[a].isdisjoint(self.above[b]) or not self._labels(a).isdisjoint(
            self._labels(b)
        )


@functools.lru_cache(maxsize=4)
def _branches(hierarchy: Hierarchy, alike: float) -> _Branches:
    return _Branches(hierarchy, alike)


def diverse(
    probabilities: Probabilities,
    hierarchy: Hierarchy,
    k: int = 5,
    generality: float = 0.0,
    alike: float = ALIKE,
    least: float = 0.01,
) -> Answers:
    """Answer with at most `k` synsets that cover the probability and do not repeat each other.

    With M(v) the probability of the classes at or below a node v and s(v) its specificity (`Hierarchy.specificity`), the answers are the
    set A of at most k nodes that maximises the information they are expected to give,

        sum over v in A of (s(v) + generality) * M(v),

    among the sets in which every s(v) > alike, every M(v) >= least, and no two nodes have in common an ancestor a (themselves included)
    with s(a) > alike, or a class at or below both. So an ancestor never stands beside its descendant, and the probabilities add up to at
    most 1. Found by branch and bound, exactly (to one part in 1e9).

    Args:
        probabilities: over the classes of `hierarchy`.
        hierarchy: of the classes.
        k: answers at most.
        generality: what an answer is worth for being right, beside what it says; more makes answers wider.
        alike: specificity from which on a common ancestor makes two answers alike, 0 to 1.
        least: probability that an answer has at least (0.01, chosen here).
    """
    if k < 1 or not 0 <= alike < 1 or generality < 0:
        raise UserError(
            f"k, alike, generality are {k}, {alike}, {generality}; expected at least 1, 0 to below 1, at least 0"
        )
    branches = _branches(hierarchy, alike)
    worth = (hierarchy.specificity + generality)[branches.nodes]
    mass = hierarchy.fold(_checked(probabilities, hierarchy.classes))[:, branches.nodes]
    answers = []
    for row in mass:
        values = worth * row * ((row >= least) & (row > 0))
        order = np.argsort(-values, kind="stable")[: np.count_nonzero(values)]
        nodes = branches.nodes[order].tolist()
        chosen = sorted(
            _best_set(nodes, values[order].tolist(), branches, k),
            key=lambda i: (-row[order[i]], -nodes[i]),
        )
        answers.append([Answer(hierarchy.ids[nodes[i]], float(row[order[i]])) for i in chosen])
    return answers


def num_branches(synset_ids: Sequence[str], hierarchy: Hierarchy, alike: float = ALIKE) -> int:
    """Count how many different things some answers say: answers that repeat each other (as in `diverse`), and repeat them, are one."""
    branches = _branches(hierarchy, alike)
    groups: list[set[int]] = []
    for node in (hierarchy.node_of[synset_id] for synset_id in synset_ids):
        same = [
            g
            for g in groups
            if node in branches.above
            and any(n in branches.above and branches.repeat(node, n) for n in g)
        ]
        groups = [g for g in groups if g not in same] + [{node}.union(*same)]
    return len(groups)


def _best_set(nodes: list[int], values: list[float], branches: _Branches, k: int) -> list[int]:
    """Return the places of at most `k` nodes that do not repeat each other, with the largest sum of `values`, which fall."""
    best: list[int] = []
    best_total = 0.0

    def allowed(start: int, chosen: list[int]) -> Iterable[int]:
        return (
            i
            for i in range(start, len(nodes))
            if not any(branches.repeat(nodes[i], nodes[c]) for c in chosen)
        )

    def bound(start: int, chosen: list[int]) -> float:
        """At most this can be added from `start` on: the best of each branch, as if branches never overlapped."""
        seen: set[int] = set()
        total = 0.0
        for i in allowed(start, chosen):
            if branches.branch[nodes[i]] not in seen:
                seen.add(branches.branch[nodes[i]])
                total += values[i]
                if len(seen) == k - len(chosen):
                    break
        return total

    def search(start: int, chosen: list[int], total: float) -> None:
        nonlocal best, best_total
        if total > best_total:
            best, best_total = chosen, total
        if len(chosen) == k:
            return
        for i in allowed(start, chosen):
            if total + bound(i, chosen) <= best_total * (1 + 1e-9):
                return
            search(i + 1, [*chosen, i], total + values[i])

    search(0, [], 0.0)
    return best


# -------------------------------------------------------------------------------------------------------------------- hedge


class Calibration(NamedTuple):
    """What `calibrate` found, and how `hedge` did with it on the held-out pictures."""

    generality: float  # for `hedge`
    accuracy: float  # fraction of answers that were right
    specificity: float  # mean of the answers', 0 (entity) to 1 (a class with none below)
    num_pictures: int  # held out


def hedge(probabilities: Probabilities, hierarchy: Hierarchy, generality: float) -> list[Answer]:
    """Answer each picture with one synset, as specific as is worth the risk (Deng et al. 2012, "Hedging Your Bets").

    It is the node v that maximises (s(v) + generality) * M(v), with M(v) > 0 the probability of the classes at or below it and s(v) its
    specificity; of equal ones the most specific. At generality 0 that is the most information to be expected; as it grows the answers
    become more general and more often right, up to the root. `calibrate` finds the one for an accuracy.
    """
    if not generality >= 0:
        raise UserError(f"generality is {generality}; expected at least 0, as `calibrate` gives")
    mass = hierarchy.fold(_checked(probabilities, hierarchy.classes))
    value = np.where(mass > 0, (hierarchy.specificity + generality) * mass, -np.inf)
    best = len(hierarchy.ids) - 1 - np.argmax(value[:, ::-1], axis=1)
    return [
        Answer(hierarchy.ids[node], float(row[node])) for node, row in zip(best, mass, strict=True)
    ]


def calibrate(
    held_out: Iterable[tuple[Probabilities, Int[np.ndarray, " B"]]],
    hierarchy: Hierarchy,
    accuracy: float,
) -> Calibration:
    """Find the least generality, 0 or more, from which on `hedge` is right for at least a fraction `accuracy` of held-out pictures.

    An answer is right if the class is at or below it. Every change of every picture's answer is found, so no generality is missed. Where
    even generality 0 is right more often than asked, that is the answer: nothing tells more.

    Args:
        held_out: batches of probabilities and true labels that nothing was trained on.
        hierarchy: of the classes.
        accuracy: wanted, above 0 and at most 1.

    Raises:
        ValueError: if there are no pictures, a label or `accuracy` is out of range, or so many are not to be had.
    """
    if not 0 < accuracy <= 1:
        raise UserError(f"accuracy is {accuracy}; expected a fraction above 0 and at most 1")
    by_specificity = np.lexsort((-np.arange(len(hierarchy.ids)), -hierarchy.specificity))
    count, right, told = 0, 0, 0.0
    changes: list[
        tuple[float, int, float]
    ] = []  # generality from which on so many more are right, and so much more is told
    for probabilities, labels in held_out:
        if labels.shape != (len(probabilities),) or (
            labels.size and not 0 <= labels.min() <= labels.max() < len(hierarchy.classes)
        ):
            raise UserError(
                f"{len(probabilities)} pictures have labels of shape {list(labels.shape)} up to {labels.max(initial=0)}; expected one each,"
                f" from 0 to {len(hierarchy.classes) - 1}"
            )
        mass = hierarchy.fold(_checked(probabilities, hierarchy.classes))[:, by_specificity]
        for row, label in zip(mass, labels, strict=True):
            truth = hierarchy.ancestors[hierarchy.class_nodes[label]]
            before = None
            for start, node in _answers_by_generality(row, by_specificity, hierarchy.specificity):
                now = (int(node in truth), float(hierarchy.specificity[node]))
                if before is None:
                    count, right, told = count + 1, right + now[0], told + now[1]
                else:
                    changes.append((start, now[0] - before[0], now[1] - before[1]))
                before = now
    if not count:
        raise UserError("there are no held-out pictures; expected some to calibrate on")
    changes.sort()
    starts = np.array([0.0, *(start for start, _, _ in changes)])
    num_right = np.cumsum([right, *(more for _, more, _ in changes)])
    sum_told = np.cumsum([told, *(more for _, _, more in changes)])
    last_of_equal = np.append(starts[1:] > starts[:-1], True)
    starts, num_right, sum_told = (
        starts[last_of_equal],
        num_right[last_of_equal],
        sum_told[last_of_equal],
    )
    enough = num_right >= np.ceil(accuracy * count - 1e-9)
    if not enough[-1]:
        raise UserError(
            f"accuracy {accuracy} is out of reach: {count - num_right[-1]:,} of {count:,} held-out pictures are of a class to which all"
            f" answers give probability 0; ask for at most {num_right[-1] / count}"
        )
    least = int(np.flatnonzero(~enough)[-1]) + 1 if not enough.all() else 0
    until = starts[least + 1] if least + 1 < len(starts) else 2 * starts[least] + 1
    return Calibration(
        float(starts[least] + until) / 2,
        float(num_right[least] / count),
        float(sum_told[least] / count),
        count,
    )


def _answers_by_generality(
    mass: Float[np.ndarray, " N"],
    by_specificity: Int[np.ndarray, " N"],
    specificity: Float[np.ndarray, " N"],
) -> list[tuple[float, int]]:
    """Return the answers of `hedge` as generality grows from 0, each with where it starts; `mass` is in order of falling specificity.

    Values are straight lines over generality, with slope M(v): the answers are their upper envelope.
    """
    best_so_far = np.maximum.accumulate(mass)
    better = np.flatnonzero(
        mass > np.concatenate(([0.0], best_so_far[:-1]))
    )  # no node that says as much is as probable
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
