"""A packed split as a sequence of images and labels, for notebooks; training reads it otherwise."""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, overload

from PIL import Image

from i21k.data.format.readers import RecordReader, allow_open_files
from i21k.data.format.records import decode_example, file_name_of
from i21k.data.format.splits import open_split
from i21k.data.format.tfds import read_classes
from i21k.errors import UserError
from i21k.labels import ClassList
from i21k.wordnet import class_lists


class Example(NamedTuple):
    """One image of a dataset and its label."""

    image: Image.Image  # RGB
    label: int  # position of its class in the class list


class Dataset(Sequence[Example]):
    """A packed split: images and labels by number, in the order in which they are stored.

    Reading needs no `with`: shards are opened when they are needed and closed with the process. It
    may be read by several threads.
    """

    def __init__(self, directory: str | Path, split: str = "train") -> None:
        """Open a split. Use `open_dataset`.

        Raises:
            UserError: if there is no such split, or a shard is missing or damaged.
        """
        self._split = open_split(directory, split)
        allow_open_files(len(self._split.shard_paths))
        self._reader = RecordReader(self._split)
        self.directory, self.split = Path(directory), split
        self.classes: ClassList = self._split.classes

    def __repr__(self) -> str:
        return (
            f"Dataset({str(self.directory)!r}, {self.split!r}: {len(self):,} images of "
            f"{len(self.classes):,} classes)"
        )

    def __len__(self) -> int:
        return self._split.num_records

    @overload
    def __getitem__(self, number: int) -> Example: ...
    @overload
    def __getitem__(self, number: slice) -> list[Example]: ...
    def __getitem__(self, number: int | slice) -> Example | list[Example]:
        if isinstance(number, slice):
            return [self[n] for n in range(*number.indices(len(self)))]
        jpeg, label = decode_example(self._record(number))
        return Example(Image.open(io.BytesIO(jpeg)).convert("RGB"), label)

    def __iter__(self) -> Iterator[Example]:
        for number in range(len(self)):
            yield self[number]

    def jpeg(self, number: int) -> bytes:
        """Return an image as it is stored."""
        return decode_example(self._record(number))[0]

    def label(self, number: int) -> int:
        """Return a label without decoding the image."""
        return decode_example(self._record(number))[1]

    def file_name(self, number: int) -> str:
        """Return the name that the image had in the source; empty where that is not known."""
        return file_name_of(self._record(number))

    def _record(self, number: int) -> bytes:
        at = number + len(self) if number < 0 else number
        if not 0 <= at < len(self):
            raise IndexError(f"{number} is not the number of an image; there are {len(self)}")
        try:
            return self._reader[at]
        except UserError as error:
            raise UserError(
                f"image {at} of split {self.split!r} of {self.directory}: {error}"
            ) from error


def open_dataset(directory: str | Path, split: str = "train") -> Dataset:
    """Open a packed split as a sequence of images and labels.

    >>> import i21k
    >>> dataset = i21k.open_dataset("data/quickstart", "val")
    >>> len(dataset), len(dataset.classes)
    (21, 4)
    >>> image, label = dataset[0]
    >>> image.size, dataset.classes.ids[label]
    ((48, 40), 'n01440764')
    >>> sum(label == 0 for image, label in dataset)
    6

    Args:
        directory: a packed directory, or another TFDS dataset of labelled images.
        split: its name.

    Raises:
        UserError: if there is no such dataset or split, or a shard is missing or damaged.
    """
    return Dataset(directory, split)


def class_list(name_or_path: str | Path) -> ClassList:
    """Return a class list: a known one by its name, that of a file, or that of a dataset.

    >>> import i21k
    >>> len(i21k.class_list("fall11"))
    21841
    >>> i21k.class_list("data/quickstart").ids[:2]
    ('n01440764', 'n01443537')

    Args:
        name_or_path: a name such as `fall11` or `ilsvrc2012`, a text file with one class id a
            line, or the directory of a dataset.

    Raises:
        UserError: if there is no such name or file.
    """
    path = Path(name_or_path)
    if str(name_or_path) in class_lists.NAMES or not path.exists():
        return class_lists.named(str(name_or_path))
    return read_classes(path) if path.is_dir() else ClassList.read(path)
