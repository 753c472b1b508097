"""A grid of images with captions and bars: contact sheets, and images with their answers."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw

from i21k.look import colours
from i21k.look.lettering import Lettering

_MARGIN, _GAP = 24, 18  # px, as all numbers here: our choice
_TITLE, _SMALL = 14, 12
_BAR, _BARS_GAP = 6, 5


class Bar(NamedTuple):
    """A line with a number below an image."""

    text: str
    fraction: float  # from 0 to 1, the length of the bar
    is_marked: bool = False  # drawn in the warm colour


class Cell(NamedTuple):
    """An image of the grid and what is written below it."""

    image: Image.Image | None  # None: an empty frame
    title: str
    note: str = ""
    bars: Sequence[Bar] = ()


def draw_grid(cells: Sequence[Cell], columns: int, side_px: int) -> Image.Image:
    """Return the grid.

    Args:
        cells: at least one, row by row.
        columns: at most; fewer cells have fewer columns.
        side_px: of the square in which each image is shown whole.
    """
    assert cells, "a grid has at least one cell"
    columns = min(columns, len(cells))
    title, small = Lettering(_TITLE, bold=True), Lettering(_SMALL)
    heights = [
        max(_caption_px(cell, title, small, side_px) for cell in cells[first : first + columns])
        for first in range(0, len(cells), columns)
    ]
    width = 2 * _MARGIN + columns * side_px + (columns - 1) * _GAP
    height = 2 * _MARGIN + sum(side_px + h for h in heights) + (len(heights) - 1) * _GAP
    sheet = Image.new("RGB", (width, height), colours.PAPER)
    top = _MARGIN
    for row, caption_px in enumerate(heights):
        for column, cell in enumerate(cells[row * columns : (row + 1) * columns]):
            _draw_cell(sheet, (_MARGIN + column * (side_px + _GAP), top), cell, side_px)
        top += side_px + caption_px + _GAP
    return sheet


def columns_for(num_cells: int, most: int) -> int:
    """Return the number of columns that makes a grid about square, at most `most`."""
    return max(1, min(most, math.ceil(math.sqrt(num_cells))))


def _caption_px(cell: Cell, title: Lettering, small: Lettering, side_px: int) -> int:
    lines = len(title.wrap(cell.title, side_px, 2))
    return (
        6
        + lines * title.line_px
        + (small.line_px if cell.note else 0)
        + (_BARS_GAP if cell.bars else 0)
        + len(cell.bars) * (small.line_px + _BAR + 5)
    )


def _draw_cell(sheet: Image.Image, place: tuple[int, int], cell: Cell, side_px: int) -> None:
    left, top = place
    title, small = Lettering(_TITLE, bold=True), Lettering(_SMALL)
    drawing = ImageDraw.Draw(sheet)
    drawing.rectangle((left, top, left + side_px - 1, top + side_px - 1), colours.WASH)
    if cell.image is not None:
        scale = side_px / max(cell.image.size)
        size = [max(1, round(side * scale)) for side in cell.image.size]
        shown = cell.image.convert("RGB").resize((size[0], size[1]), Image.Resampling.BICUBIC)
        sheet.paste(shown, (left + (side_px - size[0]) // 2, top + (side_px - size[1]) // 2))
    y = top + side_px + 6
    for line in title.wrap(cell.title, side_px, 2):
        title.draw(sheet, (left, y), line, colours.INK)
        y += title.line_px
    if cell.note:
        small.draw(sheet, (left, y), small.fit(cell.note, side_px), colours.SOFT)
        y += small.line_px
    y += _BARS_GAP
    for bar in cell.bars:
        number = f"{bar.fraction:.1%}"
        width_px = side_px - small.width(number) - 8
        small.draw(sheet, (left, y), small.fit(bar.text, width_px), colours.INK)
        small.draw(sheet, (left + side_px - round(small.width(number)), y), number, colours.SOFT)
        y += small.line_px
        colour = colours.WARM if bar.is_marked else colours.ACCENT
        drawing.rectangle((left, y, left + side_px - 1, y + _BAR - 1), colours.WASH)
        if (length := round(side_px * min(max(bar.fraction, 0), 1))) > 0:
            drawing.rectangle((left, y, left + length - 1, y + _BAR - 1), colour)
        y += _BAR + 5
