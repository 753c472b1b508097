"""The learning curve of a run as a PNG: loss, accuracy and learning rate."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from i21k.files import replaced
from i21k.look import colours
from i21k.train.history import Change

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LOG_FROM = 10.0  # our choice: losses with a larger ratio have a logarithmic axis
_OUTLIER = 3.0  # our choice: values this many times the usual range above it are outliers
_MAX_POINTS = 2000  # our choice: of the line of training steps, more than pixels show
_MOST_EPOCHS_IN_STEPS = 2  # our choice: a run of fewer rows at epoch ends has steps on its axis


class Point(NamedTuple):
    """What was logged of a few steps."""

    step: float  # in steps or epochs, as the axis
    loss: float  # mean since the point before
    lr: float


def draw_learning_curve(
    rows: Sequence[dict[str, str]],
    path: Path,
    sets: Sequence[str] = ("val",),
    points: Sequence[Point] = (),
    steps_per_epoch: float = 0.0,
    changes: Sequence[Change] = (),
) -> None:
    """Draw loss, accuracy and learning rate.

    Args:
        rows: of `metrics.csv`.
        path: of the PNG.
        sets: names of the evaluated sets.
        points: of the training steps that were logged.
        steps_per_epoch: to place the points between epochs; 0: unknown.
        changes: of the recipe. Those that change the training are marked.
    """
    with colours.plot_style():
        _draw(rows, path, sets, points, steps_per_epoch, changes)


def _draw(
    rows: Sequence[dict[str, str]],
    path: Path,
    sets: Sequence[str],
    points: Sequence[Point],
    steps_per_epoch: float,
    changes: Sequence[Change],
) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=(9, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    (losses, accuracies), (rates, notes) = figure.subplots(2, 2, sharex="col", height_ratios=(4, 1))
    per_unit, unit = _unit(rows, steps_per_epoch)
    shown = [Point(p.step / per_unit, p.loss, p.lr) for p in points if math.isfinite(p.loss)]
    _draw_training(losses, shown)
    names = ("train", *sets)
    for name in names:
        _draw_column(losses, rows, f"{name}_loss", name, per_unit)
        for top in ("top1", "top5"):
            label = f"{name} {top[:3]}-{top[3:]}"
            _draw_column(accuracies, rows, f"{name}_{top}", label, per_unit)
    _scale_losses(losses)
    losses.set_ylabel(f"loss (nats{', log scale' if losses.get_yscale() == 'log' else ''})")
    accuracies.set_ylabel("accuracy")
    accuracies.yaxis.set_major_formatter(PercentFormatter(1))
    for axes in (rates, notes):  # the same below both, so that one can read across
        if shown:
            axes.plot(
                [p.step for p in shown], [p.lr for p in shown], color=colours.FAINT, linewidth=1
            )
        else:
            _draw_column(axes, rows, "lr", "", per_unit)
        axes.set_ylim(bottom=0)
        axes.set_xlabel(unit)
    rates.set_ylabel("learning rate")
    for axes in (losses, accuracies, rates, notes):
        axes.grid()
        if axes in (losses, accuracies) and axes.lines:
            axes.legend(fontsize="small")
        _mark(axes, changes, per_unit, with_text=axes is losses)
    with replaced(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


def _unit(rows: Sequence[dict[str, str]], steps_per_epoch: float) -> tuple[float, str]:
    """Return how many steps are one on the x axis, and the name of its unit."""
    last = rows[-1] if rows else {"epoch": "0", "step": "0"}
    if not steps_per_epoch and float(last["epoch"]):
        steps_per_epoch = int(last["step"]) / float(last["epoch"])  # nearly
    if steps_per_epoch and float(last["epoch"]) > _MOST_EPOCHS_IN_STEPS:
        return steps_per_epoch, "epoch"
    return 1.0, "step"


def _draw_column(
    axes: "Axes", rows: Sequence[dict[str, str]], column: str, label: str, per_unit: float
) -> None:
    found = [
        (int(row["step"]) / per_unit, float(row[column]))
        for row in rows
        if row.get(column) and math.isfinite(float(row[column]))
    ]
    if found:
        axes.plot(*zip(*found, strict=True), marker="o", markersize=3, label=label)


def _draw_training(axes: "Axes", points: Sequence[Point]) -> None:
    """Draw the loss of the logged steps as a pale line, averaged over adjacent points."""
    if len(points) < 2:
        return
    parts = np.array_split(np.array(points, np.float64), min(len(points), _MAX_POINTS))
    means = np.array([part.mean(axis=0) for part in parts])
    axes.plot(
        means[:, 0], means[:, 1], color=colours.FAINT, alpha=0.6, linewidth=0.8, label="train, log"
    )


def _scale_losses(axes: "Axes") -> None:
    """Choose limits without outliers, and a logarithmic axis for losses of several decades."""
    lines = [np.asarray(line.get_ydata(), float) for line in axes.lines]
    if not lines:
        return
    values, top = np.concatenate(lines), max(map(_limit, lines))
    usual = values[values <= top]
    if usual.min() > 0 and usual.max() > _LOG_FROM * usual.min():
        axes.set_yscale("log")
    if len(usual) < len(values):
        least, most = float(usual.min()), float(usual.max())
        margin = 0.1 * (most - least or most)
        if axes.get_yscale() == "log":
            axes.set_ylim(least / 1.3, most * 1.3)
        else:  # both, for Matplotlib's margin below is a share of the outlier
            axes.set_ylim(least - margin, most + margin)
        text = f"{len(values) - len(usual)} above, up to {values.max():,.3g}"
        axes.annotate(text, (0.02, 0.97), xycoords="axes fraction", va="top", fontsize="x-small")


def _limit(values: np.ndarray) -> float:
    """Return a number that all values of a line are below, but a few outliers."""
    # Of a few values the highest quantile is an outlier itself.
    low, high = np.quantile(values, (0, 0.75) if len(values) < 20 else (0.05, 0.95))
    return float(high + _OUTLIER * max(high - low, 0.1 * abs(high)))


def _mark(axes: "Axes", changes: Sequence[Change], per_unit: float, with_text: bool) -> None:
    """Draw a line where the recipe has changed, with what has changed."""
    for change in changes:
        keys = {k: v for k, v in change.keys.items() if _shapes_training(k)}
        if not keys:
            continue
        x = change.step / per_unit
        axes.axvline(x, color=colours.INK, linestyle="--", linewidth=0.8, alpha=0.6)
        if with_text:
            text = "\n".join(f"{key.rpartition('.')[2]} {_short(v)}" for key, v in keys.items())
            axes.annotate(
                text, (x, 0.5), xycoords=("data", "axes fraction"), fontsize="x-small", rotation=90,
                ha="right", va="center",
            )  # fmt: skip


def _shapes_training(key: str) -> bool:
    return not key.startswith(("log.", "data.", "evaluation.")) and key != "devices"


def _short(values: tuple[Any, Any]) -> str:
    return " to ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in values)
