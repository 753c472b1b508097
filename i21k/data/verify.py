"""Check whether a dataset directory is what its manifest says. Nothing is repaired or written.

The work is cut into ranges of records, so that one large shard keeps all workers busy. To find
images that are in two splits, 8 bytes of each image are kept: the first of the SHA-256 of its
encoded bytes. They are sorted and intersected at the end. This uses 16 bytes per image at its peak:
230 MB for 14.2 million. The probability that two different images agree is 4e-8.
"""

import collections
import contextlib
import dataclasses
import functools
import hashlib
import itertools
import math
import re
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from i21k import workers
from i21k.data.format import shards
from i21k.data.format.manifest import MANIFEST, Manifest, read_manifest
from i21k.data.format.records import decode_example, file_name_of
from i21k.data.format.tfds import Listing, list_shards, read_classes
from i21k.data.pack.pack import Progress
from i21k.errors import UserError
from i21k.files import hash_file
from i21k.images.decode import decode, read_size
from i21k.labels import ClassList
from i21k.machine import num_cpus

SAMPLE = 1000  # images per split that are decoded by default: seconds of work; our choice
# Faults of one kind and file that are named. The others are counted, to limit memory.
MAX_NAMED = 100
_RANGE_RECORDS = 1024  # smallest range: 30 MB of images, 8 KB of results
_MAX_RANGES = 64  # per file: each opens it, which reads its index (2 ms for 50,000 records)
_SEED = 0  # of the sample
_WNID = re.compile(r"n\d{8}(?=_)")

Kind = Literal[
    "class list",
    "metadata",
    "missing",
    "size",
    "hash",
    "count",
    "unreadable",
    "label",
    "class",
    "decode",
    "content",
]


@dataclasses.dataclass(frozen=True)
class Fault:
    """One thing that is not as it should be.

    Args:
        file: in the directory.
        record: its number in the file, from 0; None if the fault is of the whole file.
        name: the `file_name` of the record, if it has one.
        kind: what was checked.
        found: what is there.
        expected: what should be there.
    """

    file: str
    record: int | None
    name: str
    kind: Kind
    found: str
    expected: str

    def __str__(self) -> str:
        where = (
            self.file
            if self.record is None
            else f"{self.file}, record {self.record}" + (f" ({self.name})" if self.name else "")
        )
        return f"{where}: {self.kind}: {self.found}; expected {self.expected}"


@dataclasses.dataclass(frozen=True)
class SplitReport:
    """What was looked at in one split; bytes are those of the shards that are there."""

    num_shards: int
    num_records: int
    num_bytes: int
    num_decoded: int
    num_named: int  # records whose file name tells the class, which was compared with the label


@dataclasses.dataclass(frozen=True)
class VerifyReport:
    """What was checked, and what is wrong. Of each kind and file the first `MAX_NAMED` faults are
    in `faults`, all in `num_faults`."""

    directory: str
    name: str
    has_manifest: bool  # without one sizes, hashes and the class list cannot be checked
    splits: dict[str, SplitReport]
    compared: tuple[
        str, ...
    ]  # splits among which no content may stand twice; empty if fewer than two were looked at
    faults: tuple[Fault, ...]
    num_faults: dict[str, int]  # by kind
    empty_classes: tuple[str, ...]  # without images in the splits that were looked at; no fault
    seconds: float


