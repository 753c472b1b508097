"""Recipes in files, for commands other than `launch.py`, which reads them with its flags."""

import ast
import contextlib
import runpy
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from i21k.errors import UserError
from i21k.train.recipe import Recipe, complete, parse


def read_file(text: str, changes: Mapping[str, str] | None = None) -> Recipe:
    """Execute a recipe and return it.

    Args:
        text: FILE, or FILE:DIRECTORY for a recipe that takes the directory of its data.
        changes: values by dotted name, as text.

    Raises:
        UserError: if there is no such file, or a key or value is wrong.
    """
    file, colon, directory = text.rpartition(":")
    if not colon or Path(text).is_file():
        file, directory = text, ""
    if not Path(file).is_file():
        raise UserError(
            f"there is no config {file}. Give a Python file with get_config(), such as"
            " configs/quickstart.py."
        )
    sys.path.insert(0, str(Path.cwd()))  # recipes import each other as configs.NAME
    get_config: Any = runpy.run_path(file)["get_config"]
    config = complete(get_config(*[directory] * bool(directory)))
    for name, value in (changes or {}).items():
        *groups, last = name.split(".")
        group: Any = config
        for part in groups:
            group = group.get(part) if hasattr(group, "get") else None
        if group is None or last not in group:
            raise UserError(f"{name}={value}: {name} is not a key of a recipe.")
        with config.ignore_type(), contextlib.suppress(ValueError, SyntaxError):
            group[last] = value
            group[last] = ast.literal_eval(value)
    return parse(config)
