"""Buckets on disk between reading and writing: how 14 million pictures are shuffled in little memory. A room for one file format.

Where a record goes is a hash of the seed and its name, a number in [0, 2**64): its order in the split. Bucket `b` of `B` takes the
hashes from `b * 2**64 / B` on, and shard `s` of `S` likewise, so a split is the sorted buckets one after another, cut into shards.
"""

import hashlib
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_HEADER = struct.Struct("<QQII")  # place, sequence, bytes of the name, bytes of the picture
_BUFFER_BYTES = 256 << 20  # of all buckets together, chosen here: large appends for a disk that cannot seek


class Record(NamedTuple):
    """A picture on its way; `sequence` is its position in the source and breaks ties between equal names."""

    place: int
    sequence: int
    file_name: str
    jpeg: bytes


def place(file_name: str, seed: int) -> int:
    """Return where a record belongs, in [0, 2**64): uniform, and the same on every machine."""
    digest = hashlib.blake2b(_encode(file_name), digest_size=8, key=str(seed).encode()).digest()
    return int.from_bytes(digest, "little")


class Spill:
    """Takes records in any order, gives them back shard by shard in the order of their places."""

    def __init__(self, directory: Path, num_buckets: int, seed: int) -> None:
        self.num_buckets = num_buckets
        self._paths = [directory / f"bucket-{b:05d}" for b in range(num_buckets)]
        self._buffers = [bytearray() for _ in range(num_buckets)]
        self._flush_bytes = min(max(_BUFFER_BYTES // num_buckets, 1 << 16), 1 << 23)
        self._seed = seed

    def add(self, sequence: int, file_name: str, jpeg: bytes) -> None:
        """Take a record. Up to 256 MiB stay in memory until `flush`."""
        at, name = place(file_name, self._seed), _encode(file_name)
        bucket = at * self.num_buckets >> 64
        buffer = self._buffers[bucket]
        buffer += _HEADER.pack(at, sequence, len(name), len(jpeg)) + name + jpeg
        if len(buffer) >= self._flush_bytes:
            self._write(bucket)

    def flush(self) -> None:
        """Write what is in memory. Call it between the last `add` and the first `shard`."""
        for bucket in range(self.num_buckets):
            self._write(bucket)

    def _write(self, bucket: int) -> None:
        if self._buffers[bucket]:
            with self._paths[bucket].open("ab") as file:
                file.write(self._buffers[bucket])
            self._buffers[bucket] = bytearray()

    def shard(self, index: int, num_shards: int) -> Iterator[Record]:
        """Yield the records of one of `num_shards` shards in order. One bucket at a time is in memory."""
        first = -(-(index << 64) // num_shards)  # the least place in the shard
        last = -(-((index + 1) << 64) // num_shards) - 1
        for bucket in range(first * self.num_buckets >> 64, (last * self.num_buckets >> 64) + 1):
            yield from (record for record in sorted(self._read(bucket)) if first <= record.place <= last)

    def _read(self, bucket: int) -> Iterator[Record]:
        if not self._paths[bucket].exists():
            return
        with self._paths[bucket].open("rb", buffering=1 << 20) as file:
            while header := file.read(_HEADER.size):
                where, sequence, name_bytes, jpeg_bytes = _HEADER.unpack(header)
                yield Record(where, sequence, file.read(name_bytes).decode("utf-8", "surrogateescape"), file.read(jpeg_bytes))


def _encode(file_name: str) -> bytes:
    return file_name.encode("utf-8", "surrogateescape")
