"""The runs below a directory side by side: what differs in their recipes, and what they reached."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from i21k import log
from i21k.errors import UserError
from i21k.files import parse_json
from i21k.text import printable
from i21k.train import history
from i21k.train.best import best_row
from i21k.train.metric_files import is_metric
from i21k.train.recipe import LogRecipe, stored_values
from i21k.train.report import read_metrics

_MAX_DEPTH = 3  # our choice: folders between the directory and a run
_SHOWN = ("train_loss", "val_loss", "val_top1", "val_top5")


@dataclasses.dataclass(frozen=True)
class RunSummary:
    """What is known of a run from the files in its working directory."""

    name: str  # relative to the directory that was searched
    recipe: dict[str, Any]  # by dotted name
    last: dict[str, str]  # the last row of metrics.csv; empty before the first
    best_metric: str
    best_step: int | None
    best_value: float | None
    parent: dict[str, Any] | None
    changes: int  # how often the recipe has changed on resume


def find_runs(directory: Path) -> list[RunSummary]:
    """Return the runs in a directory and below it, by name.

    Raises:
        UserError: if there is none.
    """
    patterns = ["/".join(["*"] * depth + ["config.json"]) for depth in range(_MAX_DEPTH + 1)]
    paths = {path.parent for pattern in patterns for path in directory.glob(pattern)}
    runs = []
    for path in sorted(filter(_may_be_run, paths)):
        try:
            runs.append(_summary(path, directory))
        except UserError as error:
            log.warning(f"{error} The run is not listed.")
    if not runs:
        raise UserError(
            f"{directory} holds no runs. Give the directory of --workdir, such as runs."
        )
    return runs


def _may_be_run(path: Path) -> bool:
    """Return whether a directory with a `config.json` is that of a run, damaged or not.

    Exports and models of other programs have such a file too.
    """
    if (path / "checkpoints").is_dir():
        return True
    try:
        stored = parse_json((path / "config.json").read_bytes())
    except (OSError, ValueError):
        return (path / "run.json").exists()
    return history.is_recipe(stored)


def _summary(path: Path, directory: Path) -> RunSummary:
    recipe, rows = stored_values(history.read_recipe(path)), read_metrics(path)
    metric = recipe["log.keep_best"]
    if not isinstance(metric, str) or not is_metric(metric):  # the recipe is not checked here
        metric = LogRecipe.keep_best
    best = best_row(rows, metric)
    return RunSummary(
        name=path.name if path == directory else path.relative_to(directory).as_posix(),
        recipe=recipe,
        last=rows[-1] if rows else {},
        best_metric=metric,
        best_step=None if best is None else best.step,
        best_value=None if best is None else best.value,
        parent=history.read_run(path).get("parent"),
        changes=len(history.read_changes(path)),
    )


def differences(runs: Sequence[RunSummary]) -> dict[str, list[Any]]:
    """Return the keys in which the recipes differ, with each run's value; None: no such key."""
    keys = dict.fromkeys(key for run in runs for key in run.recipe)
    values = {key: [run.recipe.get(key) for run in runs] for key in keys}
    return {key: found for key, found in values.items() if any(v != found[0] for v in found)}


def describe(runs: Sequence[RunSummary]) -> str:
    """Return two tables: what the runs reached, and what differs in their recipes."""
    head = ["run", "epoch", "step", *_SHOWN, "best", "at step", "images/s", "from"]
    lines = [head]
    for run in runs:
        best = "" if run.best_value is None else f"{run.best_metric} {run.best_value:.4g}"
        origin = f"{Path(run.parent['workdir']).name}@{run.parent['step']}" if run.parent else ""
        numbers = [_number(run.last.get(column)) for column in ("epoch", "step", *_SHOWN)]
        step = "" if run.best_step is None else str(run.best_step)
        speed = _number(run.last.get("images_per_s"))
        lines.append([run.name, *numbers, best, step, speed, origin])
    used = [k for k in range(len(head)) if k == 0 or any(line[k] for line in lines[1:])]
    text = _table([[line[k] for k in used] for line in lines])
    if different := differences(runs):
        rows = [
            [key, *("" if value is None else str(value) for value in found)]
            for key, found in different.items()
        ]
        text += "\n\n" + _table([["recipe", *(run.name for run in runs)], *rows])
    elif len(runs) > 1:
        text += "\n\nThe recipes are the same."
    return text


def _number(text: str | None) -> str:
    if not text or text.isdecimal():
        return text or ""
    return f"{float(text):.4g}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Return aligned columns: the first one to the left, the others to the right."""
    rows = [[printable(cell) for cell in row] for row in rows]  # a newline would end the row
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if k else cell.ljust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
