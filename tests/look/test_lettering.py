"""Names of any script in images: every character has a shape."""

import numpy as np
import pytest
from PIL import Image

from i21k.look import lettering
from i21k.look.grid import Bar, Cell, columns_for, draw_grid
from i21k.look.lettering import Lettering

SCRIPTS = ("猫", "Käfer", "🦋", "قط", "한국어", "हिन्दी", "Жук")
NAMES = (*SCRIPTS, "\U000e0fff", "\udcff", "a\x1b[0m\n")


def ink(text: str, size_px: int = 14) -> int:
    """Return how many pixels a text has."""
    letters = Lettering(size_px)
    image = Image.new("L", (round(letters.width(text)) + 8, letters.line_px + 8), 0)
    letters.draw(image, (4, 4), text, "white")
    return int((np.asarray(image) > 64).sum())


@pytest.mark.parametrize("text", NAMES)
def test_every_script_is_drawn_without_fonts_of_the_system(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lettering._font_of.cache_clear()
    monkeypatch.setattr(lettering, "_system_fonts", lambda: ())
    assert ink(text) > 5 and ink(text, 32) > ink(text)
    lettering._font_of.cache_clear()


def test_two_names_do_not_look_the_same() -> None:
    glyphs = [lettering.glyph(character) for character in "猫犬🦋🐝"]
    assert len({glyph.tobytes() for glyph in glyphs}) == 4
    assert all(glyph.shape == (16, 16) for glyph in glyphs)
    unknown = lettering.glyph("\U000e0fff")
    assert np.array_equal(unknown, lettering.glyph("\ufffd")) and unknown.any()


def test_fonts_that_cannot_be_read_are_passed(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    broken = tmp_path / "broken.ttf"
    broken.write_bytes(b"no font")
    lettering._font_of.cache_clear()
    monkeypatch.setattr(lettering, "_system_fonts", lambda: (str(broken),))
    assert ink("猫") > 5
    lettering._font_of.cache_clear()


@pytest.mark.parametrize("text", ["a long name of a class", "猫" * 30, "Käfer"])
def test_text_fits(text: str) -> None:
    letters = Lettering(14)
    assert letters.width(letters.fit(text, 80)) <= 80
    lines = letters.wrap(text, 80, 2)
    assert 1 <= len(lines) <= 2 and all(letters.width(line) <= 80 for line in lines)
    assert letters.fit("ox", 80) == "ox"


def test_a_grid_grows() -> None:
    bars = [Bar("x", 0.5), Bar("y", 2, True)]
    cell = Cell(Image.new("RGB", (30, 20), "red"), "猫", "note", bars)
    one, many = draw_grid([cell], 4, 100), draw_grid([cell] * 9, 4, 100)
    assert one.width < many.width and many.height > 2.5 * (one.height - 48)
    assert [columns_for(n, 6) for n in (1, 2, 4, 9, 100)] == [1, 2, 2, 3, 6]
    assert draw_grid([Cell(None, "no image")], 4, 100).width == 148
