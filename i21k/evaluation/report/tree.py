"""The classes of an evaluation as a tree of WordNet, for the map of the report."""

import functools
import itertools
from typing import Any

import numpy as np
from jaxtyping import Int

from i21k.evaluation.predictions import Predictions
from i21k.look.html import visible
from i21k.wordnet.partition import main_parent
from i21k.wordnet.taxonomy import wordnet

_OTHERS = "classes that WordNet lacks"


def order_of(ids: list[str]) -> list[str]:
    """Return class ids in the order of the tree, so that relatives are adjacent.

    Classes that WordNet lacks come last, by id.
    """
    paths = {class_id: path_of(class_id) for class_id in ids}
    return sorted(ids, key=lambda class_id: (class_id not in wordnet(), paths[class_id], class_id))


def path_of(class_id: str) -> tuple[str, ...]:
    """Return a synset and its main ancestors, the root first."""
    path = [class_id]
    while parent := _parent(path[-1]):
        path.append(parent)
    return tuple(reversed(path))


@functools.cache
def _parent(class_id: str) -> str | None:
    """Return the most specific parent of a synset; None for the root, and for other classes."""
    taxonomy = wordnet()
    if class_id not in taxonomy:
        return None
    return main_parent(taxonomy, taxonomy[class_id].parents)


def class_counts(
    predictions: Predictions,
) -> tuple[Int[np.ndarray, " C"], Int[np.ndarray, " C"], Int[np.ndarray, " C"]]:
    """Return images, and how many are right among the best 1 and 5, for each of the C classes."""
    num = len(predictions.classes)
    return (
        np.bincount(predictions.truths, minlength=num),
        np.bincount(predictions.truths[predictions.ranks <= 1], minlength=num),
        np.bincount(predictions.truths[predictions.ranks <= 5], minlength=num),
    )


def tree_of(predictions: Predictions) -> dict[str, list[Any]]:
    """Return the tree as columns, parents before their children.

    Each class is below its most specific parent, so that it counts once. Synsets that are no class
    and have a single child are skipped.

    Returns:
        `names`, `ids`, `parents` (-1 for the root), and for the class itself `images`, `top1` and
        `top5` (0 where the node is no class).
    """
    images, top1, top5 = class_counts(predictions)
    label_of = predictions.classes.label_of
    seen = [class_id for class_id, n in zip(predictions.classes.ids, images, strict=True) if n]
    children: dict[str, dict[str, None]] = {"": {}}  # dicts keep the order
    for class_id in order_of(seen):
        path = ("", *(path_of(class_id) if class_id in wordnet() else (_OTHERS, class_id)))
        for above, below in itertools.pairwise(path):
            children.setdefault(above, {})[below] = None
            children.setdefault(below, {})
    own = set(seen)
    columns: dict[str, list[Any]] = {
        key: [] for key in ("names", "ids", "parents", "images", "top1", "top5")
    }
    waiting = [(node, -1) for node in children[""]]
    if len(waiting) > 1:
        _add(columns, "all classes", "", -1, (0, 0, 0))
        waiting = [(node, 0) for node in children[""]]
    waiting.reverse()
    while waiting:
        node, parent = waiting.pop()
        while node not in own and len(children[node]) == 1:
            (node,) = children[node]
        counts = (0, 0, 0)
        if node in own:
            label = label_of[node]
            counts = (int(images[label]), int(top1[label]), int(top5[label]))
        _add(columns, wordnet().name(node), node, parent, counts)
        at = len(columns["ids"]) - 1
        waiting += [(child, at) for child in reversed(children[node])]
    return columns


def _add(
    columns: dict[str, list[Any]], name: str, node: str, parent: int, counts: tuple[int, int, int]
) -> None:
    columns["names"].append(visible(name))
    columns["ids"].append(visible(node))
    columns["parents"].append(parent)
    for key, n in zip(("images", "top1", "top5"), counts, strict=True):
        columns[key].append(n)
