"""Check the records of shards, a range of records at a time."""

import collections
import dataclasses
import functools
import hashlib
import math
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from i21k.data.format import shards
from i21k.data.format.records import decode_example, file_name_of
from i21k.data.verify.files import ExpectedFile
from i21k.data.verify.report import Fault, Faults
from i21k.files import hash_file
from i21k.images.decode import decode, read_size
from i21k.labels import ClassList

_RANGE_RECORDS = 1024  # smallest range: 30 MB of images, 8 KB of results
_MAX_RANGES = 64  # per file: each opens it, which reads its index (2 ms for 50,000 records)
_SEED = 0  # of the sample
_WNID = re.compile(r"n\d{8}(?=_)")


@dataclasses.dataclass(frozen=True)
class Range:
    """A range of records of a shard, for a worker.

    The first range of a file has the hash of the whole file, if one is known.
    """

    path: Path
    split: str
    file: str
    start: int
    stop: int
    num_bytes: int  # its share of the file, for the progress
    sha256: str | None
    sample: tuple[int, ...] | None  # records to decode; None means all


def ranges(
    directory: Path, present: list[tuple[ExpectedFile, int]], sample: int | None, found: Faults
) -> Iterator[Range]:
    """Cut the files into ranges of the records that they really have.

    Args:
        directory: of the dataset.
        present: the shards that are there, with their bytes.
        sample: images per split to decode; None decodes all.
        found: where wrong numbers of records are noted.
    """
    chosen = _choose([file for file, _ in present], sample)
    first: collections.Counter[str] = collections.Counter()  # record of the file, by split
    for file, num_bytes in present:
        count = shards.count_records(directory / file.file)
        if count is None:
            what = "no ArrayRecord file, or a truncated one"
            expected = f"{file.num_records:,} records"
            found.add(Fault.of_file(file.file, "unreadable", what, expected))
        elif count != file.num_records:
            what, expected = f"{count:,} records", f"{file.num_records:,}"
            found.add(Fault.of_file(file.file, "count", what, expected))
        count = count or 0
        size = max(_RANGE_RECORDS, math.ceil(count / _MAX_RANGES))
        for start in range(0, max(count, 1), size):
            stop = min(start + size, count)
            to_decode = None
            if chosen is not None:
                among = chosen[file.split] - first[file.split]
                low, high = np.searchsorted(among, (start, min(stop, file.num_records)))
                to_decode = tuple(among[low:high].tolist())
            share = num_bytes * stop // count - num_bytes * start // count if count else num_bytes
            yield Range(
                directory / file.file,
                file.split,
                file.file,
                start,
                stop,
                share,
                None if start else file.sha256,
                to_decode,
            )
        first[file.split] += file.num_records


def _choose(files: list[ExpectedFile], sample: int | None) -> dict[str, np.ndarray] | None:
    """Choose the images to decode: by split, int64 [sample], sorted numbers among its records."""
    if sample is None:
        return None
    totals: collections.Counter[str] = collections.Counter()
    for file in files:
        totals[file.split] += file.num_records
    return {
        split: np.sort(
            np.random.default_rng(_SEED).choice(total, min(sample, total), replace=False)
        )
        for split, total in totals.items()
    }


@dataclasses.dataclass
class Answer:
    """What a worker has found in a range."""

    part: Range
    faults: list[Fault]
    digests: np.ndarray | None  # uint64 [records]; 0 where a record holds no image
    sha256: str | None = None
    num_decoded: int = 0
    num_named: int = 0
    labels: set[int] = dataclasses.field(default_factory=set)


def check_range(
    part: Range, classes: ClassList | None, names_tell: bool, keep_digests: bool
) -> Answer:
    """Check a range of records, one in memory at a time."""
    digests = np.zeros(part.stop - part.start, np.uint64) if keep_digests else None
    answer = Answer(part, [], digests)
    if part.sha256 is not None:
        try:
            answer.sha256 = hash_file(part.path)
        # a bad sector, no permission: this file's fault, and the others are still to be checked
        except OSError as error:
            what, expected = error.strerror or str(error), f"SHA-256 {part.sha256}"
            answer.faults.append(Fault.of_file(part.file, "unreadable", what, expected))
    to_decode = None if part.sample is None else set(part.sample)
    for index, record in shards.read_records(part.path, range(part.start, part.stop)):
        if isinstance(record, ValueError):
            answer.faults.append(
                Fault(part.file, index, "", "unreadable", str(record), "an undamaged record")
            )
            continue
        name = file_name_of(record)
        fault = functools.partial(Fault, part.file, index, name)
        try:
            image, label = decode_example(record)
        except ValueError as error:
            answer.faults.append(fault("unreadable", str(error), "an image with a label"))
            continue
        answer.labels.add(label)
        if digests is not None:
            digest = int.from_bytes(hashlib.sha256(image).digest()[:8], "big")
            digests[index - part.start] = digest or 1
        if classes is not None and not 0 <= label < len(classes):
            answer.faults.append(fault("label", f"label {label}", f"0 to {len(classes) - 1}"))
        elif classes is not None and names_tell and (class_id := class_of(name, classes)):
            answer.num_named += 1
            if classes.ids[label] != class_id:
                what = f"label {label} ({classes.ids[label]})"
                expected = f"label {classes.label_of[class_id]} ({class_id})"
                answer.faults.append(fault("class", what, expected))
        if to_decode is None or index in to_decode:
            answer.num_decoded += 1
            if reason := why_undecodable(image):
                answer.faults.append(fault("decode", reason, "an image that decodes completely"))
    return answer


def class_of(file_name: str, classes: ClassList) -> str | None:
    """Return the class in a file name: its folder, or the synset at the beginning.

    None if neither is one of `classes`.
    """
    folder, slash, _ = file_name.partition("/")
    if slash and folder in classes.label_of:
        return folder
    match = _WNID.match(file_name.rpartition("/")[2])
    return match.group() if match and match.group() in classes.label_of else None


def why_undecodable(image: bytes) -> str:
    """Decode strictly, so that an image that ends early fails too; return what is wrong, if any."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of odd metadata
        try:  # as the loader does; half a JPEG, PNG, GIF, BMP or WebP raises
            decode(image, *read_size(image))
        except Exception as error:  # whatever a decoder raises is the fault of this image
            return str(error) or type(error).__name__
    return ""
