"""The only channel for what the program prints: information, warnings and progress.

It never changes Python's root logger, so that a caller's own logging keeps working.
"""

import contextlib
import datetime
import importlib
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from i21k.errors import Stopped, can_be_fixed
from i21k.text import encodable, escaped, wrapped

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

_LINE_EVERY_S = 10.0  # between two progress lines where the output is not a terminal
_WAITING_EVERY_S = 30.0  # between two lines about one wait
_LIBRARIES = (
    "absl",
    "orbax",
    "matplotlib",
)  # Orbax writes to the logger of Abseil: 40 lines a checkpoint

_rank = 0
_shows_progress = True
_files: "list[_LogFile]" = []
_bars: "Bars | None" = None


def set_rank(rank: int) -> None:
    """Set this process's number; only process 0 prints information and progress."""
    global _rank
    _rank = rank


def info(text: str = "", *, wrap: bool = True) -> None:
    """Print a line to the standard output, in process 0 only.

    Args:
        text: the line. On a terminal it is wrapped between words.
        wrap: set it to False for a command that the user copies.
    """
    if _rank == 0:
        _print(text, sys.stdout, wrap)


def warning(text: str) -> None:
    """Print `warning: text` to the standard error output, with the number of a process but 0."""
    _print(f"warning: {text}" if _rank == 0 else f"warning: process {_rank}: {text}", sys.stderr)


def error(text: str) -> None:
    """Print `error: text` to the standard error output, in every process."""
    _print(f"error: {text}", sys.stderr)


def note(text: str) -> None:
    """Print a line to the standard error output: for remarks of commands whose output is data."""
    if _rank == 0:
        _print(text, sys.stderr)


@contextlib.contextmanager
def tee(path: Path) -> Iterator[None]:
    """Append everything that is printed while the block runs to a file too, with the time.

    The error that ends the block is appended too, because the caller prints it after the block. A
    disk that is full never disturbs the block.
    """
    file = _LogFile(path)
    _files.append(file)
    try:
        yield
    except Stopped:
        raise
    except Exception as error:
        if path.exists():  # else nothing was done, and a refused run leaves no file
            file.write(
                f"error: {error}" if can_be_fixed(error) else traceback.format_exc().rstrip()
            )
        raise
    finally:
        _files.remove(file)


class _LogFile:
    """A text file of lines with the time. It is opened for each text, so a write can fail alone."""

    def __init__(self, path: Path) -> None:
        self._path, self._failed = path, False

    def write(self, text: str) -> None:
        now = datetime.datetime.now().isoformat(" ", "seconds")
        lines = "".join(f"{now} {line}\n" for line in text.split("\n"))
        try:
            with self._path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(lines)
            self._failed = False
        except OSError as error:
            if not self._failed:
                self._failed = True  # before the warning, which comes here again
                warning(f"{self._path} cannot be written ({error.strerror}). The run continues.")


def quiet_libraries() -> None:
    """Silence what Orbax and Abseil say below an error, by the names of their loggers."""
    importlib.import_module("absl.logging")  # sets the level of its logger when it is imported
    for name in _LIBRARIES:
        logging.getLogger(name).setLevel(logging.ERROR)


def _print(text: str, stream: TextIO | None, wrap: bool = True) -> None:
    text = escaped(text, "\n\t")
    if stream is not None:
        shown = encodable(text, stream)
        if wrap and stream.isatty():
            with contextlib.suppress(OSError):  # a terminal without a size
                shown = wrapped(shown, os.get_terminal_size(stream.fileno()).columns)
        if _bars is not None and stream.isatty():  # above the bar, not through it
            _bars.console.print(shown, markup=False, highlight=False, soft_wrap=True)
        else:
            print(shown, file=stream, flush=True)
    for file in list(_files):
        file.write(text)


class Progress:
    """How far a piece of work is. The rate counts from the first call of `update`.

    So a rate is right for work that resumes behind what an earlier start has done.
    """

    def __init__(self, what: str, total: int | None, unit: str) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._done, self._note = 0, ""
        self._started_at = time.monotonic()
        self._first: int | None = None

    def update(self, done: int, note: str = "") -> None:
        """Set how much is done.

        Args:
            done: in the unit of this progress, since the beginning of the work.
            note: something else that is counted, such as `1,234 images`.
        """
        if self._first is None:
            self._first, self._started_at = done, time.monotonic()
        self._done, self._note = done, note
        self._show()

    def advance(self, n: int = 1, note: str = "") -> None:
        """Add to what is done. The rate counts from the first piece on, which may have compiled."""
        if self._first is None:
            self._first, self._started_at = self._done + n, time.monotonic()
        self._done, self._note = self._done + n, note
        self._show()

    def _show(self) -> None:
        pass

    def _numbers(self) -> list[str]:
        """Return what is done, the rate and the remaining time as texts."""
        elapsed_s = time.monotonic() - self._started_at
        done = self._done - (self._first or 0)
        rate = done / elapsed_s if done and elapsed_s > 0 else 0.0
        texts = [_amount(self._done, self._total, self._unit)]
        texts.append(f"{_number(rate, self._unit)}/s" if rate else "")
        if self._total is not None:
            remaining = max(self._total - self._done, 0)
            texts.append(f"eta {_clock(remaining / rate)}" if rate else "eta ?")
        texts.append(self._note)  # last, where a narrow terminal cuts the line off
        return [text for text in texts if text]


