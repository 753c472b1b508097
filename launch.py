"""Train by a recipe, or resume a run that was stopped.

python launch.py --config configs/quickstart.py [--workdir runs/quickstart] [--config.epochs=2 ...]
python launch.py --config configs/finetune.py:data/flowers:runs/released [--workdir ...]
python launch.py --resume runs/quickstart [--config.log.every_steps=10 ...]
python launch.py --branch-from runs/quickstart@best --workdir runs/branch [--config.epochs=20 ...]

Several processes train together if Slurm, Open MPI or an indexed Kubernetes job starts them, or if
each has --coordinator HOST:PORT --num-processes N --process-id I. Exit codes: 0 fine, 1 something
failed, 2 the user can fix it, 128+n stopped by signal n.
"""

import contextlib
import os
import re
import signal
import sys
import textwrap
from pathlib import Path
from typing import Any, cast

from absl import flags
from ml_collections import ConfigDict, config_flags

from i21k import backend, closed_output, log
from i21k.errors import UserError, can_be_fixed
from i21k.train import overrides, recipe_file, sizes
from i21k.train.history import Parent, read_parent, read_recipe
from i21k.train.recipe import complete, to_config

_OF_RUN = "recipe of "  # before a working directory, where --config has a file otherwise


class RecipeParser(flags.ArgumentParser):
    """Reads the recipe of a file, or of a run. It has all keys, so that flags can override them."""

    def __init__(self) -> None:
        self.directory: str | None = None  # of the data, as the file states it
        self.executing = False  # stays true if the recipe raises an error

    def parse(self, path: str) -> ConfigDict:
        if path.startswith(_OF_RUN):
            return to_config(read_recipe(Path(path.removeprefix(_OF_RUN))))
        self.executing = True
        config = complete(recipe_file.execute(path))
        self.executing = False
        with contextlib.suppress(AttributeError):  # it is no recipe: `loop.run` says so
            self.directory = config.data.directory
        return config


_CONFIG = config_flags.DEFINE_config_file(
    "config", help_string="Recipe: a Python file with get_config(). It is executed."
)
_PARSER = flags.FLAGS["config"].parser = RecipeParser()
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Directory of the run; by default runs/NAME for NAME.py. A run that is there is resumed.",
)
_RESUME = flags.DEFINE_string(
    "resume",
    None,
    "Resume the run in this directory with the recipe that it has; --config.KEY=VALUE changes it.",
)
_BRANCH_FROM = flags.DEFINE_string(
    "branch_from",
    None,
    "DIRECTORY, DIRECTORY@STEP or DIRECTORY@best: start a new run in --workdir with a checkpoint of"
    " another run, by its recipe or by --config.",
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0, the same for all processes of a run."
)
_NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "Number of processes of the run; 1 ignores the launcher.", 1
)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Number of this process, from 0.", 0)
_START_S = flags.DEFINE_integer("start_s", 120, "Seconds to wait for all processes.", 1)
flags.DEFINE_alias("branch-from", "branch_from")
flags.DEFINE_alias("num-processes", "num_processes")
flags.DEFINE_alias("process-id", "process_id")
flags.DEFINE_alias("start-s", "start_s")
_FLAGS = (
    _CONFIG,
    _WORKDIR,
    _RESUME,
    _BRANCH_FROM,
    _COORDINATOR,
    _NUM_PROCESSES,
    _PROCESS_ID,
    _START_S,
)


def main(argv: list[str]) -> int:
    """Train; return the exit code."""
    if {"-h", "-help", "--help"} & set(argv):
        log.info(describe_flags())
        return 0
    try:
        return train(*parse(argv))
    except (UserError, OSError) as error:
        if not can_be_fixed(error):
            raise
        log.error(str(error))
        return 2
    except KeyboardInterrupt:
        log.note("interrupted before the run was opened")
        return 128 + signal.SIGINT


