"""The colours of `look.css` for images and plots, which have no style sheet."""

import contextlib
from typing import Any

PAPER, SHEET, INK, SOFT = "#faf8f3", "#ffffff", "#1c2321", "#5a6460"
FAINT, RULE, WASH = "#8b938e", "#dcd8cc", "#f0ede4"
ACCENT, WARM = "#0e6b60", "#b4451f"
SERIES = (ACCENT, WARM, "#3d5a98", "#96720d", "#7d3f86", "#4f7a28")


def plot_style() -> contextlib.AbstractContextManager[None]:
    """Draw with these colours in Matplotlib for the block."""
    import matplotlib as mpl
    from cycler import cycler

    settings: Any = {
        "figure.facecolor": PAPER,
        "savefig.facecolor": PAPER,
        "axes.facecolor": PAPER,
        "axes.edgecolor": FAINT,
        "axes.labelcolor": SOFT,
        "axes.titlecolor": INK,
        "axes.prop_cycle": cycler(color=SERIES),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "text.color": INK,
        "xtick.color": SOFT,
        "ytick.color": SOFT,
        "grid.color": RULE,
        "grid.alpha": 1.0,
        "legend.edgecolor": RULE,
        "legend.facecolor": PAPER,
        "lines.linewidth": 1.6,
    }
    return mpl.rc_context(settings)
