"""One shard: an ArrayRecord file of records, written so that it is complete or absent.

`imagenet21k-train.array_record-00000-of-01024` is the first of 1024 shards of split `train`.
"""

import dataclasses
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from i21k.files import hash_file, replaced

_WRITER_OPTIONS = "group_size:1,uncompressed"  # JPEGs do not compress; a read costs one record
READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"  # one record at a time, in this thread


@dataclasses.dataclass(frozen=True)
class Shard:
    """One complete file of records."""

    file: str
    num_records: int
    num_bytes: int
    sha256: str


def shard_name(name: str, split: str, index: int, num_shards: int) -> str:
    """Return `imagenet21k-train.array_record-00000-of-01024`."""
    return f"{name}-{split}.array_record-{index:05d}-of-{num_shards:05d}"


def write_shard(path: Path, records: Iterable[bytes]) -> Shard:
    """Write `records` in the given order. The file appears as `path` when it is complete.

    Raises:
        OSError: if the disk is full or fails. After this or any other exception no file is left.
    """
    with replaced(path) as temporary:
        num_records = _write_records(temporary, records)
        sha256 = hash_file(temporary)
        num_bytes = temporary.stat().st_size
    return Shard(path.name, num_records, num_bytes, sha256)


def _write_records(path: Path, records: Iterable[bytes]) -> int:
    """Write, close, open again and count.

    A writer that is not closed, or a full disk, leaves a file that reads as empty.
    """
    path.touch()  # raises OSError if the directory is not writable; the writer would not
    writer = ArrayRecordWriter(os.fsencode(path), _WRITER_OPTIONS)
    num_records = 0
    try:
        for record in records:
            try:
                writer.write(record)
            except RuntimeError as error:  # a full disk
                raise OSError(str(error)) from error
            num_records += 1
    finally:
        try:
            writer.close()
        except RuntimeError as error:
            raise OSError(str(error)) from error
    reader = open_shard(path)
    num_counted = reader.num_records() if reader.ok() else None
    if num_counted != num_records:
        raise OSError(
            f"{path} contains {num_counted} records after {num_records} were written; "
            "is the disk full?"
        )
    reader.close()
    return num_records


def open_shard(
    path: Path, options: str = READER_OPTIONS, buffer_bytes: int | None = None
) -> ArrayRecordReader:
    """Return a reader of a file, whose name may be no Unicode. `ok()` is true if it is complete."""
    more = {} if buffer_bytes is None else {"file_reader_buffer_size": buffer_bytes}
    return ArrayRecordReader(os.fsencode(path), options, **more)


def count_records(path: Path) -> int | None:
    """Return how many records a file has; None if it is missing or no whole ArrayRecord file."""
    reader = open_shard(path)
    return reader.num_records() if reader.ok() else None


def read_records(path: Path, indices: Iterable[int]) -> Iterator[tuple[int, bytes | ValueError]]:
    """Yield (index, record) of a file that `count_records` could count.

    Instead of a damaged record, yield the error as a `ValueError`.
    """
    reader, next_index = open_shard(path), 0
    for index in indices:
        try:
            # In order a record takes 2 us; a seek in a file of 100,000 records takes 130 us.
            if index != next_index:
                reader.seek(index)
            record, next_index = reader.read(), index + 1
        except (RuntimeError, IndexError) as error:  # RuntimeError: a damaged file
            yield index, ValueError(str(error))
            # A reader that failed once always fails.
            reader, next_index = open_shard(path), 0
        else:
            yield index, record
