"""The views: functions that turn class probabilities into a few synsets.

`top` and `subset` rank classes; the other views use WordNet. The order of the classes never
changes an answer: of equal answers, the first by id or the most specific comes first.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from i21k.errors import UserError
from i21k.labels import ClassList
from i21k.wordnet.answers import Answer, Answers, Probabilities, checked, rank
from i21k.wordnet.diverse import diverse, num_branches
from i21k.wordnet.hedge import Calibration, calibrate, calibrate_each, hedge
from i21k.wordnet.hierarchy import Hierarchy
from i21k.wordnet.partition import membership

__all__ = [
    "Answer", "Answers", "Calibration", "Probabilities", "basic", "calibrate",
    "calibrate_each", "diverse", "fold", "hedge", "num_branches", "subset", "top",
]  # fmt: skip


def top(
    probabilities: Probabilities, classes: ClassList, k: int = 5, exclusive: bool = True
) -> Answers:
    """Answer with the `k` most probable classes.

    Args:
        probabilities: of the classes.
        classes: the class list.
        k: number of answers.
        exclusive: whether the classes exclude each other, so that probabilities add up to 1. Those
            of sigmoids do not.
    """
    return rank(checked(probabilities, classes, exclusive), classes.ids, k)


def subset(
    probabilities: Probabilities, classes: ClassList, chosen: Bool[np.ndarray, " K"], k: int = 5
) -> Answers:
    """Answer with the `k` most probable of the `chosen` classes.

    The probabilities are conditional on the chosen classes, so theirs add up to 1. If all chosen
    classes have probability 0, they keep it.
    """
    if chosen.shape != (len(classes),) or not chosen.any():
        raise UserError(
            f"{int(chosen.sum())} of {chosen.size} classes are chosen, expected at least 1"
            f" of {len(classes)}. Choose more classes, with one value for each class."
        )
    some = checked(probabilities, classes)[:, chosen]
    total = some.sum(axis=1, keepdims=True)
    some = np.divide(some, total, out=np.zeros_like(some), where=total > 0)
    return rank(some, [class_id for class_id, c in zip(classes.ids, chosen, strict=True) if c], k)


def fold(
    probabilities: Probabilities,
    hierarchy: Hierarchy,
    onto: Sequence[str],
    k: int = 5,
    once: bool = False,
) -> Answers:
    """Answer with the `k` most probable of the synsets `onto`.

    Each synset has the probability of all classes at or below it. A class below two of them
    counts for both, so the probabilities may add up to more than 1. With `once`, each class counts
    for one synset only (`i21k.wordnet.partition`), and they add up to at most 1.
    """
    matrix = membership(onto, hierarchy) if once else hierarchy.below(onto)
    return rank((matrix @ checked(probabilities, hierarchy.classes).T).T, onto, k)


def basic(probabilities: Probabilities, hierarchy: Hierarchy, k: int = 5) -> Answers:
    """Answer with the `k` most probable everyday names (`Taxonomy.basic`).

    Each class counts for one name, so the probabilities of all names add up to 1. A name may be
    above another: `animal` has the animals without an everyday name of their own.
    """
    taxonomy = hierarchy.taxonomy
    ids = [
        taxonomy.synsets[taxonomy.basic[taxonomy.number_of[class_id]]].id
        for class_id in hierarchy.classes.ids
    ]
    names, of = np.unique(ids, return_inverse=True)
    mass = np.zeros((len(probabilities), len(names)))
    np.add.at(mass.T, of, checked(probabilities, hierarchy.classes).T)
    return rank(mass, names.tolist(), k)
