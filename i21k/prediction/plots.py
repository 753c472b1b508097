"""Draw images with their answers."""

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from i21k.errors import UserError
from i21k.log import printable
from i21k.prediction.predictor import Seen
from i21k.trained import Preprocessing
from i21k.wordnet.taxonomy import wordnet

MAX_DRAWN = 20  # images in one figure, our choice
_SHOWN_PX = 256  # short side of an image in the figure, our choice


def draw(seen: Sequence[Seen], path: str | Path) -> None:
    """Write a PNG with a row for each image that could be read: the image, and its answers as bars.

    Raises:
        UserError: if there are no such images, or more than `MAX_DRAWN`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    seen = [one for one in seen if not one.fault]
    if not 0 < len(seen) <= MAX_DRAWN:
        raise UserError(f"there are {len(seen)} images to draw; expected 1 to {MAX_DRAWN}")
    figure = Figure(figsize=(8, 2.4 * len(seen)), layout="constrained")
    FigureCanvasAgg(figure)
    rows = figure.subplots(len(seen), 2, squeeze=False, width_ratios=(1, 2))
    upright = Preprocessing(_SHOWN_PX, 1.0, _SHOWN_PX)
    for one, (shown, bars) in zip(seen, rows, strict=True):
        jpeg = upright.recoded(one.path if one.jpeg is None else one.jpeg)
        shown.imshow(Image.open(io.BytesIO(jpeg)))
        title = printable(wordnet().name(one.truth) if one.truth else one.path.name)
        title = textwrap.shorten(title, 32, placeholder="…")
        shown.set_title(title, fontsize="small", parse_math=False)
        shown.axis("off")
        names = [
            textwrap.shorten(printable(wordnet().name(answer.id)), 40, placeholder="…")
            for answer in one.answers
        ]
        shares = [answer.probability for answer in one.answers]
        drawn = bars.barh(range(len(names)), shares, color="tab:blue")
        bars.bar_label(drawn, [f"{s:.1%}" for s in shares], padding=3, fontsize="small")
        bars.set_yticks(range(len(names)), names, parse_math=False)
        bars.set_ylim(max(4.5, len(names) - 0.5), -0.5)  # equally wide bars, the best on top
        bars.set_xlim(0, 1.15)
        bars.set_xticks([])
        bars.spines[["top", "right", "bottom"]].set_visible(False)
    figure.savefig(path, dpi=100, format="png")
