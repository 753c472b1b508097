"""Worker processes that apply a function to a stream and return the results in order.

An item is sent to the worker with the fewest waiting items, and results are returned in the order
of the items, so the output is the same for any number of workers. Workers are spawned, never
forked. They import what `function` needs, but not the script. They ignore SIGINT and SIGTERM, which
reach the whole process group, and end when their pipe closes, also if the parent dies.
"""

import collections
import contextlib
import fcntl
import multiprocessing
import os
import pickle
import queue
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Generator, Iterable, Iterator
from multiprocessing import connection, resource_tracker
from pathlib import Path
from typing import Any, TypeVar

from i21k.errors import UserError

T = TypeVar("T")
R = TypeVar("R")
IN_FLIGHT = 3  # items per worker: one in work, one waiting, one being sent
_PIPE_BYTES = 1 << 20  # the most that Linux allows without privileges
_END_S = 5.0
# The letters of /proc/PID/stat.
_STATES = {"T": "stopped by a signal", "D": "waiting for a disk", "R": "running", "S": "waiting"}
_PARENT_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def kill_all() -> None:
    """End all workers of this process at once. Whoever waits for a result gets an error."""
    for worker in list(_alive):
        worker.kill()


def describe_all() -> str:
    """Return the workers of this process that have work, and what the system says they do."""
    return ", ".join(str(worker) for worker in list(_alive) if worker.num_waiting)


def ordered_map(
    function: Callable[[T], R],
    items: Iterable[T],
    num_workers: int,
    *,
    always_spawn: bool = False,
    in_flight: int = IN_FLIGHT,
) -> Generator[R]:
    """Yield `function(item)` for each item, in order.

    One worker means this process, more mean `num_workers` others. Close the generator to end the
    workers early. `function` must be importable by name.

    Args:
        function: to apply.
        items: taken when a worker can accept another one.
        num_workers: processes.
        always_spawn: use another process for a single worker too.
        in_flight: items that may be sent to a worker before their results are used; more keep it
            busy while the caller is.

    Raises:
        UserError: if a worker dies. Exceptions of `function` are raised here.
    """
    if num_workers == 1 and not always_spawn:
        yield from map(function, items)
        return
    with _started(function, num_workers) as workers:
        yield from _in_order(workers, items, in_flight)


class Pool:
    """Workers that serve several functions in turn, so that they start only once.

    Args:
        num_workers: processes; 1 means this one.
    """

    def __init__(self, num_workers: int) -> None:
        self._num_workers = num_workers
        self._stack = contextlib.ExitStack()
        self._workers: list[_Worker] = []

    def __enter__(self) -> "Pool":
        if self._num_workers > 1:
            self._workers = self._stack.enter_context(_started(_call, self._num_workers))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def map(
        self,
        function: Callable[[T], R],
        items: Iterable[T],
        num_workers: int,
        *,
        in_flight: int = IN_FLIGHT,
    ) -> Iterator[R]:
        """Yield `function(item)` for each item, in order, using at most `num_workers` workers.

        Exhaust the iterator before the next call. Arguments and errors are as in `ordered_map`.
        """
        if not self._workers:
            return map(function, items)
        return _in_order(
            self._workers[:num_workers], ((function, item) for item in items), in_flight
        )


def _call(task: tuple[Callable[[T], R], T]) -> R:
    function, item = task
    return function(item)


_alive: "set[_Worker]" = set()


@contextlib.contextmanager
def _started(function: Callable[[Any], Any], num_workers: int) -> Iterator["list[_Worker]"]:
    with contextlib.ExitStack() as stack:
        with _signals_deferred(), _script_hidden():
            workers = [stack.enter_context(_Worker(function)) for _ in range(num_workers)]
        try:
            yield workers
        finally:
            for worker in workers:  # all of them, before the first one is waited for
                worker.close_pipes()
            until = time.monotonic() + _END_S
            while any(w.is_alive() for w in workers) and time.monotonic() < until:
                time.sleep(0.01)
            for worker in workers:
                worker.kill()


def _in_order(workers: "list[_Worker]", items: Iterable[Any], in_flight: int) -> Generator[Any]:
    pending: collections.deque[_Worker] = collections.deque()
    for item in items:
        if len(pending) == in_flight * len(workers):
            yield _result(pending.popleft(), workers)
        worker = min(workers, key=lambda worker: worker.num_waiting)
        worker.send(item)
        pending.append(worker)
    while pending:
        yield _result(pending.popleft(), workers)


