"""An evaluation as readable text and as a table for spreadsheets."""

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any

from i21k.evaluation.ranks import RANKS
from i21k.evaluation.scores import Scores
from i21k.wordnet.taxonomy import wordnet

_WHERE = {
    "right": "right",
    "below": "below the truth",
    "above": "above it",
    "elsewhere": "elsewhere",
}


def per_class_table(scores: Scores) -> str:
    """Return a header and a line for each class, separated by tabs, for spreadsheets."""
    rows, text = scores.per_class(), io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys(), delimiter="\t", lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {key: f"{value:.4f}" if isinstance(value, float) else value for key, value in row.items()}
        for row in rows
    )
    return text.getvalue()


def describe(summary: dict[str, Any]) -> str:
    """Return a summary as a readable text."""
    return "\n".join(_lines(summary))


def _lines(summary: dict[str, Any]) -> Iterator[str]:
    classes, images = (
        summary["classes"],
        f"{summary['count']:,} images" + " and their mirror images" * (summary["tta"] == "flip"),
    )
    origin = f"{summary['checkpoint']}, step {summary['step']:,}"
    yield f"{origin}, on {images} of split {summary['split']!r} of {summary['data']}"
    titles = {"all": f"over {classes['model']:,}", "tolerant": "tolerant"}
    if "over" in classes:
        titles |= {"over": f"over {classes['ranked']:,}", "folded": f"folded {classes['over']:,}"}
    yield from _table(summary["table"], titles, "")
    count = f"{summary['count']:,}"
    yield f"accuracies and ECE are over all {count} images; the loss is over those whose"
    answerable = (
        f"{column['answerable']:,} ({titles[name]})"
        for name, column in summary["table"].items()
        if column.get("answerable") is not None
    )
    yield f"  class the column can answer: {', '.join(answerable)}"
    if several := summary["num_several"]:
        yield f"{several:,} images have several classes, of which any is right"
    if summary.get("tau") is not None:
        yield f"adjusted to class frequencies: {summary['prior']}, tau {summary['tau']:g}"
    if recalibrated := summary["recalibrated_on"]:
        yield f"BatchNorm statistics are of {recalibrated:,} training images"
    if summary["real"]:
        yield f"by ReaL labels, {summary['num_real']:,} images that have any:"
        yield from _table(summary["real"], titles, "ReaL ")
    if lacking := summary["lacking"]["classes"]:
        yield (
            f"the model lacks {wordnet().enumerate(lacking)}; their "
            f"{summary['lacking']['images']:,} images count as wrong over {classes['model']:,}"
            + (f" and over {classes['ranked']:,}" if "over" in summary["table"] else "")
        )
    yield from (f"no {what}: {why}" for what, why in summary["omitted"].items())
    if h := summary["hierarchy"]:
        yield "best answers: " + ", ".join(f"{where} {h[key]:.2%}" for key, where in _WHERE.items())
        edges, height = f"{h['mistake_distance']:.2f}", f"{h['mistake_lca_height']:.2f}"
        yield f"wrong answers: {edges} edges from the truth, common ancestor at height {height}"
        heights = " / ".join(f"{height:.2f}" for height in h["lca_height"].values())
        yield f"height of the common ancestor of truth and best 1 / 5 / 20 answers: {heights}"
    yield f"mean of {classes['seen']:,} classes: " + _accuracies(summary["mean_of_classes"])
    for name, part in (summary["by_size"] or {}).items():
        where = f"{name}, {part['classes']:,} classes, {part['count']:,} images"
        yield f"{where}: {_accuracies(part)}" if part["count"] else where
    if worst := summary["confusions"][:5]:
        yield "most mistaken: " + "; ".join(
            f"{c['name']} taken for {c['answer_name']} {c['images']:,}" for c in worst
        )


def _accuracies(means: dict[str, float]) -> str:
    return " | ".join(f"top-{k} {means[f'top{k}']:.2%}" for k in RANKS)


def _table(
    table: dict[str, dict[str, float | None]], titles: dict[str, str], prefix: str
) -> Iterator[str]:
    yield " " * 11 + "".join(f"{titles[name]:>14}" for name in table)
    rows: Sequence[tuple[str, str, str]] = [(f"top{k}", f"{prefix}top-{k}", ".2%") for k in RANKS]
    for key, title, form in (*rows, ("loss", "loss", ".4f"), ("ece", "ECE", ".2%")):
        cells = (
            format(value, form) if (value := column.get(key)) is not None else "-"
            for column in table.values()
        )
        yield f"{title:<11}" + "".join(f"{cell:>14}" for cell in cells)
