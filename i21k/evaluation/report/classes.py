"""Sections of the report about single classes: best and worst ones, and which are confused."""

import collections

import numpy as np

from i21k.evaluation.predictions import Predictions
from i21k.evaluation.report import figures
from i21k.evaluation.report.tree import class_counts, order_of, path_of
from i21k.labels import ClassList
from i21k.look.parts import bar, class_name, percent, table
from i21k.wordnet.hierarchy import Hierarchy
from i21k.wordnet.taxonomy import wordnet

NUM_SHOWN = 12  # our choice: best and worst classes
NUM_PAIRS = 16  # our choice: confusions in the list
MATRIX_SIZE = 36  # our choice: classes of the matrix, which fill a screen


def best_and_worst(predictions: Predictions) -> str:
    """Return the classes with the highest and the lowest accuracy.

    Many classes of few images are equal. Of those, the worst is the one whose truths have the
    lowest ranks, and the best is the one whose answers are most certain.
    """
    images, top1, _ = class_counts(predictions)
    labels = np.flatnonzero(images)
    accuracy = top1[labels] / images[labels]
    depth = _mean_of_class(predictions, np.log(predictions.ranks))[labels]
    certainty = _mean_of_class(predictions, predictions.probabilities[:, 0])[labels]
    worst = labels[np.lexsort((labels, -depth, accuracy))]
    best = labels[np.lexsort((labels, -certainty, -accuracy))]
    wrong = ~predictions.right
    parts = []
    for title, chosen in (("Lowest accuracy", worst), ("Highest accuracy", best)):
        rows = []
        for label in chosen[:NUM_SHOWN].tolist():
            mistaken = predictions.answers[wrong & (predictions.truths == label), 0]
            common = collections.Counter(mistaken[mistaken >= 0].tolist()).most_common(1)
            share = top1[label] / images[label]
            rows.append(
                [
                    _name(predictions.classes.ids[label]),
                    f"{images[label]:,}",
                    percent(share, 0),
                    bar(share),
                    _name(predictions.classes.ids[common[0][0]]) if common else "",
                ]
            )
        head = ["class", "images", "top-1", "", "most often taken for"]
        parts.append(f"<div><h3>{title}</h3>\n{table(head, rows, (1, 2), title)}</div>")
    return (
        "<p>The map at the end of the page lists all classes.</p>\n"
        f'<div class="columns">{"".join(parts)}</div>\n'
    )


def _mean_of_class(predictions: Predictions, values: np.ndarray) -> np.ndarray:
    num = len(predictions.classes)
    count = np.bincount(predictions.truths, minlength=num)
    return np.bincount(predictions.truths, weights=values, minlength=num) / np.maximum(count, 1)


def _name(class_id: str) -> str:
    return class_name(wordnet().name(class_id), class_id)


def confusions(predictions: Predictions) -> str:
    """Return the most frequent confusions: a matrix in which relatives are adjacent, and a list."""
    num = len(predictions.classes)
    wrong = ~predictions.right & (predictions.answers[:, 0] >= 0)
    pairs = predictions.truths[wrong].astype(np.int64) * num + predictions.answers[wrong, 0]
    found, times = np.unique(pairs, return_counts=True)
    order = np.lexsort((found, -times))
    ranked = [(*divmod(int(found[k]), num), int(times[k])) for k in order.tolist()]
    if not ranked:
        return "<p>Every answer is right.</p>\n"
    return (
        "<p>Rows are truths, columns are answers. Adjacent classes are relatives in WordNet, so"
        " that mistakes between relatives are near the diagonal. A dark square is a frequent"
        " mistake. Point at a square to read it.</p>\n"
        f'<div class="columns">{_matrix(predictions, ranked)}'
        f"<div><h3>Most frequent</h3>\n{_list(predictions, ranked)}</div></div>\n"
    )


def _matrix(predictions: Predictions, ranked: list[tuple[int, int, int]]) -> str:
    """Return the matrix of the classes that have the most frequent confusions."""
    chosen = _block(predictions, ranked)
    ids = order_of([predictions.classes.ids[label] for label in chosen])
    place = {predictions.classes.label_of[class_id]: n for n, class_id in enumerate(ids)}
    counts = np.zeros((len(ids), len(ids)), int)
    for truth, answer in zip(
        predictions.truths.tolist(), predictions.answers[:, 0].tolist(), strict=True
    ):
        if truth in place and answer in place:
            counts[place[truth], place[answer]] += 1
    images = class_counts(predictions)[0][list(place)]
    names = [wordnet().name(class_id) for class_id in ids]
    num_wrong = sum(n for _, _, n in ranked)
    inside = int(counts.sum() - np.trace(counts))
    figure = figures.matrix(names, counts, images, f"confusions between {len(ids)} classes")
    return (
        f'<figure><div class="scroll">{figure}</div><figcaption>{len(ids)} classes with frequent'
        f" confusions between them; {inside:,} of all {num_wrong:,} mistakes."
        "</figcaption></figure>\n"
    )


def _block(predictions: Predictions, ranked: list[tuple[int, int, int]]) -> list[int]:
    """Return the classes of the matrix.

    They are all that are confused, if there are few. Otherwise they are the synsets of WordNet with
    the most mistakes inside, as many as fill the matrix, and after them the most frequent pairs.
    """
    ids = predictions.classes.ids
    chosen: dict[int, None] = {}
    if len({label for truth, answer, _ in ranked for label in (truth, answer)}) > MATRIX_SIZE:
        below = collections.defaultdict[str, list[int]](list)
        for label, class_id in enumerate(ids):
            for node in path_of(class_id):
                below[node].append(label)
        inside = collections.Counter[str]()
        for truth, answer, n in ranked:
            for a, b in zip(path_of(ids[truth]), path_of(ids[answer]), strict=False):
                if a != b:
                    break
                inside[a] += n
        for node, _ in inside.most_common():
            if len(chosen.keys() | below[node]) <= MATRIX_SIZE:
                chosen |= dict.fromkeys(below[node])
    for truth, answer, _ in ranked:
        if len(chosen.keys() | {truth, answer}) <= MATRIX_SIZE:
            chosen |= {truth: None, answer: None}
    return list(chosen)


def _list(predictions: Predictions, ranked: list[tuple[int, int, int]]) -> str:
    images, ids = class_counts(predictions)[0], predictions.classes.ids
    shown = ranked[:NUM_PAIRS]
    apart = _edges([(ids[truth], ids[answer]) for truth, answer, _ in shown])
    rows = [
        [
            _name(ids[truth]),
            _name(ids[answer]),
            f"{n:,}",
            percent(n / images[truth], 0),
            "–" if edges is None else str(edges),
        ]
        for (truth, answer, n), edges in zip(shown, apart, strict=True)
    ]
    head = ["truth", "answer", "images", "of the class", "edges apart"]
    return table(head, rows, (2, 3, 4), "most frequent confusions")


def _edges(pairs: list[tuple[str, str]]) -> list[int | None]:
    """Return the number of edges in WordNet between each pair, None where it lacks one."""
    known = sorted({class_id for pair in pairs for class_id in pair if class_id in wordnet()})
    if not known:
        return [None] * len(pairs)
    classes = ClassList(tuple(known))
    hierarchy = Hierarchy(classes)
    return [
        int(
            hierarchy.distances(
                np.array([classes.label_of[truth]]), np.array([classes.label_of[answer]])
            )[0]
        )
        if {truth, answer} <= classes.label_of.keys()
        else None
        for truth, answer in pairs
    ]
