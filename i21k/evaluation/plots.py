"""Draw an evaluation."""

from pathlib import Path

from i21k.evaluation.scores import Scores


def draw_reliability(scores: Scores, path: Path) -> None:
    """Write a PNG of accuracy over confidence: a calibrated model is on the diagonal."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    bins, ece = scores.reliability(), scores.summary()["table"]["all"]["ece"]
    figure = Figure(figsize=(4.5, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    curve, share = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    confidence = [b["confidence"] for b in bins]
    curve.plot((0, 1), (0, 1), color="grey", linewidth=1, label="calibrated")
    curve.plot(
        confidence,
        [b["accuracy"] for b in bins],
        marker="o",
        label=f"expected calibration error {ece:.1%}",
    )
    share.bar(confidence, [b["images"] / scores.count for b in bins], width=0.04)
    curve.set_ylabel("accuracy")
    share.set_ylabel("images")
    share.set_xlabel(f"confidence over {len(scores.model):,} classes")
    for axes in (curve, share):
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    curve.legend(fontsize="small")
    figure.savefig(path, dpi=120, format="png")
