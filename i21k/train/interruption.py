"""SIGTERM and SIGINT finish the step, save and end the run; a second signal ends it at once.

While XLA compiles, no Python code runs in the main thread, so a thread reads the signals.
"""

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator

from i21k.errors import Stopped

SIGNALS = (signal.SIGTERM, signal.SIGINT)
_SAME_S = 0.3  # a launcher that forwards Ctrl-C makes two signals of one


class Interrupted(Stopped):
    """The run has received a signal and has saved its state."""

    def __init__(self, signum: int) -> None:
        self.exit_code = 128 + signum  # as shells report a process that a signal ended
        super().__init__(signal.Signals(signum).name)


class Interruption:
    """Whether a signal was received."""

    signum: int | None = None

    def __bool__(self) -> bool:
        return self.signum is not None


@contextlib.contextmanager
def watch(say: Callable[[str], None]) -> Iterator[Interruption]:
    """Collect signals while the block runs; does nothing outside the main thread.

    Args:
        say: prints a line.
    """
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return

    def read() -> None:
        first_at = 0.0
        while data := receiver.recv(1):  # an empty read: closed, the block is over
            signum = data[0]
            if signum not in SIGNALS:
                continue
            now = time.monotonic()
            if interruption and now - first_at < _SAME_S:
                continue
            if interruption:
                say("second signal: ending at once; the last checkpoint stays")
                os._exit(128 + signum)
            interruption.signum, first_at = signum, now
            say(
                f"{signal.Signals(signum).name}: saving a checkpoint after this step, then ending"
                " (a second signal ends at once)"
            )

    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    old_fd = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    old_handlers = {
        s: signal.signal(s, lambda *_: None) for s in SIGNALS
    }  # so that the number goes to the wake-up descriptor
    thread = threading.Thread(target=read, name="signals", daemon=True)
    thread.start()
    try:
        yield interruption
    finally:
        for s, handler in old_handlers.items():
            signal.signal(s, handler)
        signal.set_wakeup_fd(old_fd)
        sender.close()
        thread.join()
        receiver.close()
