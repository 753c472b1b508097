"""Find images that are in two splits of a dataset."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from i21k.data.format import shards
from i21k.data.format.records import file_name_of
from i21k.data.verify.records import Range
from i21k.data.verify.report import Fault, Faults


def compare_splits(
    directory: Path,
    digests: dict[str, list[np.ndarray]],
    places: dict[str, list[Range]],
    found: Faults,
) -> None:
    """Find images that are in two splits, and name them in the smaller one."""
    joined = {
        split: np.concatenate([np.zeros(0, np.uint64), *chunks])
        for split, chunks in digests.items()
    }
    for array in joined.values():
        array.sort()
    by_size = sorted(joined, key=lambda split: len(joined[split]))
    for one, other in itertools.combinations(by_size, 2):
        small, large = joined[one], joined[other]
        if not len(small):
            continue
        at = np.searchsorted(large, small).clip(max=len(large) - 1)
        common = np.unique(small[(large[at] == small) & (small != 0)])
        # Range and number of the first record with each of them in the larger split.
        twins = np.full((len(common), 2), -1, np.int64)
        for k, number, which in _matches(digests[other], common):
            if twins[which, 0] < 0:
                twins[which] = k, number
        for k, number, which in _matches(digests[one], common):
            part = places[one][k]
            if found.count(part.file, "content"):
                twin = places[other][twins[which, 0]]
                twin_record = twin.start + int(twins[which, 1])
                same = f"the image of {twin.file}, record {twin_record}"
                if twin_name := _name(directory, twin.file, twin_record):
                    same += f" ({twin_name})"
                record = part.start + number
                name = _name(directory, part.file, record)
                expected = f"one that is not in split {other!r}"
                found.named.append(Fault(part.file, record, name, "content", same, expected))


def _matches(chunks: list[np.ndarray], common: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Yield the records whose digests are in `common`, which is sorted.

    Each is the number of a chunk, a number in the chunk, and a number in `common`.
    """
    for k, chunk in enumerate(chunks if len(common) else ()):
        at = np.searchsorted(common, chunk).clip(max=len(common) - 1)
        for number in np.flatnonzero(common[at] == chunk).tolist():
            yield k, number, int(at[number])


def _name(directory: Path, file: str, index: int) -> str:
    ((_, record),) = shards.read_records(directory / file, (index,))
    return file_name_of(record) if isinstance(record, bytes) else ""
