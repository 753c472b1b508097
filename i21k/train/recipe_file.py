"""Recipes in files, for commands other than `launch.py`, which reads them with its flags."""

import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from i21k.errors import UserError
from i21k.train import overrides
from i21k.train.recipe import Recipe, complete, parse


def read_file(text: str, arguments: Sequence[str] = ()) -> Recipe:
    """Execute a recipe and return it.

    Args:
        text: FILE, or FILE:ARGUMENT for a recipe that takes one, such as the directory of its data.
        arguments: `--config.KEY=VALUE` of the command line.

    Raises:
        UserError: if there is no such file, or a key or value is wrong.
    """
    changes = overrides.read(arguments)
    file, ending, argument = text.partition(".py:")
    if not ending or Path(text).is_file():
        file, argument = text, ""
    else:
        file = f"{file}.py"
    if not Path(file).is_file():
        raise UserError(
            f"there is no config {file}. Give a Python file with get_config(), such as"
            " configs/quickstart.py."
        )
    # Recipes import each other as configs.NAME, wherever the command runs.
    sys.path += [str(Path.cwd()), str(Path(file).resolve().parent.parent)]
    get_config: Any = runpy.run_path(file).get("get_config")
    if get_config is None:
        raise UserError(
            f"{file} has no get_config(). Give a recipe, such as configs/quickstart.py."
        )
    config = complete(get_config(*[argument] * bool(argument)))
    with config.unlocked(), config.ignore_type():
        for name, value in changes.items():
            *groups, last = name.split(".")
            group: Any = config
            for part in groups:
                group = group[part]
            group[last] = value
    return parse(config)