class _Lines(Progress):
    """Prints a line now and then."""

    def __init__(self, what: str, total: int | None, unit: str) -> None:
        super().__init__(what, total, unit)
        self._printed_at = time.monotonic()

    def _show(self) -> None:
        now = time.monotonic()
        if now - self._printed_at < _LINE_EVERY_S:
            return
        self._printed_at = now
        share = f" {self._done / self._total:.1%}" if self._total else ""
        note(" | ".join([f"{self._what}{share}", *self._numbers()]))


class _Bar(Progress):
    """Draws a bar."""

    def __init__(self, what: str, total: int | None, unit: str, bars: "Bars") -> None:
        super().__init__(what, total, unit)
        self._bars = bars
        self.task = bars.add_task(what, total=total, numbers="")

    def _show(self) -> None:
        self._bars.update(self.task, completed=self._done, numbers=" ".join(self._numbers()))


@contextlib.contextmanager
def without_progress(quiet: bool = True) -> Iterator[None]:
    """Show no progress in the block, if `quiet`."""
    global _shows_progress
    before, _shows_progress = _shows_progress, _shows_progress and not quiet
    try:
        yield
    finally:
        _shows_progress = before


@contextlib.contextmanager
def waiting(what: str, remark: str = "") -> Iterator[None]:
    """Print a line every 30 s while the block, whose end cannot be foreseen, runs.

    Args:
        what: the work, such as `compiling the train step`.
        remark: what is normal.
    """
    started_at, ended = time.monotonic(), threading.Event()

    def show_elapsed() -> None:
        while not ended.wait(_WAITING_EVERY_S):
            elapsed = _clock(time.monotonic() - started_at)
            note(f"{what}: {elapsed} so far{f' ({remark})' if remark else ''}")

    thread = threading.Thread(target=show_elapsed, name="waiting", daemon=True)
    if _rank == 0 and _shows_progress:
        thread.start()
    try:
        yield
    finally:
        ended.set()


@contextlib.contextmanager
def progress(what: str, total: int | None, unit: str = "images") -> Iterator[Progress]:
    """Show progress on the standard error output: a bar on a terminal, else a line every 10 s.

    Args:
        what: short name of the work, such as `read`.
        total: amount of the work; None where it is unknown.
        unit: plural noun; `bytes` are printed as MB.
    """
    if _rank != 0 or not _shows_progress:
        yield Progress(what, total, unit)
    elif not sys.stderr.isatty():
        yield _Lines(what, total, unit)
    else:
        with _bars_shown() as bars:
            bar = _Bar(what, total, unit, bars)
            yield bar
            bars.remove_task(bar.task) if len(bars.tasks) > 1 else bars.refresh()


@contextlib.contextmanager
def _bars_shown() -> "Iterator[Bars]":
    """Give the bars on the screen, or new ones where there are none."""
    global _bars
    if _bars is not None:
        yield _bars
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bars
    from rich.table import Column

    columns: tuple[Any, ...] = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=6)),
        TextColumn("{task.fields[numbers]}", markup=False, table_column=Column(no_wrap=True)),
    )
    # Output to a pipe must not end on the terminal, so `_print` decides what goes above the bar.
    with Bars(
        *columns,
        console=Console(stderr=True),
        expand=True,
        redirect_stdout=False,
        redirect_stderr=False,
    ) as bars:
        _bars = bars
        try:
            yield bars
        finally:
            _bars = None


def _amount(done: int, total: int | None, unit: str) -> str:
    if unit == "bytes":
        return f"{done / 1e6:,.0f}" + (f"/{total / 1e6:,.0f} MB" if total is not None else " MB")
    return f"{done:,}" + (f"/{total:,} {unit}" if total is not None else f" {unit}")


def _number(amount: float, unit: str) -> str:
    return f"{amount / 1e6:,.1f} MB" if unit == "bytes" else f"{amount:,.0f}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,}:{minutes:02}:{seconds:02}"
