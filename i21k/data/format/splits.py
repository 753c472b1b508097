"""One split of a dataset directory: opened, checked, and read record by record."""

import bisect
import dataclasses
import hashlib
import itertools
import json
import resource
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from array_record.python.array_record_module import ArrayRecordReader

from i21k.data.format.manifest import MANIFEST, read_manifest
from i21k.data.format.records import decode_example, file_name_of
from i21k.data.format.shards import READER_OPTIONS, read_records
from i21k.data.format.tfds import INFO, LABELS, read_features, read_info
from i21k.errors import UserError
from i21k.labels import ClassList

SPARE_FILES = 1024  # for everything else: libraries, devices, sockets, a second set of readers that is just being closed; chosen here


@dataclasses.dataclass(frozen=True)
class Split:
    """One split on disk, checked as far as that is possible without opening its shards."""

    directory: Path
    split: str
    shard_paths: tuple[Path, ...]
    shard_counts: tuple[int, ...]  # records in each shard; may be 0
    num_records: int
    num_bytes: int  # of all shards
    classes: ClassList
    fingerprint: str  # SHA-256 (hex) of the content; the same wherever the directory lies


def split_names(directory: str | Path) -> tuple[str, ...]:
    """Return the names of the splits in a dataset directory, sorted.

    Raises:
        ValueError: if it is not a TFDS dataset in ArrayRecord files.
    """
    return tuple(sorted(read_info(Path(directory)).splits))


def open_split(directory: str | Path, split: str) -> Split:
    """Find the shards of `split` in a directory that `i21k pack` or TFDS made, with features `image` and `label`.

    Raises:
        ValueError: if there is no such dataset or split, a shard is missing or has another size than the manifest says, or the
            features are not those of labelled pictures.
    """
    directory = Path(directory)
    info = read_info(directory)
    if split not in info.splits:
        raise UserError(
            f"{directory} has no split {split!r}; expected one of {', '.join(sorted(info.splits))}, or pack it with --split {split}"
        )
    classes, features = read_features(directory)
    manifest = read_manifest(directory)
    if manifest is not None and split in manifest.splits:
        if manifest.class_list_hash != classes.hash:
            raise UserError(
                f"{directory / LABELS} has another class list than {MANIFEST} beside it; restore it or pack the directory again"
            )
        shards = manifest.splits[split].shards
        files, counts = [shard.file for shard in shards], [shard.num_records for shard in shards]
        num_bytes = _check_files(directory, split, files, [shard.num_bytes for shard in shards])
        content = {
            "counts": counts,
            "sha256": [shard.sha256 for shard in shards],
            "classes": classes.hash,
        }
    else:
        files, counts = info.shard_files(split), list(info.splits[split].shard_counts)
        num_bytes = _check_files(directory, split, files, None)
        content = {
            "split": split,
            "counts": counts,
            "bytes": num_bytes,
            "features": features,
            "classes": classes.hash,
        }
    return Split(
        directory=directory,
        split=split,
        shard_paths=tuple(directory / file for file in files),
        shard_counts=tuple(counts),
        num_records=sum(counts),
        num_bytes=sum(num_bytes),
        classes=classes,
        fingerprint=hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest(),
    )


