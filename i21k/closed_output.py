"""Outputs that end before the program does: pipes without a reader, terminals that are gone."""

import contextlib
import errno
import io
import os
import sys
from collections.abc import Callable
from typing import Any, TextIO

_CLOSED = (errno.EPIPE, errno.EIO, errno.EBADF)  # a pipe's reader has ended, a terminal is gone


def survive() -> None:
    """From now on, let nothing that is printed raise: the reader of a pipe or a terminal may end.

    A closed output is replaced by nothing. A full disk is tried again with the next line.
    """
    for descriptor in (0, 1, 2):  # or the next file that is opened gets the number
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        if not isinstance(stream := getattr(sys, name), _Tolerant | None):
            setattr(sys, name, _Tolerant(stream))


def discard() -> None:
    """Let Python's last flush of a closed output write to nothing, so that it prints no error."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            _connect_to_nothing(stream)


def _connect_to_nothing(stream: TextIO) -> None:
    with contextlib.suppress(OSError, ValueError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, stream.fileno())
        os.close(nothing)


class _Tolerant(io.TextIOBase):
    """A text stream that never raises because of what it writes to."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, write: Callable[[], object]) -> None:
        try:
            write()
        except OSError as error:
            if error.errno in _CLOSED:
                _connect_to_nothing(self._stream)
        except ValueError:  # the stream is closed
            pass

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return self._stream.errors

    @property
    def buffer(self) -> Any:
        return self._stream.buffer
