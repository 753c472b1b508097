"""Engines do the work of the read and write phases: processes of this machine, or Apache Beam."""

import contextlib
import ctypes
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, Self, TypeVar

from i21k import workers
from i21k.data.pack import read
from i21k.data.pack.output import check_free_space
from i21k.data.pack.read import WHOLE, Batches, Reading, read_before, read_part
from i21k.data.pack.recoding import Recoded
from i21k.data.pack.report import Progress

T = TypeVar("T")
R = TypeVar("R")
_MEMORY_BYTES = 1700 << 20  # of all processes together; the sizes below are derived from it
_PROCESS_BYTES = 90 << 20  # allowed for a process with its libraries and an image; our choice
_PROBE_BYTES = 64 << 20  # of the source, that are read before the size of the result is estimated
_IN_FLIGHT = 8  # batches per worker: enough while this process sorts and writes a spill file


class Engine(Protocol):
    """Does the work. The bytes of a dataset do not depend on the engine.

    Attributes:
        name: which strategy of reading it has; a packing resumes with the same only.
    """

    name: str

    def read(self, reading: Reading, on_progress: Callable[[Progress], None]) -> None:
        """Read all parts of a source into spill files, and refuse what the disk cannot hold."""

    def map(
        self, step: str, function: Callable[[T], R], items: Sequence[T], item_bytes: float
    ) -> Iterator[R]:
        """Return `function(item)` for each item in order.

        Args:
            step: name of the step, for displays.
            function: leaves its result in files and returns at once if they are there, since an
                engine may apply it to an item more than once.
            items: few and small.
            item_bytes: of memory that the function needs for an item.
        """

    def __enter__(self) -> Self:
        """Start what it needs."""

    def __exit__(self, *_: object) -> None:
        """End what it has started."""


class LocalEngine:
    """Processes of this machine. It reads a source in one pass from the front to the end.

    This process reads and writes spill files, the others recode: a hard disk seeks little, and a
    compressed tar is decompressed once.

    Args:
        num_workers: processes; 1 means this one.
    """

    name = "local"

    def __init__(self, num_workers: int) -> None:
        self._num_workers = num_workers
        self._pool = workers.Pool(num_workers)

    def __enter__(self) -> Self:
        self._pool.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.__exit__()

    def read(self, reading: Reading, on_progress: Callable[[Progress], None]) -> None:
        """Read the source as one part, and check the free space when some of it is recoded."""

        def recode_all(batches: Batches) -> Iterator[list[Recoded]]:
            return self._pool.map(
                reading.recode_batch, batches, self._num_workers, in_flight=_IN_FLIGHT
            )

        source = reading.source
        _, before = read_before(reading, WHOLE)
        start_bytes, is_checked = source.num_bytes_read, False
        # Batches in the workers are read and have no result yet.
        in_flight_bytes = (
            _IN_FLIGHT * self._num_workers * read.BATCH_BYTES if self._num_workers > 1 else 0
        )
        spilled = read_part(reading, WHOLE, recode_all, self._spill_bytes(source.num_bytes))
        with contextlib.closing(spilled):
            for so_far in spilled:
                recoded_bytes = source.num_bytes_read - start_bytes - in_flight_bytes
                enough = min(_PROBE_BYTES, source.num_bytes / 2)
                if not is_checked and recoded_bytes > 0 and recoded_bytes >= enough:
                    record_bytes = so_far.num_record_bytes - before.num_record_bytes
                    total_bytes = source.num_bytes * record_bytes / recoded_bytes
                    needed = round(2 * total_bytes - before.num_record_bytes)
                    check_free_space(reading.work.output, needed)
                    is_checked = True
                on_progress(
                    Progress("reading", source.num_bytes_read, source.num_bytes, so_far.num_read)
                )
        _return_freed_memory()

    def map(
        self, step: str, function: Callable[[T], R], items: Sequence[T], item_bytes: float
    ) -> Iterator[R]:
        """Apply a function in the processes, in as many as the memory allows."""
        _return_freed_memory()
        most = max(1, round(_MEMORY_BYTES / (item_bytes + 1)))
        return self._pool.map(function, items, min(self._num_workers, most))

    def _spill_bytes(self, source_bytes: int) -> int:
        """Return the size of a spill file: large ones save seeks, small ones the wait at the end.

        One is gathered while another is being written.
        """
        most = (_MEMORY_BYTES - (self._num_workers + 2) * _PROCESS_BYTES) // 2
        return min(max(most, 256 << 20), 512 << 20, max(source_bytes // 64, 32 << 20))


def _return_freed_memory() -> None:
    """Return freed memory to the system, which glibc keeps; it is needed in other processes."""
    with contextlib.suppress(AttributeError, OSError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)
