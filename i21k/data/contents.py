"""What the records of a dataset hold: images of each class, sizes of images, damaged records."""

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from i21k.data.format import shards
from i21k.data.format.records import decode_example
from i21k.data.format.splits import Split, open_split, split_names
from i21k.images.decode import read_size
from i21k.labels import ClassList

MOST_READ_BYTES = 1_000_000_000  # our choice: what is read unasked, which takes seconds
NUM_SAMPLED = 2_000  # our choice: images of a larger split whose sizes are looked at
_WIDE = 20  # our choice: a larger ratio of the largest to the smallest class has uneven bins


@dataclasses.dataclass(frozen=True)
class Contents:
    """The records of a split."""

    classes: ClassList
    num_read: int
    num_damaged: int  # of these; they have no class and no size
    counts: Int[np.ndarray, " K"] | None  # images of each class; None if not all were read
    sizes: Int[np.ndarray, "N 2"]  # width and height in pixels of the images that were read


class Bin(NamedTuple):
    """Classes that have from `low` to `high` images."""

    low: int
    high: int
    num_classes: int


def read_contents(directory: str | Path, everything: bool = False) -> dict[str, Contents]:
    """Read the records of each split, or a sample of them.

    Args:
        directory: packed directory, or another TFDS dataset.
        everything: read all records. By default a dataset of more than `MOST_READ_BYTES` is only
            sampled, and the images of its classes are not counted.

    Raises:
        UserError: if there is no dataset, or a shard is missing.
    """
    splits = [open_split(directory, name) for name in split_names(Path(directory))]
    total = sum(path.stat().st_size for split in splits for path in split.shard_paths)
    whole = everything or total <= MOST_READ_BYTES
    return {split.split: _read(split, whole) for split in splits}


def _read(split: Split, whole: bool) -> Contents:
    counts = np.zeros(len(split.classes), int)
    sizes: list[tuple[int, int]] = []
    num_read = num_damaged = 0
    stride = 1 if whole else max(1, split.num_records // NUM_SAMPLED)
    start = 0
    for path, count in zip(split.shard_paths, split.shard_counts, strict=True):
        chosen = range(-start % stride, count, stride)
        start += count
        for _, record in shards.read_records(path, chosen):
            num_read += 1
            try:
                if isinstance(record, ValueError):
                    raise record
                image, label = decode_example(record)
                height, width = read_size(image)
            except ValueError:
                num_damaged += 1
                continue
            if 0 <= label < len(counts):
                counts[label] += 1
            sizes.append((width, height))
    return Contents(
        classes=split.classes,
        num_read=num_read,
        num_damaged=num_damaged,
        counts=counts if whole else None,
        sizes=np.array(sizes, int).reshape(-1, 2),
    )


def histogram(counts: Sequence[int] | Int[np.ndarray, " K"]) -> list[Bin]:
    """Return how many classes have how many images. Classes without images have a bin of their own.

    Bins are equally wide, or, if the largest class is many times the smallest, 1-2-5 of each
    decade.
    """
    counts = np.asarray(counts)
    found = [Bin(0, 0, int((counts == 0).sum()))] if (counts == 0).any() else []
    used = counts[counts > 0]
    if not len(used):
        return found
    low, high = int(used.min()), int(used.max())
    if high >= _WIDE * low:
        edges = [m * 10**e for e in range(len(str(high)) + 1) for m in (1, 2, 5)]
        edges = [edge for edge in edges if edge <= high] + [high + 1]
        edges = edges[max(n for n, edge in enumerate(edges) if edge <= low) :]
    else:
        step = max(1, -(-(high - low + 1) // 8))
        edges = [*range(low, high + 1, step), high + 1]
    for first, end in itertools.pairwise(edges):
        found.append(Bin(first, end - 1, int(((used >= first) & (used < end)).sum())))
    return found


def class_facts(counts: Int[np.ndarray, " K"]) -> dict[str, float]:
    """Return number of classes with images, and least, most and median images of those."""
    used = counts[counts > 0]
    if not len(used):
        return {"classes": 0, "least": 0, "most": 0, "median": 0}
    return {
        "classes": len(used),
        "least": int(used.min()),
        "most": int(used.max()),
        "median": float(np.median(used)),
    }
