"""The format on disk: shards of records and the JSON that describes them. One room, so that no other knows a file name or a byte.

A packed directory is a TFDS dataset in ArrayRecord files (https://www.tensorflow.org/datasets/external_tfrecord), so TFDS reads what
is written here and datasets that TFDS made open here:

    imagenet21k-train.array_record-00000-of-01024   records: serialized tf.train.Example with `image`, `label`, `file_name`
    dataset_info.json, features.json, label.labels.txt   what TFDS needs
    manifest.json   ours: count, bytes and SHA-256 of every shard, hash of the class list, options, what became of every picture
"""

import dataclasses
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from i21k.files import hash_file, replaced

_WRITER_OPTIONS = "group_size:1,uncompressed"  # JPEGs do not compress, and a read costs one record
READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"  # one record at a time, in this thread


# ---------------------------------------------------------------------------------------------------------------- records
# The C protobuf library parses a record of 30 KB in 2 us; a parser of the wire format in Python took 5 us.


# ----------------------------------------------------------------------------------------------------------------- writing


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
    """Write `records` in the given order. The file appears as `path` only when it is complete, counted and on the disk.

    Raises:
        OSError: if the disk refuses it; nothing is left behind then, nor after any other exception.
    """
    with replaced(path) as temporary:
        num_records = _write_records(temporary, records)
        sha256 = hash_file(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        num_bytes = temporary.stat().st_size
    return Shard(path.name, num_records, num_bytes, sha256)


def _write_records(path: Path, records: Iterable[bytes]) -> int:
    """Write, close, open again and count: a writer that is not closed, or a full disk, leaves a file that reads as empty."""
    path.touch()  # the writer reports a directory that cannot be written only as a status; this raises OSError
    writer = ArrayRecordWriter(str(path), _WRITER_OPTIONS)
    num_records = 0
    try:
        for record in records:
            try:
                writer.write(record)
            except RuntimeError as error:  # what the library makes of a full disk
                raise OSError(str(error)) from error
            num_records += 1
    finally:
        try:
            writer.close()
        except RuntimeError as error:
            raise OSError(str(error)) from error
    reader = ArrayRecordReader(str(path))
    num_counted = reader.num_records() if reader.ok() else None
    if num_counted != num_records:
        raise OSError(
            f"{path} holds {num_counted} records after {num_records} were written; is the disk full?"
        )
    reader.close()
    return num_records


# ---------------------------------------------------------------------------------------------------------------- manifest


# ----------------------------------------------------------------------------------------------------------------- opening


# ----------------------------------------------------------------------------------------------------------------- looking
# What the loader need not know, for those who look into a directory that may be damaged.


def count_records(path: Path) -> int | None:
    """Return how many records a file has, or None if it is missing, truncated or else no ArrayRecord file."""
    reader = ArrayRecordReader(str(path), READER_OPTIONS)
    return reader.num_records() if reader.ok() else None


def read_records(path: Path, indices: Iterable[int]) -> Iterator[tuple[int, bytes | ValueError]]:
    """Yield the records at `indices` of a file that `count_records` could count; in the place of a damaged one, what is wrong with it.

    Every byte of a record is covered by a hash in the file, so a damaged one cannot pass for whole.
    """
    reader, at = ArrayRecordReader(str(path), READER_OPTIONS), 0
    for index in indices:
        try:
            if index != at:
                reader.seek(index)
            record, at = (
                reader.read(),
                index + 1,
            )  # one after the other takes 2 us, by number 130 us in a file of 100,000
        except (
            RuntimeError,
            IndexError,
        ) as error:  # RuntimeError is what the library raises for a damaged file
            yield index, ValueError(str(error))
            reader, at = (
                ArrayRecordReader(str(path), READER_OPTIONS),
                0,
            )  # a reader that failed stays so
        else:
            yield index, record
