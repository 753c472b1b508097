"""The fields of the schema as dotted names, and their types in words."""

import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from i21k.train.recipe.schema import Recipe


def keys() -> Iterator[tuple[str, Any, dataclasses.Field[Any]]]:
    """Yield dotted name, type and field of each key."""

    def of(kind: type, prefix: str) -> Iterator[tuple[str, Any, dataclasses.Field[Any]]]:
        hints = typing.get_type_hints(kind)
        for field in dataclasses.fields(kind):
            if dataclasses.is_dataclass(hint := hints[field.name]):
                yield from of(typing.cast(type, hint), f"{field.name}.")
            else:
                yield prefix + field.name, hint, field

    yield from of(Recipe, "")


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested dictionaries by dotted name; an empty one is a leaf."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        inner = flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) and value else None
        found |= {prefix + name: value} if inner is None else inner
    return found


def members_of(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the one type."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def type_text(hint: Any) -> str:
    """Return the name of a type for users, such as "a number or 'default'"."""
    if len(members := members_of(hint)) > 1:
        return " or ".join(map(type_text, members))
    if typing.get_origin(hint) is Literal:
        return " or ".join(map(repr, typing.get_args(hint)))
    return {int: "an integer", float: "a number", bool: "True or False", str: "text"}[hint]


def is_int(value: Any) -> bool:
    """Return whether a value is an integer, and not True or False."""
    return isinstance(value, int) and not isinstance(value, bool)
