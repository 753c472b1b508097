"""Text for terminals: characters that can be shown, and lines that fit."""

import re
import unicodedata
from typing import TextIO

_NOT_SHOWN = {"Cc", "Cs", "Zl", "Zp"}  # control characters, half characters, line separators
_DIRECTIONS = "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def printable(text: object) -> str:
    """Return a text on one line, with escapes for what a terminal would not just show.

    Names of files and classes may hold anything.
    """
    return escaped(str(text), "")


def escaped(text: str, allowed: str) -> str:
    """Return a text with escapes for characters that are not shown, except the allowed ones."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        c
        if c in allowed or (unicodedata.category(c) not in _NOT_SHOWN and c not in _DIRECTIONS)
        else c.encode("unicode_escape").decode()
        for c in text
    )


def wrapped(text: str, num_columns: int) -> str:
    """Break lines between words. A word that is longer than a line stays whole.

    Args:
        text: lines; spaces inside of a line stay, as in a table.
        num_columns: of the terminal; 0: unknown, nothing is changed.
    """
    if num_columns <= 0:
        return text
    lines = []
    for line in text.split("\n"):
        start, width = "", 0
        for word in re.findall(r"\s*\S+", line) or [line]:
            if start and width + _num_columns(word) > num_columns:
                lines.append(start)
                start, width, word = "", 0, f"  {word.lstrip()}"
            start, width = start + word, width + _num_columns(word)
        lines.append(start)
    return "\n".join(lines)


def _num_columns(text: str) -> int:
    return len(text) + sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)


def encodable(text: str, stream: TextIO) -> str:
    """Return a text with escapes for the characters that a stream cannot write."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)