def verify(
    directory: str | Path,
    split: str | None = None,
    sample: int | None = SAMPLE,
    num_workers: int | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> VerifyReport:
    """Read every record of a dataset and check it against the manifest, the class list and the
    other splits.

    Args:
        directory: one that `i21k pack` or TFDS made; of the latter less is known that could be
            checked.
        split: the only one to look at; by default all.
        sample: number of images per split to decode strictly, always the same ones; None
            decodes all.
        num_workers: processes; 1 means this one, None one per CPU.
        on_progress: called once per range of some thousand records.

    Raises:
        ValueError: if there is no dataset or split, its JSON cannot be read, or an argument does
            not do.
    """
    started = time.monotonic()
    directory = Path(directory)
    for what, value, least in (("workers", num_workers, 1), ("sample", sample, 0)):
        if value is not None and value < least:
            raise UserError(f"{what} is {value}; expected at least {least}; change --{what}")
    listing, manifest = list_shards(directory), read_manifest(directory)
    found = _Faults()
    files = _expected_files(listing, manifest, split, directory, found)
    classes, names_tell = _check_classes(directory, manifest, found)
    totals = {name: _Total() for name in dict.fromkeys(file.split for file in files)}
    _check_other_files(directory, manifest, found)
    present = _check_presence(directory, files, totals, found)
    digests: dict[str, list[np.ndarray]] = {name: [] for name in totals} if len(totals) > 1 else {}
    places: dict[str, list[_Part]] = collections.defaultdict(list)
    total_bytes = sum(total.num_bytes for total in totals.values())
    num_bytes = num_records = 0
    labels: set[int] = set()
    check = functools.partial(
        _check, classes=classes, names_tell=names_tell, keep_digests=bool(digests)
    )
    of_sha256 = {file.sha256: file.file for file in files}
    answers = workers.ordered_map(
        check, _parts(directory, present, sample, found), num_workers or num_cpus()
    )
    with contextlib.closing(answers):
        for answer in answers:
            part, total = answer.part, totals[answer.part.split]
            found.extend(answer.faults)
            if answer.sha256 is not None and answer.sha256 != part.sha256:
                other = of_sha256.get(answer.sha256)
                what = f"the content of {other}" if other else f"SHA-256 {answer.sha256}"
                found.add(Fault(part.file, None, "", "hash", what, f"SHA-256 {part.sha256}"))
            total.num_records += part.stop - part.start
            total.num_decoded += answer.num_decoded
            total.num_named += answer.num_named
            labels |= answer.labels
            if answer.digests is not None and len(answer.digests):
                digests[part.split].append(answer.digests)
                places[part.split].append(dataclasses.replace(part, sample=()))
            num_bytes += part.num_bytes
            num_records += part.stop - part.start
            on_progress(Progress("reading", num_bytes, total_bytes, num_records))
    _compare_splits(directory, digests, places, found)
    empty = [c for label, c in enumerate(classes.ids) if label not in labels] if classes else []
    return VerifyReport(
        directory=str(directory),
        name=manifest.name if manifest else listing.name,
        has_manifest=manifest is not None,
        splits={name: SplitReport(**dataclasses.asdict(total)) for name, total in totals.items()},
        compared=tuple(digests),
        faults=tuple(
            sorted(
                found.named,
                key=lambda fault: (fault.file, -1 if fault.record is None else fault.record),
            )
        ),
        num_faults=found.totals(),
        empty_classes=tuple(empty),
        seconds=time.monotonic() - started,
    )


# --------------------------------------------------------------------------------------------------


class _Faults:
    """Faults as they are found, of which only so many are kept."""

    def __init__(self) -> None:
        self.named: list[Fault] = []
        self._counts: collections.Counter[tuple[str, Kind]] = collections.Counter()

    def count(self, file: str, kind: Kind) -> bool:
        """Count a fault and return whether it is to be named."""
        self._counts[file, kind] += 1
        return self._counts[file, kind] <= MAX_NAMED

    def add(self, fault: Fault) -> None:
        if self.count(fault.file, fault.kind):
            self.named.append(fault)

    def extend(self, faults: list[Fault]) -> None:
        for fault in faults:
            self.add(fault)

    def totals(self) -> dict[str, int]:
        totals: collections.Counter[str] = collections.Counter()
        for (_, kind), count in self._counts.items():
            totals[kind] += count
        return dict(totals)


@dataclasses.dataclass
class _Total:
    num_shards: int = 0
    num_records: int = 0
    num_bytes: int = 0
    num_decoded: int = 0
    num_named: int = 0


@dataclasses.dataclass(frozen=True)
class _File:
    """A shard as it should be; what no manifest tells is None."""

    split: str
    file: str
    num_records: int
    num_bytes: int | None
    sha256: str | None


def _expected_files(
    listing: Listing, manifest: Manifest | None, split: str | None, directory: Path, found: _Faults
) -> list[_File]:
    """List the shards of the wanted splits, and compare the two files that tell of them: TFDS reads
    the one, we the other."""
    of_manifest = manifest.splits if manifest else {}
    names = sorted(listing.splits.keys() | of_manifest.keys())
    if split is not None and split not in names:
        raise UserError(
            f"{directory} has no split {split!r}; expected one of {', '.join(names)}; change "
            f"--split"
        )
    files = []
    for name in names if split is None else (split,):
        if name not in of_manifest:
            files += [_File(name, file, count, None, None) for file, count in listing.splits[name]]
            continue
        entry = of_manifest[name]
        files += [
            _File(name, shard.file, shard.num_records, shard.num_bytes, shard.sha256)
            for shard in entry.shards
        ]
        listed, packed = (
            listing.splits.get(name, ()),
            tuple((shard.file, shard.num_records) for shard in entry.shards),
        )
        if listed != packed:
            num_listed = sum(count for _, count in listed)
            of_listed = f"{num_listed:,} records in {len(listed):,} shards of split {name!r}"
            of_packed = f"{entry.num_records:,} in {len(packed):,} as {MANIFEST} says"
            of_packed += ", shard by shard and under the same file names"
            found.add(Fault("dataset_info.json", None, "", "metadata", of_listed, of_packed))
    return files


def _check_classes(
    directory: Path, manifest: Manifest | None, found: _Faults
) -> tuple[ClassList | None, bool]:
    """Return the class list if it can be read, and whether file names may be judged by it."""
    try:
        classes = read_classes(directory)
    except ValueError as error:
        found.add(
            Fault(
                "label.labels.txt",
                None,
                "",
                "class list",
                str(error),
                "the class list of the dataset",
            )
        )
        return None, False
    if manifest is None or manifest.class_list_hash == classes.hash:
        return classes, True
    what = f"{len(classes):,} classes with hash {classes.hash}"
    found.add(
        Fault(
            "label.labels.txt",
            None,
            "",
            "class list",
            what,
            f"hash {manifest.class_list_hash} as {MANIFEST} says",
        )
    )
    return classes, False


def _check_other_files(directory: Path, manifest: Manifest | None, found: _Faults) -> None:
    """Compare metadata and tables with their hashes, unless more than that is known to be wrong
    with them."""
    named = {fault.file for fault in found.named}
    for file, sha256 in manifest.files.items() if manifest else ():
        if file in named:
            continue
        expected = f"SHA-256 {sha256} as {MANIFEST} says"
        try:
            if (actual := hash_file(directory / file)) != sha256:
                found.add(Fault(file, None, "", "hash", f"SHA-256 {actual}", expected))
        except FileNotFoundError:
            found.add(Fault(file, None, "", "missing", "no such file", expected))
        except OSError as error:
            found.add(Fault(file, None, "", "unreadable", error.strerror or str(error), expected))


def _check_presence(
    directory: Path, files: list[_File], totals: dict[str, _Total], found: _Faults
) -> list[tuple[_File, int]]:
    """Return the files that are there, each with its size."""
    present = []
    for file in files:
        try:
            num_bytes = (directory / file.file).stat().st_size
        except OSError as error:
            found.add(
                Fault(
                    file.file,
                    None,
                    "",
                    "missing",
                    error.strerror or str(error),
                    f"a shard of {file.num_records:,} records",
                )
            )
            continue
        totals[file.split].num_shards += 1
        totals[file.split].num_bytes += num_bytes
        if file.num_bytes is not None and num_bytes != file.num_bytes:
            found.add(
                Fault(
                    file.file, None, "", "size", f"{num_bytes:,} bytes", f"{file.num_bytes:,} bytes"
                )
            )
        present.append((file, num_bytes))
    return present


@dataclasses.dataclass(frozen=True)
class _Part:
    """A range of records of a shard for a worker; with the first goes the hash of the whole file,
    if one is known."""

    path: Path
    split: str
    file: str
    start: int
    stop: int
    num_bytes: int  # its share of the file, for the progress
    sha256: str | None
    sample: tuple[int, ...] | None  # records to decode; None means all


def _parts(
    directory: Path, present: list[tuple[_File, int]], sample: int | None, found: _Faults
) -> Iterator[_Part]:
    """Cut the files into ranges of the records that they really have."""
    samples: dict[str, np.ndarray] = {}
    if sample is not None:
        for split in dict.fromkeys(file.split for file, _ in present):
            num_records = sum(file.num_records for file, _ in present if file.split == split)
            chosen = np.random.default_rng(_SEED).choice(
                num_records, min(sample, num_records), replace=False
            )
            samples[split] = np.sort(chosen)  # numbers among the records of the split
    first: collections.Counter[str] = collections.Counter()
    for file, num_bytes in present:
        path = directory / file.file
        count = shards.count_records(path)
        if count is None:
            found.add(
                Fault(
                    file.file,
                    None,
                    "",
                    "unreadable",
                    "no ArrayRecord file, or a truncated one",
                    f"{file.num_records:,} records",
                )
            )
        elif count != file.num_records:
            found.add(
                Fault(file.file, None, "", "count", f"{count:,} records", f"{file.num_records:,}")
            )
        count = count or 0
        num_in_range = max(_RANGE_RECORDS, math.ceil(count / _MAX_RANGES))
        for start in range(0, max(count, 1), num_in_range):
            stop = min(start + num_in_range, count)
            to_decode = None
            if sample is not None:
                among = samples[file.split] - first[file.split]
                to_decode = tuple(
                    among[
                        np.searchsorted(among, start) : np.searchsorted(
                            among, min(stop, file.num_records)
                        )
                    ].tolist()
                )
            share = (
                num_bytes * stop // max(count, 1) - num_bytes * start // max(count, 1)
                if count
                else num_bytes
            )
            yield _Part(
                path,
                file.split,
                file.file,
                start,
                stop,
                share,
                None if start else file.sha256,
                to_decode,
            )
        first[file.split] += file.num_records


# --------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Answer:
    part: _Part
    faults: list[Fault]
    sha256: str | None
    num_decoded: int
    num_named: int
    labels: frozenset[int]
    digests: np.ndarray | None  # uint64 [records]; 0 where a record holds no image


def _check(part: _Part, classes: ClassList | None, names_tell: bool, keep_digests: bool) -> _Answer:
    """Check a range of records, one in memory at a time."""
    faults: list[Fault] = []
    sha256 = None
    if part.sha256 is not None:
        try:
            sha256 = hash_file(part.path)
        # a bad sector, no permission: this file's fault, and the others are still to be checked
        except OSError as error:
            faults.append(
                Fault(
                    part.file,
                    None,
                    "",
                    "unreadable",
                    error.strerror or str(error),
                    f"SHA-256 {part.sha256}",
                )
            )
    digests = np.zeros(part.stop - part.start, np.uint64) if keep_digests else None
    to_decode = None if part.sample is None else set(part.sample)
    num_decoded = num_named = 0
    labels = set[int]()
    for index, record in shards.read_records(part.path, range(part.start, part.stop)):
        if isinstance(record, ValueError):
            faults.append(
                Fault(part.file, index, "", "unreadable", str(record), "an undamaged record")
            )
            continue
        name = file_name_of(record)
        fault = functools.partial(Fault, part.file, index, name)
        try:
            image, label = decode_example(record)
        except ValueError as error:
            faults.append(fault("unreadable", str(error), "an image with a label"))
            continue
        labels.add(label)
        if digests is not None:
            digests[index - part.start] = (
                int.from_bytes(hashlib.sha256(image).digest()[:8], "big") or 1
            )
        if classes is not None and not 0 <= label < len(classes):
            faults.append(fault("label", f"label {label}", f"0 to {len(classes) - 1}"))
        elif classes is not None and names_tell and (class_id := class_of(name, classes)):
            num_named += 1
            if classes.ids[label] != class_id:
                faults.append(
                    fault(
                        "class",
                        f"label {label} ({classes.ids[label]})",
                        f"label {classes.label_of[class_id]} ({class_id})",
                    )
                )
        if to_decode is None or index in to_decode:
            num_decoded += 1
            if reason := why_undecodable(image):
                faults.append(fault("decode", reason, "an image that decodes completely"))
    return _Answer(part, faults, sha256, num_decoded, num_named, frozenset(labels), digests)


def class_of(file_name: str, classes: ClassList) -> str | None:
    """Return the class that a file name tells: its folder, or the synset at the beginning; None
    where neither is one of `classes`."""
    folder, slash, _ = file_name.partition("/")
    if slash and folder in classes.label_of:
        return folder
    match = _WNID.match(file_name.rpartition("/")[2])
    return match.group() if match and match.group() in classes.label_of else None


def why_undecodable(image: bytes) -> str:
    """Decode strictly, so that an image that ends early fails too. Return what is wrong, or
    nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of odd metadata
        try:
            decode(
                image, *read_size(image)
            )  # as the loader does; half a JPEG, PNG, GIF, BMP or WebP raises
        except Exception as error:  # whatever a decoder raises is the fault of this image
            return str(error) or type(error).__name__
    return ""


# --------------------------------------------------------------------------------------------------


def _compare_splits(
    directory: Path,
    digests: dict[str, list[np.ndarray]],
    places: dict[str, list[_Part]],
    found: _Faults,
) -> None:
    """Find images that are in two splits, and name them in the smaller one."""
    joined = {
        split: np.concatenate([np.zeros(0, np.uint64), *chunks])
        for split, chunks in digests.items()
    }
    for array in joined.values():
        array.sort()
    for one, other in itertools.combinations(
        sorted(joined, key=lambda split: len(joined[split])), 2
    ):
        small, large = joined[one], joined[other]
        if not len(small):
            continue
        at = np.searchsorted(large, small).clip(max=len(large) - 1)
        common = np.unique(small[(large[at] == small) & (small != 0)])
        twins = np.full(
            (len(common), 2), -1, np.int64
        )  # where each of them stands first in the larger split: part, number
        for k, number, which in _matches(digests[other], common):
            if twins[which, 0] < 0:
                twins[which] = k, number
        for k, number, which in _matches(digests[one], common):
            part = places[one][k]
            if found.count(part.file, "content"):
                twin, record = places[other][twins[which, 0]], part.start + number
                twin_record = twin.start + int(twins[which, 1])
                twin_name = _name(directory, twin.file, twin_record)
                same = f"the image of {twin.file}, record {twin_record}" + (
                    f" ({twin_name})" if twin_name else ""
                )
                name = _name(directory, part.file, record)
                found.named.append(
                    Fault(
                        part.file,
                        record,
                        name,
                        "content",
                        same,
                        f"one that is not in split {other!r}",
                    )
                )


def _matches(chunks: list[np.ndarray], common: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Yield each record whose digest is in `common` (sorted): which chunk, its number in the chunk,
    which of `common`."""
    for k, chunk in enumerate(chunks if len(common) else ()):
        at = np.searchsorted(common, chunk).clip(max=len(common) - 1)
        for number in np.flatnonzero(common[at] == chunk).tolist():
            yield k, number, int(at[number])


def _name(directory: Path, file: str, index: int) -> str:
    ((_, record),) = shards.read_records(directory / file, (index,))
    return file_name_of(record) if isinstance(record, bytes) else ""
