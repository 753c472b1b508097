"""Read the records of a split: one by one by number, neighbouring ones together, or all in order.

All bytes of a record are covered by a hash in the file, so a damaged record is always an error.
"""

import bisect
import collections
import itertools
import resource
import threading
from collections.abc import Iterator
from typing import Any

from array_record.python.array_record_module import ArrayRecordReader

from i21k.data.format.records import decode_example, file_name_of
from i21k.data.format.shards import READER_OPTIONS, open_shard, read_records
from i21k.data.format.splits import ShardChangedError, Split
from i21k.errors import UserError

# Open files for everything but shards: libraries, devices, sockets, and a second set of readers
# while the first one is being closed. Our choice.
SPARE_FILES = 1024
_BUFFER_BYTES = 2**15
# A reader keeps a file open, and an index of 9 bytes for each record of its shard. These bound what
# a process holds for a split of any size: 4,096 files and 600 MB. Our choice.
MAX_OPEN_SHARDS, MAX_INDEXED_RECORDS = 4096, 1 << 26


def allow_open_files(num_shards: int) -> None:
    """Raise this process's limit on open files, so that it and its workers can open every shard.

    Of more than `MAX_OPEN_SHARDS` shards, that many are open at a time.

    Raises:
        UserError: if the system does not allow so many.
    """
    needed = min(num_shards, MAX_OPEN_SHARDS) + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise UserError(
            f"{num_shards:,} shards need {needed:,} open files, but this process may open {hard:,}."
            " Raise the hard limit (ulimit -Hn, LimitNOFILE= of systemd, --ulimit nofile= of"
            " Docker), or pack with a smaller --num-shards."
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


class _OpenShards:
    """Readers of the shards of a split, for any number of threads.

    A shard is opened at its first use. When too many are open, those that were opened first are
    closed. A thread that uses one of them then still reads from it.
    """

    def __init__(self, split: Split, options: str) -> None:
        self._split, self._options = split, options
        self._readers: list[ArrayRecordReader | None] = [None] * len(split.shard_paths)
        self._open: collections.deque[int] = collections.deque()
        self._num_indexed, self._opening = 0, threading.Lock()

    def __getitem__(self, shard: int) -> ArrayRecordReader:
        """Return the reader of a shard.

        Raises:
            ShardChangedError: if the shard was replaced since the split was opened.
        """
        if (reader := self._readers[shard]) is not None:
            return reader
        with self._opening:
            if (reader := self._readers[shard]) is None:
                reader = open_shard(self._split.shard_paths[shard], self._options, _BUFFER_BYTES)
                self._split.check_shard(shard)
                self._keep(shard, reader)
            return reader

    def forget(self, shard: int) -> None:
        """Open a shard again when it is used next."""
        self._readers[shard] = None

    def _keep(self, shard: int, reader: ArrayRecordReader) -> None:
        counts = self._split.shard_counts
        self._readers[shard] = reader
        self._open.append(shard)
        self._num_indexed += counts[shard]
        while len(self._open) > 1 and (
            len(self._open) > MAX_OPEN_SHARDS or self._num_indexed > MAX_INDEXED_RECORDS
        ):
            oldest = self._open.popleft()
            self._num_indexed -= counts[oldest]
            if oldest != shard:
                self._readers[oldest] = None


class RecordReader:
    """Reads single records by number, for any number of threads. A shard is opened at first use."""

    def __init__(self, split: Split) -> None:
        self._split, self._ends = split, list(itertools.accumulate(split.shard_counts))
        self._shards = _OpenShards(split, READER_OPTIONS)

    def __reduce__(self) -> tuple[Any, ...]:
        return RecordReader, (self._split,)  # another process opens its own files

    def __getitem__(self, number: int) -> bytes:
        """Return a record of the split.

        Raises:
            UserError: if it cannot be read.
        """
        shard, index = self.find(number)
        try:
            record = self._shards[shard].read([index])[0]
        except ShardChangedError:
            raise
        except (RuntimeError, ValueError, IndexError) as error:
            raise UserError(f"it cannot be read ({error})") from error
        if not record:  # ArrayRecord returns this for a shard that was cut off
            raise UserError("it cannot be read (it is empty: the shard is damaged or was replaced)")
        return record

    def find(self, number: int) -> tuple[int, int]:
        """Return the shard of a record, and the record's index in that shard."""
        shard = bisect.bisect_right(self._ends, number)
        return shard, number - (self._ends[shard - 1] if shard else 0)


class SpanReader:
    """Reads a span of neighbouring records with one disk request per shard, for one thread.

    Given a list of numbers, ArrayRecord would read each record with a request of its own, from
    many threads. On a cold disk that reads three times the bytes.
    """

    def __init__(self, split: Split, max_request_bytes: int) -> None:
        self._split, self._ends = split, list(itertools.accumulate(split.shard_counts))
        options = f"readahead_buffer_size:{max_request_bytes},max_parallelism:1"
        self._shards = _OpenShards(split, options)

    def read(self, first: int, end: int) -> list[bytes]:
        """Return the records `first` to `end - 1` of the split.

        Raises:
            UserError: if one of them cannot be read.
        """
        records: list[bytes] = []
        while first < end:
            shard = bisect.bisect_right(self._ends, first)
            start, stop = self._ends[shard - 1] if shard else 0, min(end, self._ends[shard])
            path = str(self._split.shard_paths[shard])
            try:
                records += self._shards[shard].read(first - start, stop - start)
            except ShardChangedError:
                raise
            except (RuntimeError, ValueError, IndexError) as error:
                self._shards.forget(shard)  # a reader that failed once always fails
                raise UserError(
                    f"records {first - start} to {stop - start - 1} of {path} cannot be read "
                    f"({error})"
                ) from error
            first = stop
        return records


def file_names_in(split: Split) -> Iterator[str]:
    """Yield the `file_name` of each record, in order; empty if a record has none. Reads everything.

    Raises:
        UserError: if a record is damaged.
    """
    return map(file_name_of, all_records(split))


def labels_in(split: Split) -> Iterator[int]:
    """Yield the label of each record, in order. Reads everything.

    Raises:
        UserError: if a record is damaged.
    """
    return (decode_example(record)[1] for record in all_records(split))


def all_records(split: Split) -> Iterator[bytes]:
    """Yield each record of a split, in order.

    Raises:
        UserError: if a record is damaged.
    """
    for path, num_records in zip(split.shard_paths, split.shard_counts, strict=True):
        for index, record in read_records(path, range(num_records)):
            if isinstance(record, ValueError):
                raise UserError(
                    f"record {index} of {path} cannot be read ({record}). "
                    "Copy it again or pack the split again."
                )
            yield record
