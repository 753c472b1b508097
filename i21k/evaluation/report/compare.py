"""The page that compares runs: curves on one chart, recipes, and changes of single classes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.stats
from jaxtyping import Bool, Int

from i21k.evaluation.predictions import Predictions
from i21k.evaluation.report import curves, figures, page, run
from i21k.evaluation.report.tree import class_counts
from i21k.evaluation.stored import Stored
from i21k.look.html import escape
from i21k.look.parts import class_name, percent, table
from i21k.wordnet.taxonomy import wordnet

NUM_CHANGED = 15  # our choice: classes in each list


class Pair(NamedTuple):
    """The same N images answered by two models."""

    truths: Int[np.ndarray, " N"]
    first: Bool[np.ndarray, " N"]  # whether the first one is right
    second: Bool[np.ndarray, " N"]


def paired(first: Stored, second: Stored) -> Pair | None:
    """Compare two evaluations of the same images. Return None if their images differ."""
    same = [s.summary.get("fingerprint") for s in (first, second)]
    if same[0] != same[1] or first.summary["split"] != second.summary["split"]:
        return None
    a, b = first.predictions, second.predictions
    return Pair(a.truths, a.right, b.right) if np.array_equal(a.records, b.records) else None


def differences(runs: Sequence[run.Run]) -> dict[str, list[Any]]:
    """Return the keys in which the recipes differ, with the value of each run."""
    recipes = [one.recipe or {} for one in runs]
    keys = dict.fromkeys(key for recipe in recipes for key in recipe)
    found = {key: [recipe.get(key) for recipe in recipes] for key in keys}
    return {key: values for key, values in found.items() if any(v != values[0] for v in values)}


def compare_page(paths: Sequence[Path], evaluations: Sequence[Stored | None]) -> str:
    """Return the page.

    Args:
        paths: working directories of at least two runs. The first is what others are compared to.
        evaluations: of each run, if there is one.

    Raises:
        UserError: if a file of a run is damaged.
    """
    names = short_names(paths)
    runs = [
        run.read_run(path, curves.read_curves(path, name))
        for path, name in zip(paths, names, strict=True)
    ]
    sections = [("results", "Results", _results(runs, evaluations))]
    if any(one.curves.rows for one in runs):
        section = page.curves_section([one.curves for one in runs])
        sections.append(("curves", "Curves", section))
    sections.append(("recipes", "Recipes", _recipes(runs)))
    sections += _changes(runs, evaluations)
    title = " and ".join(names) if len(names) == 2 else f"{len(names)} runs"
    masthead = (
        f'<span class="label">Comparison of runs</span><h1>{escape(title)}</h1>'
        f'<p class="soft">{escape(names[0])} is what the others are compared to.</p>'
    )
    return page.finished(f"{title}: comparison", masthead, sections)


def short_names(paths: Sequence[Path]) -> list[str]:
    """Return the last parts of the paths, as many as make them different."""
    parts = [path.resolve().parts for path in paths]
    for num in range(1, max(map(len, parts)) + 1):
        names = ["/".join(p[-num:]) for p in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{'/'.join(p[-1:])} ({number})" for number, p in enumerate(parts, 1)]


def _results(runs: Sequence[run.Run], evaluations: Sequence[Stored | None]) -> str:
    rows = []
    for number, (one, stored) in enumerate(zip(runs, evaluations, strict=True)):
        last = one.curves.rows[-1] if one.curves.rows else {}
        numbers: list[float | None] = [
            float(last[key]) if last.get(key) else None
            for key in ("val_top1", "val_top5", "val_loss")
        ]
        if stored:
            column = stored.summary["table"]["all"]
            numbers = [column["top1"], column["top5"], column["loss"]]
        source = (
            f"{stored.summary['count']:,} images of {escape(stored.summary['split'])}"
            if stored
            else "metrics.csv"
        )
        speed = last.get("images_per_s")
        rows.append(
            [
                f'<span class="swatch s{number % 6 + 1}"></span>{escape(one.name)}',
                percent(numbers[0], 2),
                percent(numbers[1], 2),
                "–" if numbers[2] is None else f"{numbers[2]:.4f}",
                f"{float(last['epoch']):g}" if last else "–",
                f"{float(speed):,.0f}" if speed else "–",
                source,
            ]
        )
    head = ["run", "top-1", "top-5", "loss", "epochs", "images/s", "measured on"]
    return table(head, rows, (1, 2, 3, 4, 5), "results of the runs")


def _recipes(runs: Sequence[run.Run]) -> str:
    found = differences(runs)
    if not found:
        return "<p>The recipes are the same.</p>\n"
    rows = [
        [f"<code>{escape(key)}</code>", *("–" if v is None else escape(v) for v in values)]
        for key, values in found.items()
    ]
    return table(["key", *(escape(one.name) for one in runs)], rows, label="recipes")


def _changes(
    runs: Sequence[run.Run], evaluations: Sequence[Stored | None]
) -> list[tuple[str, str, str]]:
    """Return a section for each run after the first: what changed, image by image."""
    sections = []
    base = evaluations[0]
    for number, (one, stored) in enumerate(zip(runs[1:], evaluations[1:], strict=True), 1):
        heading = f"{runs[0].name} against {one.name}"
        if base is None or stored is None:
            lacking = runs[0].name if base is None else one.name
            text = (
                f"<p>{escape(lacking)} is not evaluated yet. Give <code>--data DIR</code> to"
                " compare single classes.</p>\n"
            )
        elif (pair := paired(base, stored)) is None:
            text = "<p>They were evaluated on different images, so no classes are compared.</p>\n"
        else:
            text = _paired_section(pair, base.predictions, (runs[0].name, one.name))
        sections.append((f"change-{number}", heading, text))
    return sections


def _paired_section(pair: Pair, predictions: Predictions, names: tuple[str, str]) -> str:
    only_first = int((pair.first & ~pair.second).sum())
    only_second = int((~pair.first & pair.second).sum())
    total, changed = len(pair.first), only_first + only_second
    difference = (only_second - only_first) / total
    spread = (changed - (only_second - only_first) ** 2 / total) ** 0.5 / total
    chance = scipy.stats.binomtest(only_second, changed).pvalue if changed else 1.0
    verdict = "more than chance explains" if chance < 0.01 else "which chance may explain"
    first_name, second_name = map(escape, names)
    points, way = abs(difference) * 100, "lower" if difference < 0 else "higher"
    text = (
        f"<p>Top-1 of {second_name} is {points:.2f} points {way}"
        f" (± {1.96 * spread * 100:.2f}, 95 %) on the same {total:,} images."
        f" {second_name} alone is"
        f" right for {only_second:,} of them, and {first_name} alone for {only_first:,}, {verdict}"
        f" (sign test, p = {chance:.2g}).</p>\n"
    )
    num = len(predictions.classes)
    images = class_counts(predictions)[0]
    first = np.bincount(pair.truths[pair.first], minlength=num)
    second = np.bincount(pair.truths[pair.second], minlength=num)
    labels = np.flatnonzero(images)
    gain = (second - first)[labels] / images[labels]
    figure = figures.pair_grid(
        first[labels] / images[labels], second[labels] / images[labels], names
    )
    better, worse = int((gain > 0).sum()), int((gain < 0).sum())
    text += (
        f"<figure>{figure}<figcaption>Accuracy of {len(labels):,} classes: {better:,} are better"
        f" in {escape(names[1])} (above the diagonal), {worse:,} are worse. The area of a square is"
        " the number of classes.</figcaption></figure>\n"
    )
    parts = []
    for title, sign in (("Gained most", 1), ("Lost most", -1)):
        order = labels[np.lexsort((labels, -images[labels], -sign * gain))]
        rows = [
            [
                class_name(wordnet().name(predictions.classes.ids[k]), predictions.classes.ids[k]),
                f"{images[k]:,}",
                percent(first[k] / images[k], 0),
                percent(second[k] / images[k], 0),
                f"{(second[k] - first[k]) / images[k] * 100:+.0f}",
            ]
            for k in order[:NUM_CHANGED].tolist()
            if sign * (second[k] - first[k]) > 0
        ]
        head = ["class", "images", escape(names[0]), escape(names[1]), "points"]
        content = table(head, rows, (1, 2, 3, 4), title) if rows else "<p>None.</p>"
        parts.append(f"<div><h3>{title}</h3>{content}</div>")
    return text + f'<div class="columns">{"".join(parts)}</div>\n'
