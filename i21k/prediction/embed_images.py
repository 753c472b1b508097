"""The images whose features are computed: files and folders, or the records of a packed split."""

import collections
import functools
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from i21k.data.format.readers import RecordReader, allow_open_files
from i21k.data.format.records import file_name_of
from i21k.data.format.splits import Split
from i21k.data.load import loader
from i21k.errors import UserError
from i21k.labels import ClassList
from i21k.machine import num_cpus
from i21k.prediction.image_files import find_files
from i21k.trained.preprocessing import Preprocessing, prepare_files, prepare_or_fault
from i21k.workers import ordered_map

_READ_SIZE = 64  # images that are read together, our choice; other values change no result


class Part(NamedTuple):
    """Images that were read together, as the network takes them."""

    rows: list[int]  # numbers of the images
    images: UInt8[np.ndarray, "n S S 3"]
    names: list[str]
    labels: list[int]
    faults: list[str]
    stop: int  # number of the image after the last one


@runtime_checkable
class Images(Protocol):
    """Where images come from, in a fixed order."""

    num: int
    classes: ClassList | None
    about: dict[str, Any]

    def fingerprint(self) -> str:
        """Return a hash of all that determines the images."""

    def parts(self, preprocessing: Preprocessing, first: int, workers: int) -> Iterator[Part]:
        """Yield the images from `first` on, which is the end of an earlier part."""


class FileImages:
    """Files, and the images in folders by name."""

    def __init__(self, paths: Iterable[str | Path]) -> None:
        given = [Path(path) for path in paths]
        found = find_files(given)
        if found.faults:
            raise UserError(f"{found.faults[0]}. Correct its permissions.")
        self._paths = found.images
        self.num = len(found.images)
        if not self.num:
            raise UserError("no images are given. Give files, folders, or a packed split.")
        self.classes, self._labels = _folders_as_classes(given, found.images)
        self.about: dict[str, Any] = {"images": {"files": [str(path) for path in given]}}

    def fingerprint(self) -> str:
        """Return a hash of names, sizes and times."""
        lines = []
        for path in self._paths:
            if not path.exists():
                raise UserError(f"{path} does not exist. Give an image or a folder of images.")
            status = path.stat()
            lines.append(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n")
        return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()

    def parts(self, preprocessing: Preprocessing, first: int, workers: int) -> Iterator[Part]:
        """Yield the images from `first` on."""
        prepare = functools.partial(prepare_files, preprocessing)
        starts = range(first, self.num, _READ_SIZE)
        chunks = (self._paths[start : start + _READ_SIZE] for start in starts)
        prepared: Iterator[list[np.ndarray | str]]
        if workers:
            prepared = ordered_map(prepare, chunks, workers, always_spawn=True)
        else:
            prepared = _in_threads(preprocessing, chunks)
        for start, found in zip(starts, prepared, strict=True):
            rows = [start + k for k, one in enumerate(found) if not isinstance(one, str)]
            images = [one for one in found if not isinstance(one, str)]
            side = preprocessing.image_size
            yield Part(
                rows,
                np.stack(images) if images else np.empty((0, side, side, 3), np.uint8),
                [str(self._paths[row]) for row in rows],
                [self._labels[row] for row in rows],
                [one for one in found if isinstance(one, str)],
                start + len(found),
            )


def _in_threads(
    preprocessing: Preprocessing, chunks: Iterable[Sequence[Path]]
) -> Iterator[list[np.ndarray | str]]:
    """Prepare chunks by threads, one chunk ahead of the one that is used."""
    one = functools.partial(prepare_or_fault, preprocessing)
    with ThreadPoolExecutor(num_cpus()) as pool:
        pending: collections.deque[list[Any]] = collections.deque()
        todo = iter(chunks)
        while True:
            for chunk in itertools.islice(todo, 2 - len(pending)):
                pending.append([pool.submit(one, path) for path in chunk])
            if not pending:
                return
            yield [future.result() for future in pending.popleft()]


def _folders_as_classes(
    given: Sequence[Path], images: Sequence[Path]
) -> tuple[ClassList | None, list[int]]:
    """Return the folders below one folder as classes, if every image is in one of them."""
    if len(given) == 1 and given[0].is_dir():
        parts = [path.relative_to(given[0]).parts for path in images]
        if all(len(part) > 1 for part in parts):
            classes = ClassList.sorted(part[0] for part in parts)
            return classes, [classes.label_of[part[0]] for part in parts]
    return None, [-1] * len(images)


class SplitImages:
    """The records of a packed split, in the order in which they are stored."""

    def __init__(self, split: Split) -> None:
        self._split, self.num = split, split.num_records
        self.classes: ClassList | None = split.classes
        self.about: dict[str, Any] = {
            "images": {"directory": str(split.directory), "split": split.split}
        }

    def fingerprint(self) -> str:
        """Return the fingerprint of the split."""
        return self._split.fingerprint

    def parts(self, preprocessing: Preprocessing, first: int, workers: int) -> Iterator[Part]:
        """Yield the images from `first` on, a multiple of the size of a part."""
        assert first % _READ_SIZE == 0 or first == self.num, first
        allow_open_files(len(self._split.shard_paths))
        reader = RecordReader(self._split)  # the loader has read the same bytes just before
        size, crop_fraction = preprocessing.image_size, preprocessing.crop_fraction
        options = loader.eval_options(_READ_SIZE, size, crop_fraction, workers=workers)
        if first == self.num:
            return
        with loader.batches(self._split, options, first // _READ_SIZE) as batches:
            for batch in batches:
                num = int((batch.weights > 0).sum())
                rows = list(range(first, first + num))
                first += num
                names = [file_name_of(reader[row]) for row in rows]
                labels = batch.labels[:num].tolist()
                yield Part(rows, np.array(batch.images[:num]), names, labels, [], first)
