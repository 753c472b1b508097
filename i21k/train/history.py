"""What a working directory says about its run: recipe, parent, starts, and changes of the recipe.

This file does not import JAX, so that `launch.py` can read the recipe of a run before JAX starts.
"""

import contextlib
import datetime
import json
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from i21k import files
from i21k.errors import UserError

# What may change the result or the speed of a run and is neither in the recipe nor in the versions.
_VARIABLES, _PREFIXES = ("XLA_FLAGS", "CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID"), ("JAX_", "NCCL_")


class Parent(NamedTuple):
    """The checkpoint with which a run starts."""

    directory: Path
    which: int | str  # a step, "last" or "best"


class Change(NamedTuple):
    """Keys of the recipe that had other values from a step on."""

    step: int
    keys: dict[str, tuple[Any, Any]]  # old and new value by key

    def __str__(self) -> str:
        return "; ".join(
            f"config.{key} {old!r} -> {new!r}" for key, (old, new) in self.keys.items()
        )


def read_parent(text: str) -> Parent:
    """Return what `DIRECTORY`, `DIRECTORY@STEP`, `DIRECTORY@best` or `DIRECTORY@last` means."""
    directory, at, which = text.rpartition("@")
    if at and which.isdecimal():
        return Parent(Path(directory), int(which))
    if at and which in ("best", "last"):
        return Parent(Path(directory), which)
    return Parent(Path(text), "last")


def read_recipe(directory: Path) -> dict[str, Any]:
    """Return the recipe with which a run was started last, as it was stored.

    Raises:
        UserError: if the directory has no recipe that can be read.
    """
    path = directory / "config.json"
    if not directory.is_dir() or not (path.exists() or (directory / "checkpoints").is_dir()):
        raise UserError(f"{directory} holds no run. Give the working directory of a run.")
    for candidate in (path, *descriptions(directory)):
        with contextlib.suppress(OSError, ValueError):
            stored = files.parse_json(candidate.read_bytes())
            stored = stored.get("config") if candidate != path else stored
            if is_recipe(stored):
                return stored
    raise UserError(
        f"{path} and the checkpoints of {directory} have no recipe that can be read. Give the"
        f" recipe again: --config FILE --workdir {directory}."
    )


def is_recipe(stored: Any) -> bool:
    """Return whether the content of a `config.json` is a recipe; other programs write some too."""
    return isinstance(stored, dict) and bool({"batch_size", "optimizer"} & stored.keys())


def descriptions(directory: Path) -> list[Path]:
    """Return the files that describe the checkpoints, of the newest one first."""
    found = (directory / "checkpoints").glob("*/meta/metadata")
    steps = {int(path.parts[-3]): path for path in found if path.parts[-3].isdigit()}
    return [steps[step] for step in sorted(steps, reverse=True)]


def record_start(
    directory: Path, step: int, facts: Mapping[str, Any], parent: Mapping[str, Any] | None
) -> None:
    """Add this start to `run.json`.

    Args:
        directory: of the run.
        step: at which the run starts or resumes.
        facts: JSON about versions, devices and data.
        parent: where the run branched from.
    """
    start = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "step": step,
        "command": sys.orig_argv,
        "directory": str(Path.cwd()),
        "host": socket.gethostname(),
        "environment": {
            name: value for name, value in sorted(os.environ.items()) if _matters(name)
        },
        **facts,
    }
    starts = [*read_run(directory).get("starts", []), start]
    text = json.dumps({"parent": parent, "starts": starts}, indent=2)
    files.write_text(directory / "run.json", text + "\n")


def _matters(variable: str) -> bool:
    return variable in _VARIABLES or variable.startswith(_PREFIXES)


def read_run(directory: Path) -> dict[str, Any]:
    """Return the content of `run.json`; empty for runs that have none, or a damaged one."""
    try:
        found = files.parse_json((directory / "run.json").read_bytes())
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict) or not isinstance(starts := found.get("starts"), list):
        return {}
    whole = all(isinstance(start, dict) for start in starts) and _is_parent(found.get("parent"))
    return found if whole else {}


def _is_parent(stored: Any) -> bool:
    if stored is None:
        return True
    return (
        isinstance(stored, dict)
        and isinstance(stored.get("workdir"), str)
        and isinstance(stored.get("step"), int)
    )


def record_changes(directory: Path, step: int, keys: Mapping[str, tuple[Any, Any]]) -> None:
    """Write to `changes.jsonl` which keys have other values from `step` on.

    Changes that an earlier start made at this step or later are dropped: the run was not trained
    with them.
    """
    kept = [change for change in read_changes(directory) if change.step < step]
    if keys:
        kept.append(Change(step, dict(keys)))
    path = directory / "changes.jsonl"
    if kept or path.exists():
        lines = [json.dumps({"step": change.step, "changes": change.keys}) for change in kept]
        files.write_text(path, "".join(f"{line}\n" for line in lines))


def read_changes(directory: Path) -> list[Change]:
    """Return the changes of a run's recipe, oldest first. Damaged lines are skipped."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for line in (directory / "changes.jsonl").read_text("utf-8", "replace").splitlines():
            with contextlib.suppress(
                ValueError, KeyError, TypeError, AttributeError, OverflowError
            ):
                entry = files.parse_json(line)
                keys = {key: (old, new) for key, (old, new) in entry["changes"].items()}
                found.append(Change(int(entry["step"]), keys))
    return found
