"""Values of keys that are text of a form: ranges of steps, and sets to evaluate."""

import re
from typing import NamedTuple


def read_steps(text: str) -> tuple[int, int] | None:
    """Return first and last of `FIRST:LAST`, or None for `none`.

    Raises:
        ValueError: if the text has another form.
    """
    if text == "none":
        return None
    if not (match := re.fullmatch(r"(\d+):(\d+)", text)):
        raise ValueError(f"cannot read {text!r}")
    first, last = int(match[1]), int(match[2])
    if first >= last:
        raise ValueError(f"{first} is not below {last}")
    return first, last


def steps_form(value: str) -> str | None:
    try:
        read_steps(value)
    except ValueError:
        return "Use FIRST:LAST with FIRST below LAST, such as 100:110, or none."
    return None


class EvaluationSet(NamedTuple):
    """One set of images that is evaluated."""

    name: str  # its columns are NAME_top1, ...
    directory: str | None  # a dataset; None: the one that is trained on
    split: str


SETS_FORM = "NAME=SPLIT or NAME=DIRECTORY:SPLIT, with commas between, or none"


def read_sets(text: str) -> list[EvaluationSet]:
    """Read the value of `evaluation.sets`.

    Raises:
        ValueError: naming the part that has another form, or the name that comes twice.
    """
    found: dict[str, EvaluationSet] = {}
    for part in [] if text == "none" else text.split(","):
        name, _, place = (piece.strip() for piece in part.partition("="))
        directory, _, split = place.rpartition(":")
        if not re.fullmatch("[a-z][a-z0-9-]*", name) or not split or name in ("train", "data"):
            raise ValueError(f"cannot read {part.strip()!r}")
        if name in found:
            raise ValueError(f"the name {name!r} comes twice")
        found[name] = EvaluationSet(name, directory or None, split)
    return list(found.values())


def sets_form(value: str) -> str | None:
    try:
        read_sets(value)
    except ValueError as error:
        return f"Use {SETS_FORM} ({error}; names are lower-case letters, digits and hyphens)."
    return None
