"""End all processes of a run when one of them fails or dies.

The processes exchange signs of life through the key-value store of JAX's coordination service,
which process 0 hosts. It needs no device, so it answers while devices wait for one another.
"""

import contextlib
import ctypes
import errno
import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, NoReturn

import jax

from i21k import jax_private, log
from i21k.errors import UserError, can_be_fixed
from i21k.train.interruption import Interrupted
from i21k.train.place import Place, known
from i21k.train.processes import exchange

BEAT_S = 1.0  # between two signs of life
SILENCE_S = 30.0  # after which a process counts as lost
JAX_SILENCE_S = 50  # after which JAX aborts all processes, if this module has not done so before
_GRACE_S = 3.0  # for the other processes to print what has happened


@contextlib.contextmanager
def together(place: Place | None, start_s: int) -> Iterator[None]:
    """Connect to the other processes; an error or the death of one ends all within a minute.

    Args:
        place: result of `find_place`; None if there are no others.
        start_s: seconds to wait for all processes.

    Raises:
        UserError: if process 0 cannot listen at the coordinator's address. If the processes do
            not connect, JAX aborts, and the reason is printed.
    """
    if place is None:
        yield
        return
    with _text_at_abort() as at_abort:
        at_abort.text = (
            f"error: {place}: not all processes connected within {start_s} s. Check that process 0"
            f" can be reached at {place.coordinator or 'the address that the launcher gives'},"
            " and that all processes were started with the same number of processes."
        )
        place = _join(place, start_s)
        at_abort.text = (
            f"error: {place}: JAX has aborted, see above. This happens when process 0"
            f" ({place.coordinator}) or another one is lost. The last checkpoint stays. Start all"
            " processes again to resume from it."
        )
        watch = _Watch(jax_private.distributed_state().client, place)
        watch.start()
        try:
            yield
        except Interrupted:
            watch.close()
            raise
        except Exception as error:
            watch.leave_with(error)
        else:
            watch.close()


def check_port(place: Place) -> None:
    """Check that process 0 can listen at the coordinator's port: JAX would crash.

    Raises:
        UserError: if the port is in use, not allowed or not a port.
    """
    if place.coordinator is None:
        return
    port = int(place.coordinator.rpartition(":")[2])
    if not 0 < port < 2**16:
        raise UserError(f"--coordinator is {place.coordinator}; expected a port up to 65535.")
    if place.process_id != 0:
        return
    for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        try:
            with socket.socket(family) as listening:
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                listening.bind((address, port))
                listening.listen()
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                raise UserError(
                    f"{place}: port {port} of the coordinator cannot be used ({error.strerror})."
                    " Choose a free port with --coordinator, the same for all processes."
                ) from error


def _join(place: Place, start_s: int) -> Place:
    """Connect, and return the place with what the launcher's variables have added to it."""
    check_port(place)
    try:
        jax.distributed.initialize(
            place.coordinator,
            place.num_processes,
            place.process_id,
            cluster_detection_method="deactivate" if None not in place[:3] else None,
            initialization_timeout=start_s,
            heartbeat_timeout_seconds=JAX_SILENCE_S,
            shutdown_timeout_seconds=round(SILENCE_S),
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"{place}: the processes could not be connected ({error})."
            " Check that the coordinator's port is free."
        ) from error
    # JAX has set its own choice from the launcher's ranks.
    jax.config.update("jax_cuda_visible_devices", place.devices)
    # JAX's own handler of SIGTERM ends nothing.
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
    state = jax_private.distributed_state()
    log.set_rank(state.process_id)
    return place._replace(
        num_processes=state.num_processes,
        process_id=state.process_id,
        coordinator=state.coordinator_address,
    )


@contextlib.contextmanager
def _text_at_abort() -> Iterator[SimpleNamespace]:
    """Print the result's `text` when JAX aborts the process, which it does without an exception."""
    at_abort, libc = SimpleNamespace(text=""), ctypes.CDLL(None)

    # A handler of Python's own would run only after the abort.
    @ctypes.CFUNCTYPE(None, ctypes.c_int)
    def leave(_: int) -> None:
        _leave(at_abort.text, 1)

    libc.signal(signal.SIGABRT, leave)
    try:
        yield at_abort
    finally:
        libc.signal(signal.SIGABRT, None)  # the default


