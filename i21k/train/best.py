"""Which row of a run's metrics is the best, by the column that `log.keep_best` names."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from i21k.errors import UserError
from i21k.train.recipe import LogRecipe

_OF_TRAINING = ("train_loss", "train_top1", "train_top5")


class Best(NamedTuple):
    """A row with the best value."""

    step: int
    value: float


def check_best(metric: str, columns: Sequence[str]) -> None:
    """Refuse a metric that no row will have. The default may be missing: then no row is the best.

    Raises:
        UserError: with the columns there are.
    """
    known = (*_OF_TRAINING, *columns)
    if metric not in ("none", LogRecipe.keep_best, *known):
        raise UserError(
            f"config.log.keep_best is {metric!r}. Use one of {', '.join(known)}, or none."
        )


def best_row(
    rows: Sequence[Mapping[str, str]], metric: str, steps: Collection[int] | None = None
) -> Best | None:
    """Return the best row, and the first of equal ones; None if no row has a value.

    Args:
        rows: of `metrics.csv`.
        metric: a column. Low values of losses are good, and high values of all others.
        steps: rows of other steps do not count; None: all count.
    """
    sign = -1 if metric.endswith("_loss") else 1
    best: Best | None = None
    for row in rows:
        value, step = float(row.get(metric) or "nan"), int(row["step"])
        if math.isnan(value) or (steps is not None and step not in steps):
            continue
        if best is None or sign * value > sign * best.value:
            best = Best(step, value)
    return best
