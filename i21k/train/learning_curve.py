"""The learning curve of a run as a PNG."""

from collections.abc import Sequence
from pathlib import Path

from i21k.files import replaced


def draw_learning_curve(
    rows: Sequence[dict[str, str]], path: Path, sets: Sequence[str] = ("val",)
) -> None:
    """Draw loss and accuracy over epochs.

    Args:
        rows: of `metrics.csv`.
        path: of the PNG.
        sets: names of the evaluated sets.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    losses, accuracies = figure.subplots(1, 2)
    names = ("train", *sets)
    curves = [(losses, f"{name}_loss", name) for name in names]
    curves += [
        (accuracies, f"{name}_{top}", f"{name} {top[:3]}-{top[3:]}")
        for name in names
        for top in ("top1", "top5")
    ]
    for axes, column, label in curves:
        points = [(int(row["epoch"]), float(row[column])) for row in rows if row.get(column)]
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=label)
    losses.set_ylabel("loss (nats)")
    accuracies.set_ylabel("accuracy")
    accuracies.yaxis.set_major_formatter(PercentFormatter(1))
    for axes in (losses, accuracies):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize="small")
    with replaced(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
