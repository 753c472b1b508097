"""What probes found, as readable text and as a table for spreadsheets."""

from collections.abc import Iterator

from i21k.evaluation.probe import Probed
from i21k.labels import ClassList
from i21k.wordnet.taxonomy import wordnet

_TITLES = {"knn": "nearest neighbours", "ridge": "linear (ridge)"}


def describe(found: Probed, classes: ClassList) -> str:
    """Return the accuracies, and the most frequent mistakes."""
    return "\n".join(_lines(found, classes))


def _lines(found: Probed, classes: ClassList) -> Iterator[str]:
    yield (
        f"fitted on {found.num_train:,} images of {found.num_classes:,} classes, scored on"
        f" {found.num_test:,} (chance {1 / found.num_classes:.1%})"
    )
    for name, accuracy in found.accuracy.items():
        low, high = accuracy.interval
        yield f"{_TITLES[name]:20} {accuracy.value:6.1%}  (95 % interval {low:.1%} to {high:.1%})"
    for name, several in found.shots.items():
        for one in several:
            draws = f"{len(one.accuracies)} draws"
            title = f"{_TITLES[name]}, {one.shots} image{'s' * (one.shots > 1)} a class"
            yield f"{title:38} {one.mean:6.1%} ± {one.spread:.1%} over {draws}"
    if pairs := found.worst_pairs(5):
        yield "most mistaken: " + "; ".join(
            f"{_name(classes, a)} taken for {_name(classes, b)} {num}" for a, b, num in pairs
        )


def confusion_table(found: Probed, classes: ClassList) -> str:
    """Return a line for each pair of true class and answer that occurs, separated by tabs."""
    lines = ["class\tanswer\timages"]
    for a, b in zip(*found.confusion.nonzero(), strict=True):
        lines.append(f"{classes.ids[a]}\t{classes.ids[b]}\t{found.confusion[a, b]}")
    return "\n".join(lines) + "\n"


def _name(classes: ClassList, label: int) -> str:
    return wordnet().name(classes.ids[label])
