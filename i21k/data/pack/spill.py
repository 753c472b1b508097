"""Spill files: recoded images on disk between reading and writing, so that millions are shuffled in
little memory.

A record's place is a hash of the seed and its name, a number in [0, 2**64). What is read is
gathered in memory up to some hundred MiB, sorted by place and written at once. A shard is then one
slice of every spill file, merged. So a hard disk writes long stretches, and seeks once per spill
file and shard. Two files belong together:

    spill-00000007-00001234.records   the records one behind the other, each with a header
    spill-00000007-00001234.npz       what is known of them without reading them; written last, so
                                      that a spill file without it does not count

The numbers are those of the position in the source behind the last file in it.
"""

import dataclasses
import functools
import hashlib
import io
import json
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64, UInt8, UInt32, UInt64

from i21k.data.sources.base import START, Position
from i21k.files import replaced, write_bytes

FORMAT = 3  # of all files in `.packing`; a restart refuses another
_HEADER = struct.Struct("<QQHHI")  # place, sequence, bytes of class id, of name, of image


class Record(NamedTuple):
    """An image between reading and writing."""

    place: int
    sequence: int  # position in the source; orders records with equal names
    class_id: str
    name: str
    jpeg: bytes | memoryview

    @property
    def file_name(self) -> str:
        """The name in the dataset."""
        return f"{self.class_id}/{self.name}"


def place(file_name: str, seed: int) -> int:
    """Return the place of a record in [0, 2**64): uniform, and the same on every machine."""
    digest = hashlib.blake2b(_encode(file_name), digest_size=8, key=str(seed).encode()).digest()
    return int.from_bytes(digest, "little")


def write_records(path: Path, records: Iterable[Record]) -> Int64[np.ndarray, " n"]:
    """Write records durably, and return the byte at which each ends.

    The file appears when it is complete.
    """
    ends = []
    num_bytes = 0
    with replaced(path) as temporary, temporary.open("wb", buffering=1 << 20) as file:
        for record in records:
            class_id, name = _encode(record.class_id), _encode(record.name)
            header = _HEADER.pack(
                record.place, record.sequence, len(class_id), len(name), len(record.jpeg)
            )
            file.write(header + class_id + name)
            file.write(record.jpeg)
            num_bytes += len(header) + len(class_id) + len(name) + len(record.jpeg)
            ends.append(num_bytes)
    return np.array(ends, np.int64)


def read_records(path: Path, start: int = 0, stop: int | None = None) -> Iterator[Record]:
    """Yield the records between two bytes of a file.

    They are read at once; the images are views of what was read.
    """
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        num_bytes = (os.fstat(file.fileno()).st_size if stop is None else stop) - start
        content = memoryview(file.read(num_bytes))
    at = 0
    while at < len(content):
        where, sequence, *sizes = _HEADER.unpack_from(content, at)
        at += _HEADER.size
        class_id, name, jpeg = (
            content[at + sum(sizes[:k]) : at + sum(sizes[: k + 1])] for k in range(3)
        )
        at += sum(sizes)
        yield Record(where, sequence, _decode(bytes(class_id)), _decode(bytes(name)), jpeg)


@dataclasses.dataclass
class About:
    """What is known of a spill file besides its records."""

    after: Position = START  # the last file of the source in it
    num_read: int = 0
    num_source_bytes: int = 0  # passed since the beginning of the source
    num_record_bytes: int = 0
    skipped: list[tuple[str, str, str]] = dataclasses.field(default_factory=list)
    """Container, name and reason of each skipped file."""
    class_ids: set[str] = dataclasses.field(default_factory=set)
    odd: dict[str, int] = dataclasses.field(default_factory=dict)
    """How many of the images were odd in the source, by oddity."""


