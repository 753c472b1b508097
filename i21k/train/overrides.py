"""Check `--config.KEY=VALUE` before the flags are parsed: the parsers' errors say too little."""

import contextlib
import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from i21k.errors import UserError
from i21k.train.recipe import KeyInfo, describe_keys, is_renamed

_TRUE = ("true", "t", "1")  # what absl takes, in any case
_BOOLEANS = (*_TRUE, "false", "f", "0")
_FLAG = re.compile(r"--?(no)?config\.([^=]*)(?:=(.*))?", re.DOTALL)


def check(arguments: Sequence[str]) -> None:
    """Check the keys and the form of the values; what a value may be is checked with the recipe.

    Args:
        arguments: of the command line.

    Raises:
        UserError: naming the flag as it was typed, and what to use instead.
    """
    keys = {key.name: key for key in describe_keys()}
    for number, argument in enumerate(arguments):
        if argument == "--":
            return
        if (match := _FLAG.fullmatch(argument)) is None:
            continue
        _, name, value = match.groups()
        typed = argument
        if name not in keys:
            if is_renamed(name):
                continue
            raise UserError(_unknown(typed, name, value, keys))
        is_bool = keys[name].type == "True or False"
        if value is None and not is_bool and number + 1 < len(arguments):
            value = arguments[number + 1]
            typed = f"{argument} {value}"
        _check_value(typed, keys[name], value, is_bool)


def read(arguments: Sequence[str]) -> dict[str, Any]:
    """Return the values by dotted name that arguments of these flags alone give.

    Raises:
        UserError: as `check`, or if an argument is another one.
    """
    check(arguments)
    types = {key.name: key.type for key in describe_keys()}
    found: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if (match := _FLAG.fullmatch(argument)) is None:
            raise UserError(f"{argument} is not a flag of this command. Use --config.KEY=VALUE.")
        negated, name, value = match.groups()
        kind = types.get(name, "")
        if kind == "True or False":
            found[name] = not negated and (value is None or value.lower() in _TRUE)
            continue
        value = rest.pop(0) if value is None else value
        found[name] = _value(value, kind)
    return found


def _value(text: str, kind: str) -> Any:
    """Return the value of a key: a number only where its type has one."""
    for name, number in (("integer", int), ("number", float)):
        if name in kind:
            with contextlib.suppress(ValueError):
                return number(text)
    return text


def _unknown(typed: str, name: str, value: str | None, keys: dict[str, KeyInfo]) -> str:
    equals = "" if value is None else f"={value}"
    group = [key for key in keys if key.startswith(f"{name}.")]
    if group:
        return (
            f"{typed}: config.{name} is a group of keys, not a value. Set one of them, such as"
            f" --config.{group[0]}={keys[group[0]].default}."
        )
    for key in keys:
        if name.startswith(f"{key}."):
            return f"{typed}: config.{key} is a value and has no keys. Use --config.{key}{equals}."
    near = max(keys, key=lambda key: _likeness(name, key))
    return (
        f"{typed}: config.{name} is not a key. Did you mean --config.{near}{equals}?"
        " python launch.py --help lists the keys."
    )


def _likeness(given: str, key: str) -> float:
    """Return how alike two keys are. The group may be wrong, or missing."""
    pairs = [(given, key), (given.rpartition(".")[2], key.rpartition(".")[2])]
    return sum(difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs)


def _check_value(typed: str, key: KeyInfo, value: str | None, is_bool: bool) -> None:
    if value is None and is_bool:
        return
    if value is None:
        raise UserError(
            f"{typed} has no value. Use --config.{key.name}={key.default}, for example."
        )
    try:
        if is_bool:
            fits = value.lower() in _BOOLEANS
        elif key.type in ("an integer", "a number"):
            fits = bool({"an integer": int, "a number": float}[key.type](value) or True)
        else:
            fits = True
    except ValueError:
        fits = False
    if not fits:
        raise UserError(f"{typed}: config.{key.name} is {value!r}. Use {key.type}.")


def check_directory(arguments: Sequence[str], config: Any, stated: str | None) -> None:
    """Check that images are drawn only where the recipe itself, or a flag, says so.

    A mistyped directory would be filled with drawn images, and the run would train on them.

    Args:
        arguments: of the command line.
        config: the recipe with the overrides.
        stated: the directory of the data without the overrides.

    Raises:
        UserError: if the directory is another one and does not exist.
    """
    if not isinstance(config, ConfigDict) or not config.data.synthetic_per_class:
        return
    directory = config.data.directory
    drawn = any(re.match("--?config.data.synthetic_per_class", given) for given in arguments)
    if drawn or directory == stated or Path(directory).exists():
        return
    raise UserError(
        f"config.data.directory is {directory!r}, which does not exist. Check the path. To draw"
        " images there, add"
        f" --config.data.synthetic_per_class={config.data.synthetic_per_class}."
    )
