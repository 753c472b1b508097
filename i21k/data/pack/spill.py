"""Runs on disk between reading and writing: how 14 million pictures are shuffled in little memory. A room for one file format.

Where a record goes is a hash of the seed and its name, a number in [0, 2**64): its place in the split. What was read is gathered until
it fills some hundred MiB, sorted by place and written in one go; a shard is then a slice of every run, merged. So a disk that cannot
seek writes long stretches, and seeks once per run and shard. A run is also what a restart keeps: it knows up to where the source lies
in it and those before it. Two files make one:

    run-00000007-00001234.records   the records one behind the other, each with a header
    run-00000007-00001234.npz       what is known of them without reading them; written last, so a run without it does not count
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
from i21k.files import replaced

FORMAT = 2  # of these files, so that a run that another version of this program left is told from one that can go on
_HEADER = struct.Struct(
    "<QQHHI"
)  # place, sequence, bytes of the class, of the name, of the picture


class Record(NamedTuple):
    """A picture on its way; `sequence` tells where it stands in the source and breaks ties between equal names."""

    place: int
    sequence: int
    class_id: str
    name: str
    jpeg: bytes | memoryview

    @property
    def file_name(self) -> str:
        """The name under which it is stored."""
        return f"{self.class_id}/{self.name}"


def place(file_name: str, seed: int) -> int:
    """Return where a record belongs, in [0, 2**64): uniform, and the same on every machine."""
    digest = hashlib.blake2b(_encode(file_name), digest_size=8, key=str(seed).encode()).digest()
    return int.from_bytes(digest, "little")


def write_records(path: Path, records: Iterable[Record]) -> Int64[np.ndarray, " n"]:
    """Write records one behind the other, durably, and return the byte at which each ends. The file appears when it is complete."""
    ends = []
    num_bytes = 0
    with replaced(path) as temporary, temporary.open("wb", buffering=1 << 20) as file:
        for record in records:
            class_id, name = _encode(record.class_id), _encode(record.name)
            file.write(
                _HEADER.pack(
                    record.place, record.sequence, len(class_id), len(name), len(record.jpeg)
                )
                + class_id
                + name
            )
            file.write(record.jpeg)
            num_bytes += _HEADER.size + len(class_id) + len(name) + len(record.jpeg)
            ends.append(num_bytes)
        file.flush()
        os.fsync(file.fileno())
    return np.array(ends, np.int64)


def read_records(path: Path, start: int = 0, stop: int | None = None) -> Iterator[Record]:
    """Yield the records between two bytes of a file, read in one go; their pictures are views of what was read."""
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        content = memoryview(
            file.read((os.fstat(file.fileno()).st_size if stop is None else stop) - start)
        )
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
class Gathered:
    """What has been read of a source since the last run, or in a run what is known beside its records."""

    after: Position = START  # the last file that lies in the run
    num_read: int = 0
    num_source_bytes: int = 0  # passed since the beginning of the source
    num_record_bytes: int = 0
    left_out: list[tuple[str, str, str]] = dataclasses.field(
        default_factory=list
    )  # container, name, reason
    class_ids: set[str] = dataclasses.field(default_factory=set)


def write_run(
    directory: Path, known: Gathered, records: list[Record], digests: dict[int, bytes]
) -> None:
    """Write a run, durably: after a power cut it is there whole or not at all.

    Args:
        directory: in which runs lie.
        known: of what was read.
        records: in any order; sorted in place.
        digests: of the originals, by sequence.
    """
    records.sort()
    path = directory / f"run-{known.after.entry:08d}-{known.after.number + 1:08d}.records"
    ends = write_records(path, records)
    names = [_encode(record.file_name) for record in records]
    about = dataclasses.asdict(known) | {
        "after": known.after._asdict(),
        "left_out": [],  # a column, since there may be millions
        "num_record_bytes": int(ends[-1]) if len(ends) else 0,
        "class_ids": sorted(known.class_ids),
    }
    index = {class_id: number for number, class_id in enumerate(about["class_ids"])}
    columns = io.BytesIO()
    np.savez(
        columns,
        about=np.frombuffer(json.dumps(about).encode(), np.uint8),
        left_out=np.frombuffer(json.dumps(known.left_out).encode(), np.uint8),
        places=np.array([record.place for record in records], np.uint64),
        sequences=np.array([record.sequence for record in records], np.int64),
        ends=ends,
        classes=np.array([index[record.class_id] for record in records], np.uint32),
        digests=np.frombuffer(
            b"".join(digests[record.sequence] for record in records), np.uint8
        ).reshape(-1, 32),
        name_ends=np.cumsum([len(name) for name in names], dtype=np.int64),
        names=np.frombuffer(b"".join(names), np.uint8),
    )
    write_whole(path.with_suffix(".npz"), columns.getvalue())


def write_whole(path: Path, content: bytes) -> None:
    """Write a small file so that it is there whole or not at all, also after a power cut, and with it the names that were there before."""
    with replaced(path) as temporary, temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Run:
    """A run on disk, sorted by place. Columns are read when they are asked for, and not kept; `about` is without what was left out."""

    def __init__(self, columns_path: Path) -> None:
        self._columns_path = columns_path
        self.path = columns_path.with_suffix(".records")
        self.about = Gathered(**_restore(json.loads(bytes(self._column("about")))))

    def _column(self, name: str) -> np.ndarray:
        with np.load(self._columns_path) as columns:
            return columns[name]

    @functools.cached_property
    def num_records(self) -> int:
        """Number of pictures in it."""
        return len(self._column("ends"))

    def left_out(self) -> list[tuple[str, str, str]]:
        """Return container, name and reason of each file that was left out."""
        return [tuple(row) for row in json.loads(bytes(self._column("left_out")))]

    def digests(self) -> UInt8[np.ndarray, "n 32"]:
        """Return the SHA-256 of each original."""
        return self._column("digests")

    def sequences(self) -> Int64[np.ndarray, " n"]:
        """Return where each picture stands in the source."""
        return self._column("sequences")

    def classes(self) -> UInt32[np.ndarray, " n"]:
        """Return the number of each picture's class among the sorted `about.class_ids`."""
        return self._column("classes")

    def file_names(self) -> list[bytes]:
        """Return the name of each picture as it is stored."""
        ends = self._column("name_ends").tolist()
        names = self._column("names").tobytes()
        return [names[start:end] for start, end in zip([0, *ends], ends, strict=False)]

    def cut(
        self, places: UInt64[np.ndarray, " m"]
    ) -> tuple[Int64[np.ndarray, " m"], Int64[np.ndarray, " m"]]:
        """Return how many records, and how many of its bytes, lie before each place."""
        records = np.searchsorted(self._column("places"), places)
        return records, np.concatenate([[0], self._column("ends")])[records]


def find_runs(directory: Path) -> list[Run]:
    """Return the complete runs in the order of the source, and remove what is left of others."""
    runs = [Run(path) for path in sorted(directory.glob("run-*.npz"))]
    complete = {
        run.path
        for run in runs
        if run.path.exists() and run.path.stat().st_size == run.about.num_record_bytes
    }
    for path in directory.glob("run-*"):
        if path.with_suffix(".records") not in complete:
            path.unlink()
    return [run for run in runs if run.path in complete]


def _restore(about: dict[str, Any]) -> dict[str, Any]:
    return about | {
        "after": Position(**about["after"]),
        "class_ids": set(about["class_ids"]),
    }


def _encode(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _decode(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
