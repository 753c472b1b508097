"""How a key of a recipe is declared: its default, help, check, and when it may change."""

import dataclasses
from collections.abc import Callable
from typing import Any

_MOST = 2**31 - 1  # what counters of JAX hold; no recipe makes sense beyond it
Check = Callable[[Any], str | None]  # returns what to use instead, or None if the value is fine
NEW_SCHEDULE = "a new optimizer.schedule_from_step"


def key(
    default: Any,
    help: str,
    *,
    check: Check | None = None,
    may_change: bool | str = False,
    may_differ: bool = False,
    exact: bool = True,
) -> Any:
    """Declare a key of a recipe.

    Args:
        default: value of recipes that do not state the key.
        help: one line for `launch.py --help` and the documentation.
        check: refuses values that have the right type and make no sense.
        may_change: whether a resumed run may have another value than before. Text such as
            "optimizer.schedule=constant" allows it for recipes with that value, and `NEW_SCHEDULE`
            together with a schedule that starts at the step of the checkpoint; " or " joins two.
        may_differ: whether the processes of one run may have different values.
        exact: False if a change leads to other bits than an uninterrupted run would have.
    """
    metadata = {
        "help": help,
        "check": check,
        "may_change": may_change,
        "may_differ": may_differ,
        "exact": exact,
    }
    return dataclasses.field(default=default, metadata=metadata)


def at_least(least: int) -> Check:
    return between(least, _MOST)


def between(least: int, most: int) -> Check:
    def check(value: float) -> str | None:  # comparisons are written so that NaN is refused too
        if value > most:
            return f"Use at most {most:,}."
        return None if least <= value else f"Use at least {least}."

    return check


def above_zero(most: float) -> Check:
    return lambda value: None if 0 < value <= most else f"Use a value above 0, at most {most:g}."


def fraction(value: float) -> str | None:
    return None if 0 <= value < 1 else "Use a value from 0 to below 1."


def seed_range(value: int) -> str | None:
    return None if 0 <= value < 2**63 else "Use a value from 0 to below 2**63."


def momentum_range(value: Any) -> str | None:
    fine = value == "default" or 0 <= value < 1
    return None if fine else "Use a value from 0 to below 1, or 'default'."


def images_or_auto(value: Any) -> str | None:
    fine = value == "auto" or 0 <= value <= _MOST
    return None if fine else "Use a number of images, 0 or 'auto'."
