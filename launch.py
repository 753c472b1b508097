"""Train by a recipe, or go on with a run that was cut off.

python launch.py --config configs/quickstart.py [--workdir runs/quickstart] [--config.epochs=2 ...]

Started by Slurm, Open MPI or an indexed job of Kubernetes as several processes, these train together; so do processes that are told
--coordinator HOST:PORT --num-processes N --process-id I.
"""

import os
import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from i21k import backend
from i21k.errors import UserError
from i21k.train.recipe import complete


class RecipeParser(flags.ArgumentParser):
    """Fills in the keys that a recipe file does not state, so that flags can override them."""

    def __init__(self, file_parser: flags.ArgumentParser) -> None:
        super().__init__()
        self._file_parser = file_parser

    def parse(self, path: str) -> ConfigDict:
        return complete(self._file_parser.parse(path))


_CONFIG = config_flags.DEFINE_config_file(
    "config", help_string="Recipe: a Python file with get_config(). It is executed."
)
flags.FLAGS["config"].parser = RecipeParser(flags.FLAGS["config"].parser)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Where the run lives; by default runs/NAME of configs/NAME.py. A run found there goes on.",
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0, the same for all processes of a run."
)
_NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "Processes of the run; 1: this is the only one, wherever it runs.", 1
)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.", 0)
_START_S = flags.DEFINE_integer("start_s", 120, "Seconds that all processes have to appear.", 1)
flags.DEFINE_alias("num-processes", "num_processes")
flags.DEFINE_alias("process-id", "process_id")
flags.mark_flag_as_required("config")


def main(argv: list[str]) -> int:
    recipe = _CONFIG.value
    batch, side = (
        recipe.get(key) if isinstance(recipe, ConfigDict) else None
        for key in ("batch_size", "image_size")
    )
    if isinstance(batch, int) and isinstance(side, int):  # or else `loop.run` says what is wrong
        backend.keep_memory(batch * side**2)
    from i21k.train import (
        interruption,  # imports JAX, after the flags are known to be right
        loop,  # imports JAX, after the flags are known to be right
        processes,  # imports JAX, after the flags are known to be right
    )

    logging.set_verbosity(logging.ERROR)  # Orbax tells forty lines a checkpoint
    name = Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem
    try:
        place = processes.find_place(
            os.environ, _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value
        )
        with processes.together(place, _START_S.value):
            loop.run(recipe, _WORKDIR.value or Path("runs") / name)
    except (UserError, OSError) as error:
        return fail(error)
    except interruption.Interrupted as interrupted:
        return interrupted.exit_code
    return 0


def parse(argv: list[str]) -> list[str]:
    """Parse the command line; what is wrong with it is said in one line."""
    try:
        rest = flags.FLAGS(argv)
        file = Path(config_flags.get_config_filename(flags.FLAGS["config"]))
        if not file.is_file():
            raise UserError(
                f"there is no config {file}; expected a Python file with get_config(), such as configs/quickstart.py"
            )
        if len(rest) > 1:
            raise UserError(
                f"leftover argument {rest[1]!r}; expected --config, --workdir or --config.KEY=VALUE"
            )
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        sys.exit(fail(error))
    return rest


def fail(error: Exception) -> int:
    print(f"error: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    backend.prepare()  # before a recipe could import JAX
    app.run(main, flags_parser=parse)