def _result(worker: "_Worker", workers: "list[_Worker]") -> Any:
    """Wait for the next result of one worker. Receive from the others too, so that none blocks."""
    while True:
        at_work = {other.answers: other for other in workers if other.num_waiting}
        for pipe in connection.wait(list(at_work), timeout=0 if worker.answered else None):
            at_work[pipe].receive()  # type: ignore[index]
        if worker.answered:
            is_result, value = worker.answered.popleft()
            if not is_result:
                raise value
            return value


@contextlib.contextmanager
def _signals_deferred() -> Iterator[None]:
    """Block the signals while processes start, so that they inherit the mask and all of them start.

    The mask alone is not enough: another thread may receive the signal, and Python then runs its
    handler in the main thread at once.
    """
    resource_tracker.ensure_running()  # or the first start does, which unblocks the signals
    came: list[int] = []
    is_main_thread = threading.current_thread() is threading.main_thread()
    numbers = [n for n in _PARENT_SIGNALS if is_main_thread and signal.getsignal(n) is not None]
    handlers = {n: signal.signal(n, lambda number, frame: came.append(number)) for n in numbers}
    # Without this the reader of the wakeup file counts the signal that is raised again twice.
    wakeup = signal.set_wakeup_fd(-1) if is_main_thread else -1
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _PARENT_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if is_main_thread:
            signal.set_wakeup_fd(wakeup)
        if came:
            signal.raise_signal(came[0])


@contextlib.contextmanager
def _script_hidden() -> Iterator[None]:
    """Start processes that do not import the script again.

    The script may import JAX, or lack `if __name__ == "__main__":`.
    """
    script = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


class _Worker:
    """One process and the pipe to it."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        context = multiprocessing.get_context("spawn")
        items, self._items = context.Pipe(duplex=False)
        self.answers, answers = context.Pipe(duplex=False)
        self.num_waiting = 0  # items without an answer
        self.answered: collections.deque[tuple[bool, Any]] = collections.deque()
        for pipe in (self._items, answers):
            # Not Linux, or the administrator allows less.
            with contextlib.suppress(AttributeError, OSError):
                fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._process = context.Process(target=_work, args=(function, items, answers), daemon=True)
        self._process.start()
        _alive.add(self)
        items.close()
        answers.close()

    def __enter__(self) -> "_Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close_pipes()
        self.kill()
        _alive.discard(self)
        self._process.join()

    def __str__(self) -> str:
        try:
            stat = Path(f"/proc/{self._process.pid}/stat").read_text()
            state = _STATES.get(stat.rpartition(")")[2].split()[0], "ended")
        except OSError:
            state = "ended" if not self._process.is_alive() else "alive"
        return f"worker {self._process.pid} ({state})"

    def close_pipes(self) -> None:
        self._items.close()
        self.answers.close()

    def is_alive(self) -> bool:
        return self._process.is_alive()

    def kill(self) -> None:
        """End the process if it has not ended. This works for a stopped one too."""
        if self._process.is_alive():
            self._process.kill()

    def send(self, item: object) -> None:
        try:
            self._items.send(item)
        except OSError as error:
            raise self._death() from error
        self.num_waiting += 1

    def receive(self) -> None:
        try:
            self.answered.append(self.answers.recv())
        except (OSError, EOFError) as error:
            raise self._death() from error
        self.num_waiting -= 1

    def _death(self) -> UserError:
        self._process.join(_END_S)
        return UserError(
            f"a worker process ended with exit code {self._process.exitcode}. "
            "-9 usually means out of memory: use fewer workers."
        )


def _work(
    function: Callable[[Any], Any], pipe: connection.Connection, answers: connection.Connection
) -> None:
    """Run in a worker. A thread receives items, so that parent and worker never block each other.

    The thread does not unpickle them: an item that cannot be unpickled would end the thread, and
    parent and worker would wait for ever.
    """
    items: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def take() -> None:
        while True:
            try:
                items.put(pipe.recv_bytes())
            except (EOFError, OSError):
                os._exit(0)  # the parent has closed the pipe or has ended

    threading.Thread(target=take, daemon=True).start()
    while True:
        item = items.get()
        try:
            answer = (True, function(pickle.loads(item)))
        except Exception as error:  # raised again in the parent
            answer = (False, error)
        with contextlib.suppress(OSError):
            answers.send(answer)
