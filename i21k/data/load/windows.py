"""The records of a windowed order, read a run at a time before they are due: between the order, which is numbers, and the files."""

import concurrent.futures
import contextlib
import threading
from typing import Any, Protocol

from jaxtyping import Int
from numpy import ndarray

from i21k.data.format.splits import RunReader, Split
from i21k.data.load.order import RUN_BYTES, Window, WindowedOrder


class Source(Protocol):
    """Reads single records by number, in any order."""

    def __getitem__(self, number: int) -> bytes: ...


class WindowBuffer:
    """A source whose records are in memory when they are due; what is not there it reads from the source it stands for.

    One thread reads, so that the disk does one thing at a time. Of each lane it holds the window in use and the one after, which is read
    meanwhile: `LANES * RUNS_PER_WINDOW * RUN_BYTES` = 192 MB each, 384 MB in all. A record leaves when it is taken. Every process has a
    buffer of its own, so of W worker processes each reads every window, from the page cache where another one was there before.
    """

    def __init__(self, order: WindowedOrder, split: Split, source: Source) -> None:
        self._order, self._split, self._source = order, split, source
        self._runs = RunReader(split, 2 * RUN_BYTES)  # room for a run of large pictures
        self._windows: dict[Window, concurrent.futures.Future[dict[int, bytes]]] = {}
        self._lock = threading.Lock()
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "windows")

    def __reduce__(self) -> tuple[Any, ...]:
        return WindowBuffer, (
            self._order,
            self._split,
            self._source,
        )  # in another process it begins empty

    def close(self) -> None:
        """Read no more."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def prepare(self, places: Int[ndarray, " n"]) -> None:
        """Wait until the windows in which `places` lie have been read, and go on with the ones that follow."""
        due = self._order.windows(places)
        with self._lock:
            for window in [*due, *map(self._order.following, due)]:
                if window not in self._windows:
                    self._windows[window] = self._thread.submit(self._read, window)
            waiting = [self._windows[window] for window in due]
            self._drop(due)
        for future in waiting:
            future.result()

    def _drop(self, due: list[Window]) -> None:
        """Forget what lies behind: of each lane all but the window before the one that is due, which a slower thread may need yet."""
        for first in {window.lane: window for window in reversed(due)}.values():
            behind = sorted(
                window for window in self._windows if window.lane == first.lane and window < first
            )
            for window in behind[:-1]:
                del self._windows[window]

    def _read(self, window: Window) -> dict[int, bytes]:
        records: dict[int, bytes] = {}
        for first, end in self._order.runs(window):
            with contextlib.suppress(
                ValueError
            ):  # whoever needs the damaged record asks the source, and can name it
                records.update(zip(range(first, end), self._runs.read(first, end), strict=True))
        return records

    def __getitem__(self, number: int) -> bytes:
        with self._lock:
            windows = [future.result() for future in self._windows.values() if future.done()]
        for window in windows:
            if (record := window.pop(number, None)) is not None:
                return record
        return self._source[number]
