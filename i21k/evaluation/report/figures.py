"""Figures of the report as SVG, drawn in Python: reliability, accuracy by class size, a matrix."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from i21k.look.html import escape, visible
from i21k.look.parts import accuracy_class

_SIDE, _LEFT, _BELOW = 260, 44, 34  # px
_HISTOGRAM = 54
_CELL, _NAME_PX = 17, 150


def reliability(bins: Sequence[dict[str, float]], title: str) -> str:
    """Return accuracy over confidence with the number of images below.

    The shaded gap between the points and the diagonal is what calibration would remove.
    """
    total = max(sum(b["images"] for b in bins), 1)
    most = max((b["images"] for b in bins), default=1)
    width, height = _LEFT + _SIDE + 24, 12 + _SIDE + 10 + _HISTOGRAM + _BELOW
    points = [(_LEFT + _SIDE * b["confidence"], 12 + _SIDE * (1 - b["accuracy"])) for b in bins]
    parts = []
    for k in range(5):
        x, y = _LEFT + _SIDE * k / 4, 12 + _SIDE * (1 - k / 4)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}h{_SIDE}M{x:.1f} 12v{_SIDE}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{25 * k} %</text>')
        parts.append(f'<text x="{x:.1f}" y="{height - 18}" text-anchor="middle">{25 * k} %</text>')
    diagonal = f"{_LEFT},{12 + _SIDE} {_LEFT + _SIDE},12"
    parts.append(f'<polyline class="calibrated" points="{diagonal}"/>')
    for b, (x, y) in zip(bins, points, strict=True):
        ideal = 12 + _SIDE * (1 - b["confidence"])
        parts.append(f'<path class="gap" d="M{x:.1f} {ideal:.1f}V{y:.1f}"/>')
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    parts.append(f'<polyline class="line s1" points="{line}"/>')
    base = 12 + _SIDE + 10 + _HISTOGRAM
    for b, (x, y) in zip(bins, points, strict=True):
        tip = (
            f"{b['images']:,.0f} images ({b['images'] / total:.1%}): confidence"
            f" {b['confidence']:.1%}, accuracy {b['accuracy']:.1%}"
        )
        tall = _HISTOGRAM * b["images"] / most
        parts.append(
            f"<g><title>{escape(tip)}</title>"
            f'<circle class="dot s1" cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
            f'<rect class="column" x="{x - 5:.1f}" y="{base - tall:.1f}" width="10"'
            f' height="{tall:.1f}"/></g>'
        )
    parts.append(
        f'<text x="{_LEFT + _SIDE / 2}" y="{height - 2}" text-anchor="middle">confidence</text>'
    )
    return _svg(width, height, "".join(parts), title)


def _svg(width: float, height: float, content: str, title: str) -> str:
    return (
        f'<svg class="figure" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}"'
        f' height="{height:.0f}" role="img" aria-label="{escape(title)}">{content}</svg>'
    )


def matrix(
    names: Sequence[str], counts: Int[np.ndarray, "M M"], images: Int[np.ndarray, " M"], title: str
) -> str:
    """Return confusions between classes as a matrix: rows are truths, columns are answers.

    Args:
        names: of the M classes, in the order of rows and columns.
        counts: images of the class of the row that were answered with the class of the column.
        images: of each class.
        title: plain text for readers that cannot see it.
    """
    size = len(names)
    parts = [
        f'<rect class="plate" x="{_NAME_PX}" y="{_NAME_PX}" width="{size * _CELL}"'
        f' height="{size * _CELL}"/>'
    ]
    for row in range(size):
        at = _NAME_PX + row * _CELL
        shown = escape(_short(names[row]))
        parts.append(
            f'<text x="{_NAME_PX - 6}" y="{at + 12}" text-anchor="end">{shown}</text>'
            f'<text transform="translate({at + 12} {_NAME_PX - 6}) rotate(-90)">{shown}</text>'
        )
        for column in np.flatnonzero(counts[row]).tolist():
            share = counts[row, column] / max(images[row], 1)
            tip = (
                f"{names[row]} answered as {names[column]}: {counts[row, column]:,} of"
                f" {images[row]:,} images ({share:.0%})"
            )
            look = (
                f'class="{accuracy_class(share)}"'
                if row == column
                else f'class="miss" fill-opacity="{0.15 + 0.85 * min(1, (share / 0.5) ** 0.6):.2f}"'
            )
            parts.append(
                f'<rect {look} x="{_NAME_PX + column * _CELL + 1}" y="{at + 1}"'
                f' width="{_CELL - 2}" height="{_CELL - 2}"><title>{escape(tip)}</title></rect>'
            )
    side = _NAME_PX + size * _CELL + 4
    return _svg(side, side, "".join(parts), title)


def _short(text: str, most: int = 20) -> str:
    text = visible(text)
    return text if len(text) <= most else text[: most - 1] + "…"


def pair_grid(
    first: np.ndarray, second: np.ndarray, names: tuple[str, str], steps: int = 20
) -> str:
    """Return how many classes have which accuracy in two runs: squares whose area is the number.

    Args:
        first: accuracy of each class in the first run, on the horizontal axis.
        second: in the other one.
        names: of the runs.
        steps: of the grid along an axis.
    """
    columns = np.minimum((first * steps).astype(int), steps - 1)
    rows = np.minimum((second * steps).astype(int), steps - 1)
    counts = np.zeros((steps, steps), int)
    np.add.at(counts, (rows, columns), 1)
    most, cell = max(int(counts.max()), 1), 320 / steps
    parts = [f'<path class="grid" d="M{_LEFT} 12V332H{_LEFT + 320}V12Z"/>']
    parts.append(f'<polyline class="calibrated" points="{_LEFT},332 {_LEFT + 320},12"/>')
    for row, column in np.argwhere(counts).tolist():
        side = cell * max(0.18, (counts[row, column] / most) ** 0.5) * 0.95
        x = _LEFT + (column + 0.5) * cell - side / 2
        y = 332 - (row + 0.5) * cell - side / 2
        kind = "s1" if row > column else "s2" if row < column else "same"
        tip = (
            f"{counts[row, column]:,} classes: about {(column + 0.5) / steps:.0%} in {names[0]},"
            f" {(row + 0.5) / steps:.0%} in {names[1]}"
        )
        parts.append(
            f'<rect class="dot {kind}" x="{x:.1f}" y="{y:.1f}" width="{side:.1f}"'
            f' height="{side:.1f}"><title>{escape(tip)}</title></rect>'
        )
    for k in range(5):
        x, y = _LEFT + 80 * k, 332 - 80 * k
        parts.append(f'<text x="{x}" y="350" text-anchor="middle">{25 * k} %</text>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4}" text-anchor="end">{25 * k} %</text>')
    parts.append(
        f'<text x="{_LEFT + 320}" y="368" text-anchor="end">{escape(_short(names[0], 40))}</text>'
        f'<text x="{_LEFT + 8}" y="26">{escape(_short(names[1], 40))}</text>'
    )
    title = f"accuracy of classes in {names[0]} and {names[1]}"
    return _svg(_LEFT + 336, 374, "".join(parts), title)
