"""Which keys may have another value when a run resumes, or in another process."""

import dataclasses

from i21k.train.recipe.declare import NEW_SCHEDULE
from i21k.train.recipe.fields import flat, keys
from i21k.train.recipe.schema import Recipe


def keys_that_may_change(recipe: Recipe, new_schedule: bool = False) -> set[str]:
    """Return the keys that a resumed run of this recipe may change.

    Args:
        recipe: with which the run resumes.
        new_schedule: whether its schedule starts anew at the step of the checkpoint.
    """
    values = flat(dataclasses.asdict(recipe))

    def holds(condition: str) -> bool:
        if condition == NEW_SCHEDULE:
            return new_schedule
        name, _, value = condition.partition("=")
        return str(values[name]) == value

    def allows(may_change: bool | str) -> bool:
        if isinstance(may_change, bool):
            return may_change
        return any(map(holds, may_change.split(" or ")))

    return {name for name, _, field in keys() if allows(field.metadata["may_change"])}


def keys_that_may_differ() -> set[str]:
    """Return the keys in which the processes of one run may differ."""
    return {name for name, _, field in keys() if field.metadata["may_differ"]}


def inexact_keys() -> list[str]:
    """Return the keys whose change on resume gives other bits than an uninterrupted run."""
    return [name for name, _, field in keys() if not field.metadata["exact"]]
