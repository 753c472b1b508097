"""The page about a run, in one file. Everything on it is read from files: no model is needed."""

import datetime
from pathlib import Path
from typing import Any

from i21k.evaluation.report import classes, curves, images, run, scores
from i21k.evaluation.report.tree import tree_of
from i21k.evaluation.stored import Stored
from i21k.look.html import asset, data_block, escape, page

PACKAGE = "i21k.evaluation.report"
Section = tuple[str, str, str]  # id, heading, HTML
_MODEL_LESS = (
    "<p>There is no evaluation yet. Give <code>--data DIR</code> to evaluate the newest checkpoint"
    " and to add tables, images and a map of the classes.</p>\n"
)


def run_page(path: Path, stored: Stored | None, data: Path | None = None) -> str:
    """Return the page about a run or a model.

    Args:
        path: working directory of the run, or the file of a model.
        stored: its evaluation, if there is one.
        data: directory of the images; by default the one that was evaluated, if it is still there.

    Raises:
        UserError: if a file of the run is damaged.
    """
    name = path.resolve().name
    about = run.read_run(path, curves.read_curves(path, name))
    summary = None if stored is None else stored.summary
    sections: list[Section] = []
    if about.curves.rows or about.curves.records:
        sections.append(("curves", "Curves", curves_section([about.curves])))
    if stored is None:
        sections.append(("evaluation", "Evaluation", _MODEL_LESS))
    else:
        sections += _evaluation_sections(stored, data)
    sections += [
        ("recipe", "Recipe", run.recipe(about)),
        ("place", "Origin", run.place(about)),
    ]
    return finished(f"{name}: report", run.masthead(about, summary), sections)


def finished(title: str, masthead: str, sections: list[Section]) -> str:
    """Return the page with its scripts and style sheets."""
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    return page(
        title,
        masthead,
        sections,
        styles=[asset("report.css", PACKAGE)],
        scripts=[asset(file, PACKAGE) for file in ("elements.js", "curves.js", "map.js")],
        foot=f"<p>Written by i21k on {date}. This file is complete: it loads nothing.</p>",
    )


def curves_section(runs: list[curves.Curves]) -> str:
    """Return the charts, and their numbers as a table."""
    data: dict[str, Any] = curves.charts(runs)
    tables = "".join(
        (f"<h3>{escape(one.name)}</h3>" if len(runs) > 1 else "") + run.metrics_table(one)
        for one in runs
    )
    return (
        "<p>Drag over a chart to zoom in on all of them; double-click to see everything again."
        " With the keyboard: <kbd>+</kbd> <kbd>−</kbd>"
        " <kbd>←</kbd> <kbd>→</kbd> <kbd>0</kbd>."
        "</p>\n"
        f'{data_block("curves-data", data)}<div id="charts"></div>\n{tables}'
    )


def _evaluation_sections(stored: Stored, data: Path | None) -> list[Section]:
    summary, predictions = stored
    split = images.find_split(data, summary)
    missing = (
        ""
        if split
        else "<p>The images are not there. Give <code>--data DIR</code> to show them.</p>\n"
    )
    evaluated = (
        f"<p>{summary['count']:,} images of split {escape(summary['split'])} of"
        f" {escape(summary['data'])}, evaluated on {escape(summary.get('date', '')[:10])} with the"
        f" checkpoint of step {summary['step']:,}.</p>\n"
    )
    return [
        ("evaluation", "Evaluation", evaluated + scores.evaluation(summary)),
        ("reliability", "Reliability", scores.reliability(summary)),
        ("sizes", "Class sizes", scores.by_size(summary, predictions)),
        ("classes", "Classes", classes.best_and_worst(predictions)),
        ("confusions", "Confusions", classes.confusions(predictions)),
        (
            "mistakes",
            "Confident mistakes",
            "<p>Wrong answers with the highest probability. Look here for wrong labels too.</p>\n"
            f"{missing}{images.confident_mistakes(predictions, split)}",
        ),
        (
            "hits",
            "Uncertain hits",
            "<p>Right answers with the lowest probability.</p>\n"
            f"{missing}{images.uncertain_hits(predictions, split)}",
        ),
        ("map", "Map", map_section(tree_of(predictions))),
    ]


def map_section(tree: dict[str, list[Any]]) -> str:
    """Return the tree of WordNet, drawn by the script of the page."""
    return (
        "<p>WordNet from the top down. The width of a block is its share, its colour the accuracy"
        " of all classes in it. Choose a block to open it, and a name of the path to go back. With"
        " the keyboard: arrows, <kbd>Enter</kbd> and <kbd>Esc</kbd>.</p>\n"
        f'{data_block("map-data", tree)}<div id="class-map"></div>\n'
        "<noscript><p>The map needs the scripts of this page.</p></noscript>\n"
    )
