"""Say what the loader waits for when no batch comes, and give up in the end.

A worker may be stopped, and a network disk may hang. Nothing raises an error then.
"""

import os
import threading
import time
from collections.abc import Iterator
from typing import Any

from i21k import log, workers
from i21k.data.load.options import LoaderOptions, num_threads
from i21k.errors import UserError

SAY_S = 30.0  # our choice: between two lines about the same wait
_CHECK_S = 1.0
_KILL_S = 5.0  # until killed workers have become an error in the thread that waits


class Stalls:
    """Watches the waits for single batches from a thread of its own, while it is open."""

    def __init__(self, data: str, options: LoaderOptions) -> None:
        """Prepare.

        Args:
            data: what is read, for messages.
            options: `workers` or `threads` build the batches; `max_wait_s` ends a wait.
        """
        self._data, self._options = data, options
        self._since: float | None = None
        self._closed = threading.Event()
        self._given_up = ""

    def __enter__(self) -> "Stalls":
        threading.Thread(target=self._watch, name="stalls", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()

    def watched(self, stream: Iterator[Any]) -> Iterator[Any]:
        """Yield what `stream` yields.

        Raises:
            UserError: if a batch took too long.
        """
        while True:
            self._since = time.monotonic()
            try:
                item = next(stream)
            except StopIteration:
                return
            except UserError as error:
                if self._given_up:  # the workers were killed, which is another error
                    raise UserError(self._given_up) from error
                raise
            finally:
                self._since = None
            yield item

    def _watch(self) -> None:
        said_s, since = 0.0, None
        while not self._closed.wait(_CHECK_S):
            if (started := self._since) is None or started != since:
                said_s, since = 0.0, started
                continue
            waited_s = time.monotonic() - started
            if self._options.max_wait_s and waited_s > self._options.max_wait_s:
                return self._give_up(waited_s)
            if waited_s - said_s > SAY_S:
                said_s = waited_s
                log.warning(f"{self._waiting(waited_s)}.")

    def _waiting(self, waited_s: float) -> str:
        who = f"{num_threads(self._options.threads)} threads that read it"
        if self._options.workers:
            who = workers.describe_all() or "workers"
        return f"no batch of {self._data} for {waited_s:.0f} s: waiting for {who}"

    def _give_up(self, waited_s: float) -> None:
        self._given_up = (
            f"{self._waiting(waited_s)}. Check the disk, or wait longer with"
            " --config.data.max_wait_s."
        )
        workers.kill_all()
        # A thread that waits for a disk cannot be ended alone.
        ended = bool(self._options.workers) and self._closed.wait(_KILL_S)
        if not ended and self._since is not None:
            log.error(self._given_up)
            os._exit(2)
