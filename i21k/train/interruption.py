"""SIGTERM, SIGINT and SIGHUP finish the step, save and end the run; a second one ends it at once.

While XLA compiles, no Python code runs in the main thread, so a thread reads the signals.
"""

import contextlib
import os
import shlex
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

from i21k.errors import Stopped

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_SAME_S = 0.3  # a launcher that forwards Ctrl-C makes two signals of one
# Our choice. XLA's compiler, and reads from a disk that does not answer, cannot be interrupted.
_LEAVE_S = 5.0


class Interrupted(Stopped):
    """The run has received a signal, and its state is saved or was not changed."""

    def __init__(self, signum: int) -> None:
        self.exit_code = 128 + signum  # as shells report a process that a signal ended
        super().__init__(signal.Signals(signum).name)


class Interruption:
    """Whether a signal was received, and whether there is a state to save."""

    def __init__(self) -> None:
        self.signum: int | None = None
        # The run may be left at any point, because all it has done is on the disk. Only a process
        # without others may do so: they would wait for it.
        self.may_leave_now = False
        self._end_soon: Callable[[int], None] = lambda signum: None

    def __bool__(self) -> bool:
        return self.signum is not None

    def leave(self) -> NoReturn:
        """Raise `Interrupted`; end the process if that does not end it within seconds."""
        assert self.signum is not None
        self.may_leave_now = True
        self._end_soon(self.signum)
        raise Interrupted(self.signum)


def resume_command() -> str:
    """Return the command that started this process; it resumes the run too."""
    return shlex.join(sys.orig_argv)


@contextlib.contextmanager
def watch(say: Callable[[str], None]) -> Iterator[Interruption]:
    """Collect signals while the block runs; does nothing outside the main thread.

    A SIGHUP that the process ignores stays ignored: `nohup` wants it so.

    Args:
        say: prints a line.
    """
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    watched = [s for s in SIGNALS if s != signal.SIGHUP or not ignored]
    ended = threading.Event()

    def end_process(signum: int) -> None:
        if not ended.wait(_LEAVE_S) and interruption.may_leave_now:
            say(f"resume with: {resume_command()}")
            os._exit(128 + signum)

    def end_soon(signum: int) -> None:
        threading.Thread(target=end_process, args=[signum], daemon=True).start()

    def read() -> None:
        first_at = 0.0
        while data := receiver.recv(1):  # an empty read: closed, the block is over
            signum = data[0]
            if signum not in watched:
                continue
            now = time.monotonic()
            # A terminal that is closed sends SIGHUP, and then its shell sends another one.
            again = now - first_at < _SAME_S or signum == signal.SIGHUP
            if interruption and again:
                continue
            if interruption:
                say(
                    "second signal: ending at once; the last checkpoint stays."
                    f" Resume with: {resume_command()}"
                )
                os._exit(128 + signum)
            interruption.signum, first_at = signum, now
            name = signal.Signals(signum).name
            if interruption.may_leave_now:
                end_soon(signum)
                say(f"{name}: ending; there is nothing to save")
            else:
                say(
                    f"{name}: saving a checkpoint after this step, then ending"
                    " (a second signal ends at once)"
                )

    def handle(signum: int, _: object) -> None:
        if interruption.may_leave_now:
            raise Interrupted(signum)

    interruption._end_soon = end_soon
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    old_fd = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    old_handlers = {s: signal.signal(s, handle) for s in watched}
    thread = threading.Thread(target=read, name="signals", daemon=True)
    thread.start()
    try:
        yield interruption
    finally:
        ended.set()
        for s, handler in old_handlers.items():
            signal.signal(s, handler)
        signal.set_wakeup_fd(old_fd)
        sender.close()
        thread.join()
        receiver.close()