def allow_open_files(num_shards: int) -> None:
    """Raise this process's limit on open files so far that it, and the workers it starts, can hold every shard open.

    Raises:
        ValueError: if the system does not allow so many.
    """
    needed = num_shards + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise UserError(
            f"{num_shards:,} shards need {needed:,} open files, but this process may open {hard:,}; raise the hard limit"
            " (ulimit -Hn, LimitNOFILE= of systemd, --ulimit nofile= of Docker), or pack with a smaller --num-shards"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


class RecordReader:
    """Reads single records by number, from shards that are opened when one of their records is asked for. For any number of threads."""

    def __init__(self, split: Split) -> None:
        self._split, self._ends = split, list(itertools.accumulate(split.shard_counts))
        self._readers: list[ArrayRecordReader | None] = [None] * len(self._ends)
        self._opening = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return RecordReader, (self._split,)  # in another process nothing is open yet

    def __getitem__(self, number: int) -> bytes:
        """Return a record of the split.

        Raises:
            ValueError: if it cannot be read.
        """
        shard, place = self.find(number)
        try:
            record = self._reader(shard).read([place])[0]
        except (RuntimeError, ValueError, IndexError) as error:
            raise UserError(f"it cannot be read ({error})") from error
        if not record:  # what ArrayRecord makes of a shard that was cut off
            raise UserError(
                "it cannot be read (nothing is there: the shard is damaged or was replaced)"
            )
        return record

    def find(self, number: int) -> tuple[int, int]:
        """Return in which shard a record of the split lies, and the how many-th of it."""
        shard = bisect.bisect_right(self._ends, number)
        return shard, number - (self._ends[shard - 1] if shard else 0)

    def _reader(self, shard: int) -> ArrayRecordReader:
        if (reader := self._readers[shard]) is None:
            with self._opening:
                if (reader := self._readers[shard]) is None:
                    path = str(self._split.shard_paths[shard])
                    reader = self._readers[shard] = ArrayRecordReader(
                        path, READER_OPTIONS, file_reader_buffer_size=2**15
                    )
        return reader


class RunReader:
    """Reads neighbouring records with one request to the disk for each shard they lie in. For one thread.

    By their numbers, as a source of single records reads, they would be fetched by many threads at once, and from a cold disk in three
    times their bytes.
    """

    def __init__(self, split: Split, max_request_bytes: int) -> None:
        self._paths, self._ends = split.shard_paths, list(itertools.accumulate(split.shard_counts))
        self._options = f"readahead_buffer_size:{max_request_bytes},max_parallelism:1"
        self._readers: dict[int, ArrayRecordReader] = {}

    def read(self, first: int, end: int) -> list[bytes]:
        """Return the records `first` to `end - 1` of the split.

        Raises:
            ValueError: if one of them cannot be read.
        """
        records: list[bytes] = []
        while first < end:
            shard = bisect.bisect_right(self._ends, first)
            start, stop = self._ends[shard - 1] if shard else 0, min(end, self._ends[shard])
            try:
                if shard not in self._readers:
                    self._readers[shard] = ArrayRecordReader(
                        str(self._paths[shard]), self._options, file_reader_buffer_size=2**15
                    )
                records += self._readers[shard].read(first - start, stop - start)
            except (RuntimeError, ValueError, IndexError) as error:
                self._readers.pop(shard, None)  # a reader that failed stays so
                raise UserError(
                    f"records {first - start} to {stop - start - 1} of {self._paths[shard]} cannot be read ({error})"
                ) from error
            first = stop
        return records


def _check_files(
    directory: Path, split: str, files: list[str], expected_bytes: list[int] | None
) -> list[int]:
    """Return the size of each file; ArrayRecord opens missing, empty and truncated files as if they had no records."""
    sizes = []
    for k, file in enumerate(files):
        try:
            sizes.append((directory / file).stat().st_size)
        except OSError as error:
            num_there = sum((directory / f).is_file() for f in files)
            raise UserError(
                f"{directory / file} is missing: {num_there} of the {len(files)} shards of split {split!r} are there; expected "
                f"{len(files)} shards as {MANIFEST if expected_bytes else INFO} says; copy it again or pack the split again"
            ) from error
        expected = f"{expected_bytes[k]} bytes" if expected_bytes else "at least one byte"
        if sizes[k] != expected_bytes[k] if expected_bytes else sizes[k] == 0:
            raise UserError(
                f"{directory / file} has {sizes[k]} bytes; expected {expected}; it is damaged: copy it again or pack the split again"
            )
    return sizes


def file_names_in(split: Split) -> Iterator[str]:
    """Yield the `file_name` of each record of a split, in their order; empty where it has none. Reads the whole split.

    Raises:
        ValueError: if a record is damaged.
    """
    return map(file_name_of, _all_records(split))


def labels_in(split: Split) -> Iterator[int]:
    """Yield the label of each record of a split, in their order. Reads the whole split.

    Raises:
        ValueError: if a record is damaged.
    """
    return (decode_example(record)[1] for record in _all_records(split))


def _all_records(split: Split) -> Iterator[bytes]:
    for path, num_records in zip(split.shard_paths, split.shard_counts, strict=True):
        for index, record in read_records(path, range(num_records)):
            if isinstance(record, ValueError):
                raise UserError(
                    f"record {index} of {path} cannot be read ({record}); copy it again or pack the split again"
                )
            yield record
