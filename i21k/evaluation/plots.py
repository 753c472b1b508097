"""Draw an evaluation."""

import math
from pathlib import Path

from i21k.evaluation.scores import Scores
from i21k.look import colours

_MOST_COLUMNS = 3


def draw_reliability(scores: Scores, path: Path) -> None:
    """Write a PNG of accuracy over confidence for each column of the table that has probabilities.

    A calibrated model is on the diagonal.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    found, table = scores.reliabilities(), scores.summary()["table"]
    titles = {"all": f"over {len(scores.model):,} classes"}
    if scores.over is not None:
        titles |= {"over": "over the classes of the subset"}
        titles |= {"folded": f"folded onto {len(scores.over):,} classes"}
    columns = min(len(found), _MOST_COLUMNS)
    rows = math.ceil(len(found) / columns)
    with colours.plot_style():
        figure = Figure(figsize=(4.5 * columns, 5.5 * rows), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(
            2 * rows, columns, sharex=True, squeeze=False, height_ratios=(3, 1) * rows
        )
        for number, (name, bins) in enumerate(found.items()):
            curve = panels[2 * (number // columns), number % columns]
            share = panels[2 * (number // columns) + 1, number % columns]
            confidence = [b["confidence"] for b in bins]
            curve.plot((0, 1), (0, 1), color=colours.FAINT, linestyle=":", label="calibrated")
            for b in bins:
                ends = (b["confidence"], b["accuracy"])
                curve.plot((b["confidence"],) * 2, ends, color=colours.WARM, alpha=0.3, linewidth=6)
            label = f"expected calibration error {table[name]['ece']:.1%}"
            curve.plot(confidence, [b["accuracy"] for b in bins], marker="o", label=label)
            share.bar(
                confidence,
                [b["images"] / scores.count for b in bins],
                width=0.04,
                color=colours.FAINT,
            )
            curve.set_title(titles[name], loc="left", fontsize="medium")
            curve.set_ylabel("accuracy")
            share.set_ylabel("images")
            share.set_xlabel("confidence")
            for axes in (curve, share):
                axes.grid()
                axes.set_axisbelow(True)
                axes.xaxis.set_major_formatter(PercentFormatter(1))
                axes.yaxis.set_major_formatter(PercentFormatter(1))
            curve.legend(fontsize="small")
        for number in range(len(found), rows * columns):
            for row in (0, 1):
                panels[2 * (number // columns) + row, number % columns].set_visible(False)
        figure.savefig(path, dpi=120, format="png")
