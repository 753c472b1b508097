"""Text in images, in any script: with the fonts of the system, and GNU Unifont where they lack.

Nothing here fails for a character: one that no font has is drawn as Unifont's 16-pixel glyph.
"""

import functools
import lzma
import unicodedata
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from i21k.text import printable

_GLYPH_PX = 16  # of Unifont
_GLYPH_BASE = 14  # rows above the baseline
_BITMAP = ""  # means Unifont, which is no font file
_UNKNOWN = 0xFFFD  # the replacement character, which Unifont has
Colour = str


class Run(NamedTuple):
    """Neighbouring characters that one font has."""

    font: str  # its file, or `_BITMAP`
    text: str


@functools.cache
def _own_fonts() -> tuple[str, str]:
    """Return the regular and the bold DejaVu Sans, which come with Matplotlib."""
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return str(folder / "DejaVuSans.ttf"), str(folder / "DejaVuSans-Bold.ttf")


@functools.cache
def _system_fonts() -> tuple[str, ...]:
    """Return the scalable fonts of the system, sans-serif families first."""
    from matplotlib import font_manager

    files = sorted(font_manager.findSystemFonts())
    return tuple(sorted(files, key=lambda file: ("sans" not in Path(file).name.lower(), file)))


@functools.lru_cache(maxsize=512)
def _characters(file: str) -> frozenset[int]:
    """Return the codes that a font has glyphs for; none if it cannot be read or drawn."""
    from matplotlib.ft2font import FT2Font

    try:
        ImageFont.truetype(file, 12)  # fonts of bitmaps have other sizes only
        return frozenset(FT2Font(file).get_charmap())
    except (OSError, RuntimeError, ValueError):
        return frozenset()


@functools.lru_cache(maxsize=4096)
def _font_of(character: str) -> str:
    code = ord(character)
    return next(
        (file for file in (_own_fonts()[0], *_system_fonts()) if code in _characters(file)),
        _BITMAP,
    )


@functools.cache
def _glyphs() -> dict[int, str]:
    """Return Unifont's glyphs: 16 rows of 8 or 16 pixels, as hexadecimal text."""
    packed = resources.files("i21k.look").joinpath("unifont.hex.xz").read_bytes()
    pairs = (line.split(":") for line in lzma.decompress(packed).decode("ascii").split())
    return {int(code, 16): glyph for code, glyph in pairs}


def glyph(character: str) -> np.ndarray:
    """Return the pixels of a character in Unifont: bool [16, 8 or 16]."""
    text = _glyphs().get(ord(character)) or _glyphs()[_UNKNOWN]
    rows = np.frombuffer(bytes.fromhex(text), np.uint8).reshape(_GLYPH_PX, -1)
    return np.unpackbits(rows, axis=1).astype(bool)


class Lettering:
    """Draws lines of text of one size."""

    def __init__(self, size_px: int, bold: bool = False) -> None:
        """Choose the size of the letters, in pixels."""
        self.size_px = size_px
        self._bold = bold
        self._scale = max(1, round(size_px / _GLYPH_PX))

    @property
    def line_px(self) -> int:
        """The height of a line."""
        return round(self.size_px * 1.35)

    def runs(self, text: str) -> list[Run]:
        """Return a text in pieces that one font each can draw.

        Characters that belong to the one before them, such as accents and joiners, stay with it.
        """
        found: list[Run] = []
        for character in printable(text):
            belongs = (
                unicodedata.category(character) in ("Mn", "Me", "Cf", "Sk") or character == " "
            )
            font = found[-1].font if found and belongs else _font_of(character)
            if found and found[-1].font == font:
                found[-1] = Run(font, found[-1].text + character)
            else:
                found.append(Run(font, character))
        return found

    def width(self, text: str) -> float:
        """Return the width of a line in pixels."""
        return sum(map(self._width, self.runs(text)))

    def _width(self, run: Run) -> float:
        if run.font != _BITMAP:
            return float(self._scalable(run.font).getlength(run.text))
        return float(sum(pixels.shape[1] for pixels in _bitmaps(run.text)) * self._scale)

    def _scalable(self, file: str) -> ImageFont.FreeTypeFont:
        regular, bold = _own_fonts()
        return _opened(bold if self._bold and file == regular else file, self.size_px)

    def draw(self, image: Image.Image, place: tuple[int, int], text: str, colour: Colour) -> None:
        """Draw a line; `place` is its upper left corner."""
        drawing = ImageDraw.Draw(image)
        x, base = float(place[0]), place[1] + round(self.size_px * 1.05)
        for run in self.runs(text):
            if run.font == _BITMAP:
                left = round(x)
                for pixels in _bitmaps(run.text):
                    mask = np.kron(pixels, np.ones((self._scale, self._scale), bool))
                    top = base - _GLYPH_BASE * self._scale
                    drawing.bitmap((left, top), Image.fromarray(mask), colour)
                    left += mask.shape[1]
            else:
                font = self._scalable(run.font)
                drawing.text((x, base), run.text, colour, font, anchor="ls")
            x += self._width(run)

    def fit(self, text: str, width_px: float) -> str:
        """Return a text that is shortened to a width."""
        if self.width(text) <= width_px:
            return text
        low, high = 0, len(text)
        while low < high:
            middle = (low + high + 1) // 2
            if self.width(text[:middle].rstrip() + "…") <= width_px:
                low = middle
            else:
                high = middle - 1
        return text[:low].rstrip() + "…"

    def wrap(self, text: str, width_px: float, most: int) -> list[str]:
        """Return at most `most` lines of a text, broken at spaces; the last one is shortened."""
        lines: list[str] = []
        words = text.split()
        while words and len(lines) < most - 1:
            line = words.pop(0)
            while words and self.width(f"{line} {words[0]}") <= width_px:
                line += f" {words.pop(0)}"
            lines.append(self.fit(line, width_px))
        return [*lines, self.fit(" ".join(words), width_px)] if words else lines


def _bitmaps(text: str) -> Iterator[np.ndarray]:
    """Yield the glyphs of a text; what has no width of its own is skipped."""
    for character in text:
        if unicodedata.category(character) not in ("Mn", "Me", "Cf"):
            yield glyph(character)


@functools.lru_cache(maxsize=64)
def _opened(file: str, size_px: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(file, size_px)
