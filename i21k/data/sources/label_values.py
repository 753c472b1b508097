"""The label that a source holds for an image: a class id, an integer, or nothing.

All sources with labels use these functions, so that all of them skip the same labels as missing.
"""

import math
import re
from collections.abc import Collection

from i21k.errors import UserError
from i21k.labels import ClassList

_INTEGER = re.compile(r"[-+]?([0-9]{1,18})(\.0*)?")  # pandas writes 3.0 where a column has gaps
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[-+]?[0-9]+)?", re.IGNORECASE)
_MISSING = frozenset({"", "nan", "null"})  # in lower case


def label_text(value: object) -> str:
    """Return a label as a text without spaces around it; empty if the label is missing.

    A label is missing if it is null, NaN, infinite, empty, or a negative number. Many datasets
    write -1 for an image without a label.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return ""
    text = "" if value is None else str(value).strip()
    is_missing = text.lower() in _MISSING or (is_number(text) and float(text) < 0)
    return "" if is_missing else text


def is_number(text: str) -> bool:
    """Return whether a text is a number, which may have a fraction."""
    return bool(_NUMBER.fullmatch(text))


def label_number(text: str) -> int | None:
    """Return the integer that a `label_text` is; None for another text, or a fraction."""
    match = _INTEGER.fullmatch(text)
    return int(match[1]) if match else None


def label_kind(text: str) -> str:
    """Return whether a `label_text` is missing, an integer, a fraction or another text."""
    if not text:
        return "missing"
    if label_number(text) is not None:
        return "integer"
    return "fraction" if is_number(text) else "text"


def class_of_text(text: str, kinds: Collection[str], names: ClassList | None, source: str) -> str:
    """Return the class id that a `label_text` stands for; empty if it is missing.

    Args:
        text: the label.
        kinds: `label_kind` of all labels of the source. A number is a name if others are texts.
        names: class ids by label, for integers.
        source: for messages.

    Raises:
        UserError: as `class_of_number` does.
    """
    if "text" in kinds:
        return text
    label = label_number(text)
    return "" if label is None else class_of_number(label, names, source)


def class_of_number(label: int, names: ClassList | None, source: str) -> str:
    """Return the class id that an integer label stands for.

    Raises:
        UserError: if there are no names, or too few.
    """
    if names is None:
        raise UserError(
            f"{source} has integer labels, such as {label}, and no names for them. Give the list "
            "that they count in: --classes NAME or FILE, such as --classes ilsvrc2012."
        )
    if not 0 <= label < len(names):
        raise UserError(
            f"{source} has label {label}; expected 0 to {len(names) - 1}, as the given list has "
            f"{len(names)} classes. Change --classes."
        )
    return names.ids[label]
