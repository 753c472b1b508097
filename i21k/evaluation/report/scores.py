"""Sections of the report about an evaluation as a whole: the table, reliability, class sizes."""

from typing import Any

import numpy as np

from i21k.evaluation.predictions import Predictions
from i21k.evaluation.ranks import RANKS
from i21k.evaluation.report import figures
from i21k.evaluation.report.tree import class_counts
from i21k.look.html import escape
from i21k.look.parts import bar, percent, table

_NUM_GROUPS = 10  # our choice: of classes by size
_PARTS = {"head": "largest third", "middle": "middle third", "tail": "smallest third"}
_WHERE = {
    "right": ("right", "s1", "the class of the image"),
    "below": ("below the truth", "s6", "a kind of it, such as poodle for dog"),
    "above": ("above the truth", "s4", "more general, such as dog for poodle"),
    "elsewhere": ("elsewhere", "s2", "neither"),
}


def evaluation(summary: dict[str, Any]) -> str:
    """Return the table of accuracies with its columns explained, and what it does not contain."""
    classes = summary["classes"]
    meaning = {
        "all": (f"over {classes['model']:,}", "ranks all classes of the model; strict"),
        "over": (
            f"over {classes.get('ranked', 0):,}",
            "ranks only the classes of the data that the model has",
        ),
        "folded": (
            f"folded onto {classes.get('over', 0):,}",
            "each class has the probability of all classes below it",
        ),
        "tolerant": ("tolerant", "ranks all classes; a class below the image's is right too"),
    }
    columns = list(summary["table"])
    head = [""]
    for column in columns:
        title, why = meaning[column]
        head.append(f'{title}<span class="why">{why}</span>')
    lines = [
        *(
            (f"top{k}", f"top-{k}", f"among the best {k}" if k > 1 else "the best answer is right")
            for k in RANKS
        ),
        ("loss", "loss", "nats; the mean of −ln of the probability of the truth"),
        ("ece", "ECE", "how far confidence is from accuracy; 0 is calibrated"),
    ]
    rows = []
    for key, title, why in lines:
        values = [summary["table"][column].get(key) for column in columns]
        cells = [
            "–" if v is None else f"{v:.4f}" if key == "loss" else percent(v, 2) for v in values
        ]
        rows.append([f'{title}<span class="why">{why}</span>', *cells])
    text = table(head, rows, range(1, len(head)), "accuracies, loss and calibration")
    return text + _notes(summary)


def _notes(summary: dict[str, Any]) -> str:
    lines = []
    by_class = summary["mean_of_classes"]
    lines.append(
        f"The mean over the {summary['classes']['seen']:,} classes that have images, in which each"
        f" class counts the same, is {percent(by_class['top1'], 2)} top-1 and"
        f" {percent(by_class['top5'], 2)} top-5."
    )
    if lacking := summary["lacking"]["classes"]:
        lines.append(
            f"The model lacks {len(lacking):,} classes of the data; their"
            f" {summary['lacking']['images']:,} images count as wrong in the strict columns."
        )
    lines += [f"Not shown, {what}: {why}." for what, why in summary["omitted"].items()]
    if summary["recalibrated_on"]:
        lines.append(
            f"BatchNorm's statistics are of {summary['recalibrated_on']:,} training images."
        )
    text = "".join(f"<p>{escape(line)}</p>\n" for line in lines)
    return text + (_distances(summary["hierarchy"]) if summary["hierarchy"] else "")


def _distances(hierarchy: dict[str, Any]) -> str:
    """Return where in WordNet the best answers are."""
    pieces = "".join(
        f'<span class="{kind}" style="flex-grow:{hierarchy[key]:.5f}"></span>'
        for key, (_, kind, _) in _WHERE.items()
        if hierarchy[key] > 0
    )
    legend = "".join(
        f'<li><span class="swatch {kind}"></span>{title} <b>{percent(hierarchy[key])}</b>'
        f'<span class="why"> {why}</span></li>'
        for key, (title, kind, why) in _WHERE.items()
    )
    height = hierarchy["mistake_lca_height"]
    return (
        "<h3>Where the best answers are in WordNet</h3>\n"
        f'<div class="stack" aria-hidden="true">{pieces}</div><ul class="legend">{legend}</ul>\n'
        f"<p>A wrong answer is {hierarchy['mistake_distance']:.1f} edges from the truth on"
        f" average, and their lowest common ancestor is {height:.1f} levels above the leaves.</p>\n"
    )


def reliability(summary: dict[str, Any]) -> str:
    """Return a figure of accuracy over confidence for each column with probabilities."""
    titles = {
        "all": f"over {summary['classes']['model']:,} classes",
        "over": f"over {summary['classes'].get('ranked', 0):,} classes",
        "folded": f"folded onto {summary['classes'].get('over', 0):,} classes",
    }
    parts = []
    for column, bins in summary["reliabilities"].items():
        gap = summary["table"][column].get("ece")
        parts.append(
            f"<figure>{figures.reliability(bins, f'reliability {titles[column]}')}"
            f"<figcaption>{titles[column]}: expected calibration error {percent(gap, 2)}"
            "</figcaption></figure>"
        )
    return (
        '<div class="columns"><div><p>Images are grouped by how sure the best answer is. A'
        " calibrated model is on the dotted diagonal: of answers at 80 % confidence, 80 % are"
        " right. Points below it are answers that are surer than they should be. The grey columns"
        " count the images of each group. Point at a circle to read it.</p></div>"
        f"{''.join(parts)}</div>\n"
    )


def by_size(summary: dict[str, Any], predictions: Predictions) -> str:
    """Return the accuracy of classes with many and with few training images."""
    rows = _groups(summary, predictions)
    if not rows:
        return (
            "<p>The numbers of training images are not known. Write the report with"
            " <code>--data DIR --sizes-of train</code> to count them.</p>\n"
        )
    intro = (
        "<p>Classes in groups by the number of their training images. Rare classes are usually"
        " harder.</p>\n"
    )
    head = ["training images of the class", "classes", "evaluated", "top-1", "", "top-5"]
    return intro + table(head, rows, (1, 2, 3, 5), "accuracy by class size")


def _groups(summary: dict[str, Any], predictions: Predictions) -> list[list[str]]:
    if sizes := summary.get("class_sizes"):
        images, top1, top5 = class_counts(predictions)
        ids = predictions.classes.ids
        labels = np.array([k for k in np.flatnonzero(images) if ids[k] in sizes], int)
        of = np.array([sizes[ids[k]] for k in labels], int)
        order = labels[np.argsort(-of, kind="stable")]
        of = -np.sort(-of, kind="stable")
        rows = []
        for part in np.array_split(np.arange(len(order)), min(_NUM_GROUPS, len(set(of.tolist())))):
            if not len(part):
                continue
            low, high, chosen = int(of[part].min()), int(of[part].max()), order[part]
            label = f"{low:,}" if low == high else f"{low:,} to {high:,}"
            count = int(images[chosen].sum())
            hits = int(top1[chosen].sum()) / count, int(top5[chosen].sum()) / count
            rows.append(
                [label, f"{len(part):,}", f"{count:,}", percent(hits[0]), bar(hits[0]),
                 percent(hits[1])]
            )  # fmt: skip
        return rows
    return [
        [
            _PARTS[key],
            f"{part['classes']:,}",
            f"{part['count']:,}",
            percent(part["top1"]),
            "" if part["top1"] is None else bar(part["top1"]),
            percent(part["top5"]),
        ]
        for key, part in (summary["by_size"] or {}).items()
    ]