class _Watch(threading.Thread):
    """Sends signs of life; ends this process when another one has failed or is silent."""

    def __init__(
        self, client: Any, place: Place, beat_s: float = BEAT_S, silence_s: float = SILENCE_S
    ) -> None:
        super().__init__(name="watch", daemon=True)
        self._client, self._place, self._beat_s, self._silence_s = client, place, beat_s, silence_s
        self._closed, self._failed = threading.Event(), ""
        self._num_beats = 0
        self._heard: dict[int, tuple[str, float]] = {
            p: ("", time.monotonic()) for p in range(known(place.num_processes))
        }

    def run(self) -> None:
        while not self._closed.wait(self._beat_s):
            self.beat()
            if (lost := self.find_lost()) is not None:
                # The main thread may be about to print the same, or more. Process 0 stays longer,
                # because the others still have to read its store.
                self._closed.wait(_GRACE_S + 2 * self._beat_s * (self._place.process_id == 0))
                if not self._closed.is_set():
                    _leave(lost, 1)

    def beat(self) -> None:
        """Send a sign of life and read those of the others."""
        self._num_beats += 1
        life = {"beat": self._num_beats, "host": socket.gethostname(), "failed": self._failed}
        # Where process 0 does not answer, that is silence.
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            self._client.key_value_set(
                f"i21k/life/{self._place.process_id}", json.dumps(life), allow_overwrite=True
            )
            for key, text in self._client.key_value_dir_get("i21k/life/"):
                process = int(key.rpartition("/")[2])
                if text != self._heard[process][0]:
                    self._heard[process] = text, time.monotonic()

    def find_lost(self) -> str | None:
        """Return what to print if another process has failed or is silent; else None.

        The text is empty if that process has printed it.
        """
        for process, (text, at) in self._heard.items():
            life = json.loads(text) if text else {"host": "an unknown host", "failed": ""}
            who = f"process {process} of {self._place.num_processes} on {life['host']}"
            if process == self._place.process_id:
                continue
            if life["failed"]:
                return (
                    f"error: {who} has stopped: {life['failed']}. All processes end."
                    if self._place.process_id == 0 and process
                    else ""
                )
            if (silence := time.monotonic() - at) > self._silence_s:
                return (
                    f"error: {self._place}: {who} has been silent for {silence:.0f} s: it, its"
                    " machine or the network has failed. All processes end, the last checkpoint"
                    " stays. Start all processes again to resume from it."
                )
        return None

    def close(self) -> None:
        """End after all processes have arrived here."""
        exchange("end", None)
        self._closed.set()
        self.join()
        jax.distributed.shutdown()

    def leave_with(self, error: Exception) -> NoReturn:
        """Send an error to the others and end; only process 0 prints an error that it has too.

        What the user can fix is one line, as with a single process. Other errors keep their
        traceback.
        """
        fixable = can_be_fixed(error)
        exit_code = 2 if fixable else 1
        text = str(error)
        if not fixable:
            traceback.print_exc()
            text = f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"
        if isinstance(error, jax.errors.JaxRuntimeError):
            text += (
                ". If this is about a connection, another process has ended. The last checkpoint"
                " stays. Start all processes again."
            )
        self._closed.set()  # from here on, this thread sends the signs of life
        self.join()
        self._failed = text
        self.beat()
        until = time.monotonic() + _GRACE_S
        first = self._place.process_id == 0
        while not first and time.monotonic() < until:
            if self._heard[0][0] and json.loads(self._heard[0][0])["failed"] == text:
                _leave("", exit_code)
            time.sleep(0.2)
            self.beat()
        log.error(f"{self._place}: {text}")
        if first:
            time.sleep(_GRACE_S + 2 * self._beat_s)  # the others have to read the store
        _leave("", exit_code)


def _leave(text: str, exit_code: int) -> NoReturn:
    """End at once: a normal exit would wait for processes that no longer answer."""
    if text:
        print(text, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)