def write_spill_file(
    directory: Path, about: About, records: list[Record], digests: dict[int, bytes]
) -> None:
    """Write a spill file durably: after a power cut it is there completely or not at all.

    Args:
        directory: in which spill files are.
        about: what is known of what was read.
        records: in any order; sorted in place.
        digests: SHA-256 of the originals, by sequence.
    """
    records.sort()
    path = directory / f"spill-{about.after.entry:08d}-{about.after.number + 1:08d}.records"
    ends = write_records(path, records)
    names = [_encode(record.file_name) for record in records]
    as_json = dataclasses.asdict(about) | {
        "after": about.after._asdict(),
        "skipped": [],  # a column, since there may be millions
        "num_record_bytes": int(ends[-1]) if len(ends) else 0,
        "class_ids": sorted(about.class_ids),
    }
    index = {class_id: number for number, class_id in enumerate(as_json["class_ids"])}
    digest_bytes = b"".join(digests[record.sequence] for record in records)
    columns = io.BytesIO()
    np.savez(
        columns,
        about=np.frombuffer(json.dumps(as_json).encode(), np.uint8),
        skipped=np.frombuffer(json.dumps(about.skipped).encode(), np.uint8),
        places=np.array([record.place for record in records], np.uint64),
        sequences=np.array([record.sequence for record in records], np.int64),
        ends=ends,
        classes=np.array([index[record.class_id] for record in records], np.uint32),
        digests=np.frombuffer(digest_bytes, np.uint8).reshape(-1, 32),
        name_ends=np.cumsum([len(name) for name in names], dtype=np.int64),
        names=np.frombuffer(b"".join(names), np.uint8),
    )
    write_whole(path.with_suffix(".npz"), columns.getvalue())


def write_whole(path: Path, content: bytes) -> None:
    """Write a small file durably: after a power cut it is there completely or not at all.

    The names that were in its directory before are durable afterwards too.
    """
    write_bytes(path, content)


class SpillFile:
    """A spill file on disk. Columns are read on each call and not kept in memory."""

    def __init__(self, columns_path: Path) -> None:
        self._columns_path = columns_path
        self.path = columns_path.with_suffix(".records")
        about = json.loads(bytes(self._column("about")))
        self.about = About(**_restore(about))  # without the skipped files

    def _column(self, name: str) -> np.ndarray:
        with np.load(self._columns_path) as columns:
            return columns[name]

    @functools.cached_property
    def num_records(self) -> int:
        """Number of images in it."""
        return len(self._column("ends"))

    def skipped(self) -> list[tuple[str, str, str]]:
        """Return container, name and reason of each skipped file."""
        return [tuple(row) for row in json.loads(bytes(self._column("skipped")))]

    def digests(self) -> UInt8[np.ndarray, "n 32"]:
        """Return the SHA-256 of each original."""
        return self._column("digests")

    def sequences(self) -> Int64[np.ndarray, " n"]:
        """Return where each image is in the source."""
        return self._column("sequences")

    def classes(self) -> UInt32[np.ndarray, " n"]:
        """Return the index of each image's class in the sorted `about.class_ids`."""
        return self._column("classes")

    def file_names(self) -> list[bytes]:
        """Return the name in the dataset of each image."""
        ends = self._column("name_ends").tolist()
        names = self._column("names").tobytes()
        return [names[start:end] for start, end in zip([0, *ends], ends, strict=False)]

    def cut(
        self, places: UInt64[np.ndarray, " m"]
    ) -> tuple[Int64[np.ndarray, " m"], Int64[np.ndarray, " m"]]:
        """Return how many records, and how many of its bytes, are before each place."""
        records = np.searchsorted(self._column("places"), places)
        return records, np.concatenate([[0], self._column("ends")])[records]


def find(directory: Path, first_entry: int = 0, stop_entry: int | None = None) -> list[SpillFile]:
    """Return the complete spill files of some entries of the source, in its order."""
    found = []
    for path in sorted(directory.glob("spill-*.npz")):
        entry = int(path.name.split("-")[1])
        if first_entry <= entry and (stop_entry is None or entry < stop_entry):
            found.append(SpillFile(path))
    return [file for file in found if _is_complete(file)]


def remove_incomplete(directory: Path) -> None:
    """Remove what writers that were killed have left. No writer may be working."""
    complete = {file.path for file in find(directory)}
    for path in directory.glob("spill-*"):
        if path.with_suffix(".records") not in complete:
            path.unlink()


def _is_complete(file: SpillFile) -> bool:
    return file.path.exists() and file.path.stat().st_size == file.about.num_record_bytes


def _restore(about: dict[str, Any]) -> dict[str, Any]:
    return about | {
        "after": Position(**about["after"]),
        "class_ids": set(about["class_ids"]),
    }


def _encode(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _decode(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
