"""Class lists that have a name of their own."""

import functools
from pathlib import Path

from i21k.labels import ClassList

NAMES = ("fall11", "ilsvrc2012")


@functools.cache
def named(name: str) -> ClassList:
    """Return the vendored class list `name`.

    Raises:
        ValueError: if there is none of that name.
    """
    if name not in NAMES:
        raise ValueError(f"no class list is named {name!r}; expected one of {', '.join(NAMES)}, or the path of a file with one id a line")
    return ClassList.read(Path(__file__).parent / "tables" / f"{name}.txt")