def train(recipe: ConfigDict, workdir: Path, branch_from: Parent | None = None) -> int:
    """Train by a recipe in a directory, with the other processes if there are any."""
    batch, side = (
        recipe.get(key) if isinstance(recipe, ConfigDict) else None
        for key in ("batch_size", "image_size")
    )
    with contextlib.suppress(
        AttributeError, TypeError, ValueError
    ):  # `loop.run` says what is wrong
        backend.keep_memory(cast(int, batch) * sizes.largest(cast(int, side)) ** 2)
    # These import JAX, so they come after the flags are known to be right.
    from i21k.train import interruption, loop
    from i21k.train.place import find_place
    from i21k.train.watch import together

    log.quiet_libraries()
    place = find_place(os.environ, _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    try:
        with together(place, _START_S.value):
            loop.run(recipe, workdir, branch_from)
    except interruption.Interrupted as interrupted:
        return interrupted.exit_code
    return 0


def parse(argv: list[str]) -> tuple[ConfigDict, Path, Parent | None]:
    """Parse the command line and execute the recipe.

    Returns:
        The recipe, the working directory, and the checkpoint from which a new run branches.

    Raises:
        UserError: if the command line is wrong. What the recipe raises keeps its traceback.
    """
    if (run := _run_with_recipe(argv)) is not None:
        read_recipe(run)  # what is wrong with it is said here as it is
        # ml_collections takes the overrides from `sys.argv`, and wants them after --config.
        argv = sys.argv = [*argv[:1], f"--config={_OF_RUN}{run}", *argv[1:]]
    overrides.check(argv[1:])
    try:
        rest = flags.FLAGS(argv)
        _check_none_is_empty()
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        if (wrong := _fixable(error)) is not None:
            raise wrong from None
        if _PARSER.executing:
            raise
        raise UserError(_describe(error)) from error
    if not flags.FLAGS["config"].present:
        raise UserError("--config is missing. Add a recipe: --config configs/quickstart.py.")
    file, argument = recipe_file.split(config_flags.get_config_filename(flags.FLAGS["config"]))
    # FILE:DATA and FILE:DATA:MODEL: the data give the working directory their name.
    dataset = "" if argument is None else f"-{Path(argument.partition(':')[0]).name}"
    if len(rest) > 1:
        raise UserError(
            f"leftover argument {rest[1]!r}. Give --config FILE, --workdir DIR or"
            " --config.KEY=VALUE."
        )
    overrides.check_directory(argv[1:], _CONFIG.value, _PARSER.directory)
    return _CONFIG.value, *_place(None if run is not None else f"{file.stem}{dataset}")


def _check_none_is_empty() -> None:
    """Refuse `--workdir=$UNSET`: the default would be another run.

    Raises:
        UserError: naming the flag.
    """
    for holder in (_WORKDIR, _RESUME, _BRANCH_FROM):
        if holder.value == "":
            flag = holder.name.replace("_", "-")
            raise UserError(f"--{flag} is empty. Give a directory, or omit --{flag}.")


def _run_with_recipe(argv: list[str]) -> Path | None:
    """Return the run whose recipe is used: that of --resume, or of --branch-from alone."""
    given = {
        name: value
        for i, argument in enumerate(argv)
        if (match := re.fullmatch(r"--?(config|resume|branch[-_]from)(?:=(.*))?", argument, re.S))
        for name in [match[1].replace("-", "_")]
        for value in [match[2] if match[2] is not None else "".join(argv[i + 1 : i + 2])]
    }
    if len(given) > 1 and "resume" in given:
        raise UserError(
            f"--resume and --{min(given.keys() - {'resume'}).replace('_', '-')} are given. Use"
            " --resume alone; --config.KEY=VALUE changes the recipe that the run has."
        )
    if given.get("resume"):
        return Path(given["resume"])
    if given.get("branch_from") and "config" not in given:
        return read_parent(given["branch_from"]).directory
    return None


def _place(name: str | None) -> tuple[Path, Parent | None]:
    """Return the working directory, and the checkpoint from which a new run branches.

    Args:
        name: of a run by this recipe; None: it is the recipe of a run.

    Raises:
        UserError: if flags do not fit each other.
    """
    if _RESUME.value is not None:
        if _WORKDIR.value is not None and Path(_WORKDIR.value) != Path(_RESUME.value):
            raise UserError(
                f"--resume is {_RESUME.value} and --workdir is {_WORKDIR.value}. Omit --workdir, or"
                " use --branch-from for a run in another directory."
            )
        return Path(_RESUME.value), None
    branch_from = None if _BRANCH_FROM.value is None else read_parent(_BRANCH_FROM.value)
    if _WORKDIR.value is None and name is None:
        raise UserError("--branch-from is given without --workdir. Add a directory for the branch.")
    workdir = Path(_WORKDIR.value or Path("runs") / cast(str, name))
    if branch_from is not None and workdir.resolve() == branch_from.directory.resolve():
        raise UserError(
            f"--branch-from and --workdir are both {workdir}. Choose another --workdir for the"
            " branch, or use --resume."
        )
    return workdir, branch_from


def _fixable(error: BaseException | None) -> UserError | None:
    """Return what a recipe has said that the user can fix; ml_collections wraps it."""
    found = None
    while error is not None:
        if isinstance(error, UserError) and "Error whilst parsing" not in str(error):
            found = error
        error = error.__context__
    return found


def _describe(error: Exception) -> str:
    """Return the text of an error of the command line as sentences."""
    if isinstance(error, (AttributeError, KeyError)):
        key, *hint = str(error.args[0]).splitlines()
        ways = " ".join(hint) or "python launch.py --help lists the keys."
        return f"the recipe has no key {key}. {ways}"
    return f"{str(error).rstrip('.')}. python launch.py --help shows what is expected."


def describe_flags() -> str:
    """Return the text of `--help`: the flags of this program and the keys of a recipe."""
    from i21k.train.recipe import describe_keys

    lines = [(__doc__ or "").strip(), "", "Flags:"]
    for holder in _FLAGS:
        flag: Any = flags.FLAGS[holder.name]
        default = "" if flag.default is None else f" (default {flag.default})"
        lines += _entry(f"--{holder.name.replace('_', '-')}", f"{flag.help}{default}")
    lines += ["", "Keys of a recipe, as --config.KEY=VALUE; * may change when a run is resumed:"]
    for key in describe_keys():
        name = f"{key.name}{'*' if key.may_change else ''}"
        lines += _entry(f"{name} ({key.type}; default {key.default!r})", key.help)
    return "\n".join(lines)


def _entry(name: str, text: str) -> list[str]:
    return [
        f"  {name}",
        *textwrap.wrap(text, 78, initial_indent=" " * 6, subsequent_indent=" " * 6),
    ]


if __name__ == "__main__":
    closed_output.survive()
    backend.prepare()  # before a recipe can import JAX
    code = main(sys.argv)
    if code > 128:  # threads that wait for a disk must not keep the process
        closed_output.discard()
        os._exit(code)
    sys.exit(code)
