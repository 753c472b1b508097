"""The numbers of learning curves, of one run or of several on the same charts."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from i21k.look.html import visible
from i21k.train import history
from i21k.train.metric_files import Row, is_metric, read_metrics, read_records

MAX_POINTS = 1500  # our choice: of a line, more than pixels show
_EPOCHS_FROM = 2  # runs of more epochs have epochs on their axis


class Curves(NamedTuple):
    """What a run has logged."""

    name: str
    rows: list[Row]  # of metrics.csv
    records: list[dict[str, Any]]  # of training steps
    changes: list[history.Change]
    steps_per_epoch: float  # 0: unknown

    @property
    def sets(self) -> list[str]:
        """The names of the evaluated sets."""
        columns = dict.fromkeys(column for row in self.rows for column in row)
        names = [c.removesuffix("_top1") for c in columns if c.endswith("_top1") and is_metric(c)]
        return [name for name in names if name != "train" and not name.endswith("_over")]


def read_curves(workdir: Path, name: str) -> Curves:
    """Read the metrics of a run; there are none of an imported model.

    Raises:
        UserError: if a file is damaged.
    """
    if not workdir.is_dir():  # a model in one file
        return Curves(name, [], [], [], 0.0)
    rows = read_metrics(workdir)
    steps = [record for record in read_records(workdir) if record["kind"] == "step"]
    whole = [row for row in rows if float(row["epoch"]) > 0]
    per_epoch = int(whole[-1]["step"]) / float(whole[-1]["epoch"]) if whole else 0.0
    return Curves(name, rows, steps, history.read_changes(workdir), per_epoch)


def charts(runs: Sequence[Curves]) -> dict[str, Any]:
    """Return the charts as data for the script of the page; without any if nothing was logged.

    The axis counts epochs if all runs have more than a few, and steps otherwise.
    """
    last = [float(run.rows[-1]["epoch"]) if run.rows else 0.0 for run in runs]
    in_epochs = all(epochs > _EPOCHS_FROM for epochs in last)
    found: dict[str, list[dict[str, Any]]] = {"loss": [], "accuracy": [], "lr": [], "speed": []}
    for number, run in enumerate(runs):
        unit = run.steps_per_epoch if in_epochs else 1.0
        lines = _of_one(run, unit) if len(runs) == 1 else _of_several(run, unit, number)
        for chart, series in lines:
            if series["x"]:
                found[chart].append(series)
    titles = {
        "loss": ("Loss", "nats"),
        "accuracy": ("Accuracy", "%"),
        "lr": ("Learning rate", ""),
        "speed": ("Images per second", ""),
    }
    changes = [
        {"x": change.step / (runs[0].steps_per_epoch if in_epochs else 1.0),
         "text": visible(change)}
        for change in (runs[0].changes if len(runs) == 1 else [])
    ]  # fmt: skip
    return {
        "unit": "epoch" if in_epochs else "step",
        "charts": [
            {"id": key, "title": title, "unit": unit, "series": found[key]}
            for key, (title, unit) in titles.items()
            if found[key]
        ],
        "changes": changes,
    }


_Lines = Iterable[tuple[str, dict[str, Any]]]


def _of_one(run: Curves, unit: float) -> _Lines:
    """Yield the lines of a single run: a colour for training and for each evaluated set."""
    yield "loss", _line("train, step by step", 4, _of_records(run, "loss", unit), faint=True)
    yield "loss", _line("train", 4, _of_rows(run, "train_loss", unit))
    yield "accuracy", _line("train top-1", 4, _of_rows(run, "train_top1", unit))
    yield "accuracy", _line("train top-5", 4, _of_rows(run, "train_top5", unit), dashed=True)
    for number, name in enumerate(run.sets):
        colour = (1, 3, 5, 2, 6)[number % 5]
        yield "loss", _line(name, colour, _of_rows(run, f"{name}_loss", unit))
        yield "accuracy", _line(f"{name} top-1", colour, _of_rows(run, f"{name}_top1", unit))
        yield (
            "accuracy",
            _line(f"{name} top-5", colour, _of_rows(run, f"{name}_top5", unit), dashed=True),
        )
    steps = bool(run.records)
    yield "lr", _line("learning rate", 1, (_of_records if steps else _of_rows)(run, "lr", unit))
    yield (
        "speed",
        _line("images/s", 1, (_of_records if steps else _of_rows)(run, "images_per_s", unit)),
    )


def _of_several(run: Curves, unit: float, number: int) -> _Lines:
    """Yield the lines of one of several runs, all in its colour."""
    colour = number % 6 + 1
    first = run.sets[0] if run.sets else "val"
    yield "loss", _line(f"{run.name}, train", colour, _of_rows(run, "train_loss", unit), faint=True)
    yield "loss", _line(f"{run.name}, {first}", colour, _of_rows(run, f"{first}_loss", unit))
    yield "accuracy", _line(f"{run.name} top-1", colour, _of_rows(run, f"{first}_top1", unit))
    yield (
        "accuracy",
        _line(f"{run.name} top-5", colour, _of_rows(run, f"{first}_top5", unit), dashed=True),
    )
    steps = bool(run.records)
    yield "lr", _line(run.name, colour, (_of_records if steps else _of_rows)(run, "lr", unit))
    yield (
        "speed",
        _line(run.name, colour, (_of_records if steps else _of_rows)(run, "images_per_s", unit)),
    )


def _of_rows(run: Curves, column: str, unit: float) -> list[tuple[float, float]]:
    return [
        (int(row["step"]) / unit, float(row[column]))
        for row in run.rows
        if row.get(column) and math.isfinite(float(row[column]))
    ]


def _of_records(run: Curves, key: str, unit: float) -> list[tuple[float, float]]:
    found = [
        (record["step"] / unit, float(record[key]))
        for record in run.records
        if record.get(key) is not None and math.isfinite(record[key])
    ]
    if len(found) <= MAX_POINTS:
        return found
    parts = np.array_split(np.array(found), MAX_POINTS)
    return [(float(part[:, 0].mean()), float(part[:, 1].mean())) for part in parts]


def _line(
    name: str,
    colour: int,
    points: Sequence[tuple[float, float]],
    faint: bool = False,
    dashed: bool = False,
) -> dict[str, Any]:
    return {
        "name": visible(name),
        "colour": colour,
        "faint": faint,
        "dashed": dashed,
        "x": [float(f"{x:.6g}") for x, _ in points],
        "y": [float(f"{y:.5g}") for _, y in points],
    }
