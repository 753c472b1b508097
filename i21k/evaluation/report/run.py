"""Sections of the report about how a model was trained: numbers on top, recipe, and where."""

import dataclasses
import shlex
from pathlib import Path
from typing import Any

from i21k.errors import UserError
from i21k.evaluation.report.curves import Curves
from i21k.look.html import escape
from i21k.look.parts import definitions, percent, stats, table
from i21k.train import history
from i21k.train.metric_files import is_metric
from i21k.train.recipe import describe_keys, stored_values
from i21k.train.report import duration


@dataclasses.dataclass(frozen=True)
class Run:
    """What the working directory of a run, or of an imported model, has about the training."""

    path: Path
    name: str
    recipe: dict[str, Any] | None  # by dotted name; None: it is no run
    starts: list[dict[str, Any]]
    parent: dict[str, Any] | None
    curves: Curves


def read_run(path: Path, curves: Curves) -> Run:
    """Read a working directory; of a model that is no run there is little."""
    try:
        recipe: dict[str, Any] | None = stored_values(history.read_recipe(path))
    except UserError:  # an imported model, or one in a file
        recipe = None
    about = history.read_run(path)
    return Run(path, curves.name, recipe, about.get("starts", []), about.get("parent"), curves)


def masthead(run: Run, summary: dict[str, Any] | None) -> str:
    """Return the title of the page with the most important numbers."""
    entries: list[tuple[str, str, str]] = []
    rows = run.curves.rows
    if summary:
        top1, count = summary["table"]["all"]["top1"], summary["count"]
        margin = 1.96 * (top1 * (1 - top1) / max(count, 1)) ** 0.5  # normal approximation
        entries += [
            ("top-1", percent(top1), f"± {margin * 100:.1f} points (95 %)"),
            ("top-5", percent(summary["table"]["all"]["top5"]), ""),
            ("images", f"{count:,}", f"split {summary['split']} of {summary['data']}"),
            ("classes", f"{summary['classes']['model']:,}", f"step {summary['step']:,}"),
        ]
    elif rows:
        last = rows[-1]
        entries += [
            (column.removeprefix("val_"), percent(float(last[column])), "validation")
            for column in ("val_top1", "val_top5")
            if last.get(column)
        ]
    if rows:
        seconds = sum(float(row.get("train_s") or 0) for row in rows)
        spent = duration(seconds) if seconds else ""
        entries.append(("epochs", f"{float(rows[-1]['epoch']):g}", f"{spent} of training"))
    kind = "Report on a run" if rows or run.starts else "Report on a model"
    date = run.starts[-1].get("date", "")[:10] if run.starts else ""
    where = ""
    if run.starts:
        devices = run.starts[-1].get("devices", {})
        where = f"{devices.get('count', '?')} × {devices.get('kind', 'unknown device')}"
    line = " · ".join(filter(None, (date and f"started {date}", where)))
    return (
        f'<span class="label">{kind}</span><h1>{escape(run.name)}</h1>'
        f'<p class="soft">{escape(line)}</p>{stats(entries)}'
    )


def recipe(run: Run) -> str:
    """Return the recipe: what differs from the defaults, and below it everything."""
    if run.recipe is None:
        return "<p>The model was not trained here, so there is no recipe.</p>\n"
    infos = {info.name: info for info in describe_keys()}
    changed: list[list[str]] = []
    unchanged: list[list[str]] = []
    for key, value in run.recipe.items():
        info = infos.get(key)
        default = info.default if info else None
        row = [
            f"<code>{escape(key)}</code>",
            f"<b>{escape(value)}</b>" if value != default else escape(value),
            f'<span class="soft">{escape(default)}</span>',
            escape(info.help) if info else "",
        ]
        (changed if value != default else unchanged).append(row)
    head = ["key", "value", "default", "meaning"]
    text = table(head, changed, label="keys that differ from the defaults")
    if unchanged:
        rest = [[row[0], row[1], row[3]] for row in unchanged]
        text += (
            f"<details><summary>{len(unchanged)} keys have their defaults</summary>"
            f"{table(['key', 'value', 'meaning'], rest)}</details>\n"
        )
    if run.curves.changes:
        rows = [[f"{c.step:,}", escape(c)] for c in run.curves.changes]
        text += "<h3>Changed on the way</h3>" + table(["from step", "change"], rows, (0,))
    return text


def place(run: Run) -> str:
    """Return where and with which versions the run was started."""
    if not run.starts:
        return "<p>There is no <code>run.json</code>, so this is not known.</p>\n"
    last = run.starts[-1]
    data, devices = last.get("data", {}), last.get("devices", {})
    commit = str(last.get("commit") or "not from a checkout")
    entries = [
        ("command", f"<code>{escape(shlex.join(map(str, last.get('command', []))))}</code>"),
        ("machine", escape(last.get("host", "unknown"))),
        (
            "devices",
            f"{escape(devices.get('count', '?'))} × {escape(devices.get('kind', 'unknown'))},"
            f" {escape(last.get('processes', 1))} process(es)",
        ),
        (
            "data",
            f"{escape(data.get('directory', ''))}, split {escape(data.get('split', ''))},"
            f" {data.get('num_records', 0):,} images<br>"
            f'<span class="soft small">fingerprint {escape(data.get("fingerprint", ""))}</span>',
        ),
        ("commit", escape(commit) + (", with changes" if last.get("dirty") else "")),
        (
            "versions",
            escape(
                ", ".join(f"{k} {v}" for k, v in last.get("versions", {}).items() if k != "commit")
            ),
        ),
        (
            "environment",
            "<br>".join(
                f"<code>{escape(k)}={escape(v)}</code>"
                for k, v in last.get("environment", {}).items()
            )
            or "nothing that matters",
        ),
    ]
    if run.parent:
        entries.insert(
            0,
            (
                "branched from",
                f"{escape(run.parent.get('workdir', ''))} at step {escape(run.parent.get('step'))}",
            ),
        )
    text = definitions(entries)
    if len(run.starts) > 1:
        rows = [
            [escape(s.get("date", "")), f"{s.get('step', 0):,}", escape(s.get("host", "")),
             escape(s.get("commit") or "")]
            for s in run.starts
        ]  # fmt: skip
        starts = table(["date", "at step", "machine", "commit"], rows, (1,))
        text += f"<details><summary>{len(rows)} starts</summary>{starts}</details>\n"
    return text


def metrics_table(curves: Curves) -> str:
    """Return the rows of `metrics.csv`, for readers without scripts."""
    if not curves.rows:
        return ""
    columns = [c for c in curves.rows[0] if any(row.get(c) for row in curves.rows)]
    rows = [[_cell(column, row.get(column) or "") for column in columns] for row in curves.rows]
    return (
        "<details><summary>The numbers at the end of each epoch</summary>"
        f"{table(list(map(escape, columns)), rows, range(len(columns)))}</details>\n"
    )


def _cell(column: str, text: str) -> str:
    if not is_metric(column) and column != "epoch":  # of the user
        return escape(text)
    return text if not text or text.isdecimal() else f"{float(text):.4g}"
