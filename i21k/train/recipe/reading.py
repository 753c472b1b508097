"""Read a recipe: of a file, of the command line, or of a checkpoint of any version."""

import dataclasses
import difflib
import typing
from collections.abc import Mapping
from typing import Any, Literal

from ml_collections import ConfigDict, FieldReference

from i21k.errors import UserError
from i21k.train.recipe.declare import Check
from i21k.train.recipe.fields import flat, is_int, keys, members_of, type_text
from i21k.train.recipe.old import VERSION_ONE, upgrade
from i21k.train.recipe.schema import Recipe


def default_config() -> ConfigDict:
    """Return a recipe that holds every key with its default. Recipe files start from it."""
    config = ConfigDict()
    for name, hint, field in keys():
        *groups, last = name.split(".")
        group = config
        for part in groups:
            if part not in group:
                group[part] = ConfigDict()
            group = group[part]
        several = len(members_of(hint)) > 1  # `object` takes values of each type
        group[last] = FieldReference(field.default, field_type=object) if several else field.default
    return config


def complete(config: ConfigDict) -> ConfigDict:
    """Return a locked copy with the defaults of all keys that `config` does not state.

    After that the command line can override any key. Nothing is checked here.
    """
    if not isinstance(config, ConfigDict):
        return config
    whole = default_config()
    hints = {name: hint for name, hint, _ in keys()}
    with whole.ignore_type():
        for name, value in upgrade(flat(config.to_dict())).items():
            *groups, last = name.split(".")
            group = whole
            for part in groups:
                if not isinstance(group.get(part), ConfigDict):
                    group[part] = ConfigDict()
                group = group[part]
            group[last] = float(value) if hints.get(name) is float and is_int(value) else value
    return whole.lock()


def parse(config: ConfigDict) -> Recipe:
    """Read and check a recipe. Keys that it does not state have their defaults.

    Raises:
        UserError: naming the key, its value, and what to use instead.
    """
    if not isinstance(config, ConfigDict):
        raise UserError(f"config is {config!r}. Return a ConfigDict from get_config().")
    return _read(upgrade(flat(config.to_dict())))


def from_stored(stored: Mapping[str, Any]) -> Recipe:
    """Return the recipe of a checkpoint, of whatever version: keys that do not exist any more are
    dropped."""
    known = {name for name, _, _ in keys()}
    values = stored_values(stored)
    return _read({name: value for name, value in values.items() if name in known})


def to_config(stored: Mapping[str, Any]) -> ConfigDict:
    """Return a stored recipe, of whatever version, in the form in which a file gives one."""
    return complete(ConfigDict(dataclasses.asdict(from_stored(stored))))


def _read(values: Mapping[str, Any]) -> Recipe:
    known = [name for name, _, _ in keys()]
    for name, value in values.items():
        if any(other.startswith(f"{name}.") for other in known):
            if value == {}:
                continue
            raise UserError(f"config.{name} is {value!r}. Use a group of keys.")
        if name in VERSION_ONE:
            raise UserError(f"config.{name} does not exist any more. Use config.evaluation.sets.")
        if name not in known:
            near = difflib.get_close_matches(name, known, 1, cutoff=0)[0]
            raise UserError(f"config.{name} is not a key. Did you mean config.{near}?")
    groups: dict[str, dict[str, Any]] = {"": {}}
    for name, hint, field in keys():
        group, _, last = name.rpartition(".")
        value = _checked(name, hint, values.get(name, field.default), field.metadata["check"])
        groups.setdefault(group, {})[last] = value
    sections = typing.get_type_hints(Recipe)
    top = groups.pop("")
    return Recipe(**top, **{name: sections[name](**group) for name, group in groups.items()})


def stored_values(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the flat recipe of a checkpoint: renamed keys mapped, missing ones filled in."""
    defaults = {name: field.default for name, _, field in keys()}
    return defaults | upgrade(flat(stored))


def _checked(name: str, hint: Any, value: Any, check: Check | None) -> Any:
    """Return the value in the type of its key.

    Raises:
        UserError: if it has another type, or `check` refuses it.
    """
    for kind in members_of(hint):
        if typing.get_origin(kind) is Literal and value in typing.get_args(kind):
            break
        if kind is float and is_int(value):
            value = float(value)
        if type(value) is kind:
            break
    else:
        raise UserError(f"config.{name} is {value!r}. Use {type_text(hint)}.")
    if check is not None and (advice := check(value)):
        raise UserError(f"config.{name} is {value!r}. {advice}")
    return value
