"""Read the windows of a `WindowedOrder` ahead, span by span, into memory."""

import concurrent.futures
import contextlib
import threading
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Int
from numpy import ndarray

from i21k.data.format.readers import SpanReader
from i21k.data.format.splits import Split
from i21k.data.load.order import SPAN_BYTES, Window, WindowedOrder
from i21k.errors import UserError


@runtime_checkable
class Source(Protocol):
    """Reads single records by number, in any order."""

    def __getitem__(self, number: int) -> bytes: ...


class WindowBuffer:
    """Keeps the records of the current windows in memory; reads any other record from `source`.

    One thread reads, so that the disk has one request at a time. Each lane has its current window
    and the next one, which is being read: `LANES * SPANS_PER_WINDOW * SPAN_BYTES` = 192 MB each,
    384 MB in all. A record is removed when it is used. Each worker process has its own buffer and
    reads every window; all but the first read it from the page cache.
    """

    def __init__(self, order: WindowedOrder, split: Split, source: Source) -> None:
        self._order, self._split, self._source = order, split, source
        self._spans = SpanReader(split, 2 * SPAN_BYTES)  # large images make longer spans
        self._windows: dict[Window, concurrent.futures.Future[dict[int, bytes]]] = {}
        self._lock = threading.Lock()
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "windows")

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process starts with an empty buffer.
        return WindowBuffer, (self._order, self._split, self._source)

    def close(self) -> None:
        """Stop reading ahead."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def prepare(self, positions: Int[ndarray, " n"]) -> None:
        """Wait until the windows of `positions` have been read, and start to read the next ones."""
        due = self._order.windows(positions)
        with self._lock:
            for window in [*due, *map(self._order.following, due)]:
                if window not in self._windows:
                    self._windows[window] = self._thread.submit(self._read, window)
            waiting = [self._windows[window] for window in due]
            self._drop(due)
        for future in waiting:
            future.result()

    def _drop(self, due: list[Window]) -> None:
        """Drop old windows of each lane but the last, which a slower thread may still need."""
        for first in {window.lane: window for window in reversed(due)}.values():
            old = sorted(
                window for window in self._windows if window.lane == first.lane and window < first
            )
            for window in old[:-1]:
                del self._windows[window]

    def _read(self, window: Window) -> dict[int, bytes]:
        records: dict[int, bytes] = {}
        for first, end in self._order.spans(window):
            # A damaged record is read again from the source, whose error names it.
            with contextlib.suppress(UserError):
                records.update(zip(range(first, end), self._spans.read(first, end), strict=True))
        return records

    def __getitem__(self, number: int) -> bytes:
        with self._lock:
            windows = [future.result() for future in self._windows.values() if future.done()]
        for window in windows:
            if (record := window.pop(number, None)) is not None:
                return record
        return self._source[number]
