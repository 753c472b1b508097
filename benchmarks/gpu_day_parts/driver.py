"""Run parts one after the other, each in a process of its own with a time limit.

Only the standard library is used here, so that a broken installation breaks parts and not this.
"""

import contextlib
import dataclasses
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

LEAST_S = 10.0  # a part is not started with less than this; our choice
_GRACE_S = 5.0  # between SIGTERM and SIGKILL
_ERROR_LINES = 15  # of a failed part's output that its record keeps

Record = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Part:
    """A command that prints each result as a line of JSON as soon as it has it.

    Other lines of its output go to the log.
    """

    name: str  # such as a-bfloat16
    title: str
    command: Sequence[str]
    limit_s: float
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    skip: str = ""  # why it is not run; empty: it is
    essential: bool = False  # without a result of it, the others are not run

    @property
    def shown(self) -> str:
        """The command as it can be typed."""
        variables = [f"{name}={shlex.quote(value)}" for name, value in self.env.items()]
        words = ["python" if word == sys.executable else word for word in self.command]
        return " ".join([*variables, shlex.join(words)])


def run_parts(
    parts: Iterable[Part],
    seconds: float,
    record: Callable[[Record], None],
    log: IO[str],
    cwd: Path,
    env: Mapping[str, str] | None = None,
) -> None:
    """Run the parts in order.

    Args:
        parts: to run.
        seconds: for all of them. A part that has no time left is recorded as not run.
        record: called with each result, and with the end of each part, when it happens.
        log: gets what the parts print besides results.
        cwd: the directory to run in.
        env: environment variables for all parts.
    """
    end = time.monotonic() + seconds
    failed = ""
    for part in parts:
        left_s = end - time.monotonic()
        skip = part.skip or failed
        if not skip and left_s < LEAST_S:
            skip = "no time left"
        if skip:
            record({"part": part.name, "end": "not run", "why": skip, "command": part.shown})
            continue
        num_results = _run(part, min(part.limit_s, left_s), record, log, cwd, env or {})
        if part.essential and not num_results:
            failed = f"part {part.name} gave no result"


def _run(
    part: Part,
    limit_s: float,
    record: Callable[[Record], None],
    log: IO[str],
    cwd: Path,
    env: Mapping[str, str],
) -> int:
    """Run a part and return the number of its results."""
    log.write(f"\n=== {part.name}: {part.shown}\n")
    log.flush()
    start = time.monotonic()
    ended: Record = {"part": part.name, "command": part.shown}
    try:
        # A session of its own, so that the limit also ends what the part has started.
        process = subprocess.Popen(
            part.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            cwd=cwd,
            env={**os.environ, **env, **part.env},
            start_new_session=True,
        )
    except OSError as error:
        record(ended | {"end": "error", "why": str(error), "seconds": 0.0})
        return 0
    found: list[Record] = []
    other: list[str] = []
    open_ = threading.Event()
    open_.set()

    def read(lines: IO[str]) -> None:
        for line in lines:
            if not open_.is_set():
                return
            result = _result(line)
            if result is None:
                log.write(line)
                log.flush()
                other[:] = [*other, line.rstrip()][-_ERROR_LINES:]
            else:
                found.append(result)
                record({"part": part.name, "result": result})

    assert process.stdout
    # A thread, because what a part has started can keep the pipe open after the part's end.
    reader = threading.Thread(target=read, args=(process.stdout,), daemon=True)
    reader.start()
    timed_out = False
    try:
        process.wait(limit_s)
    except subprocess.TimeoutExpired:
        timed_out = True
    finally:
        _end(process)
        reader.join(_GRACE_S)
        open_.clear()
    code = process.returncode
    if not reader.is_alive():
        process.stdout.close()
    ended["seconds"] = round(time.monotonic() - start, 1)
    if timed_out:
        ended |= {"end": "time limit", "why": f"ended after {limit_s:.0f} s"}
    elif code:
        ended |= {"end": "error", "why": f"exit code {code}", "output": other}
    else:
        ended["end"] = "done"
    record(ended)
    return len(found)


def _end(process: subprocess.Popen[str]) -> None:
    """End a part and what it has started, also what outlives it."""
    for signum in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signum)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S if signum == signal.SIGTERM else None)


def _result(line: str) -> Record | None:
    """Return the object of a line of JSON; None for any other line."""
    if not line.startswith("{"):
        return None
    try:
        return json.loads(line)
    except ValueError:
        return None
