"""Recipes in files: a recipe is a Python file with `get_config()`."""

import inspect
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from i21k.errors import UserError
from i21k.train import overrides
from i21k.train.recipe import Recipe, complete, parse


def read_file(text: str, arguments: Sequence[str] = ()) -> Recipe:
    """Execute a recipe, change it, and return it.

    Args:
        text: FILE, or FILE:ARGUMENT for a recipe that takes one, such as the directory of its data.
        arguments: `--config.KEY=VALUE` of the command line.

    Raises:
        UserError: if there is no such file, or a key or value is wrong.
    """
    changes = overrides.read(arguments)
    config = complete(execute(text))
    with config.unlocked(), config.ignore_type():
        for name, value in changes.items():
            *groups, last = name.split(".")
            group: Any = config
            for part in groups:
                group = group[part]
            group[last] = value
    return parse(config)


def execute(text: str) -> ConfigDict:
    """Execute a recipe and return what it returns.

    Args:
        text: FILE, or FILE:ARGUMENT.

    Raises:
        UserError: if there is no such file, it has no `get_config`, or that takes other arguments.
            What the recipe itself raises keeps its traceback.
    """
    file, argument = split(text)
    if not file.is_file():
        raise UserError(
            f"there is no config {file}. Give a Python file with get_config(), such as"
            " configs/quickstart.py."
        )
    # Recipes import each other as configs.NAME, wherever the command runs.
    sys.path += [str(Path.cwd()), str(file.resolve().parent.parent)]
    get_config: Any = runpy.run_path(str(file)).get("get_config")
    if get_config is None:
        raise UserError(
            f"{file} has no get_config(). Give a recipe, such as configs/quickstart.py."
        )
    arguments = [] if argument is None else [argument]
    try:
        inspect.signature(get_config).bind(*arguments)
    except TypeError as error:
        raise UserError(
            f"--config is {text}, and get_config() of that file takes other arguments ({error})."
            f" Give {file}{':ARGUMENT' if argument is None else ' alone'}."
        ) from error
    return get_config(*arguments)


def split(text: str) -> tuple[Path, str | None]:
    """Split `FILE.py:ARGUMENT`; a file that is there is never split."""
    file, ending, argument = text.partition(".py:")
    if not ending or Path(text).is_file():
        return Path(text), None
    return Path(f"{file}.py"), argument
