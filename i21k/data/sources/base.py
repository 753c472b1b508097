"""The interface between the packer and the places where images come from: `ImageSource`.

The bytes that the packer writes depend on the names and the order that a source gives, so changing
either for an existing source changes datasets.
"""

import abc
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from i21k.errors import UserError

MAX_FILE_BYTES = 1 << 27  # our choice: no larger file is read into memory
MAX_NAME_BYTES = 4096  # of Linux: no longer path can be opened
TOO_LARGE = f"file larger than {MAX_FILE_BYTES >> 20} MiB"
IGNORED = "ignored system file"
EXPECTED = (
    "Give a tar of synset tars, a folder of synset tars, a folder of class folders, or images "
    "without class folders together with --labels. docs/packing.md lists all layouts."
)
NO_CLASS = "not in a class folder or synset tar"
NO_LABEL = "no label"
# Of macOS, notebooks, Synology, Windows and file systems, in lower case.
_IGNORED_FOLDERS = frozenset(
    {"__macosx", ".ipynb_checkpoints", "@eadir", "$recycle.bin", "lost+found"}
    | {"system volume information"}
)
_IGNORED_FILES = frozenset({".ds_store", "thumbs.db", "desktop.ini"})
NO_IMAGE_NAME = "no image by its name"
# Endings of what is found beside images. Other files are judged by their content.
# fmt: off
_NO_IMAGES = frozenset({
    "txt", "csv", "tsv", "json", "jsonl", "xml", "html", "htm", "md", "rst", "yaml", "yml",
    "log", "pdf", "py", "ipynb", "sh", "mat", "npy", "npz", "pkl", "h5", "lst", "idx", "rec",
    "tar", "tgz", "gz", "xz", "bz2", "zst", "zip", "7z", "rar", "parquet", "arrow", "cls",
})
# fmt: on


class SourceDamaged(Exception):
    """The source itself cannot be read to its end. The text says what is wrong."""


class Position(NamedTuple):
    """Where a file is in its source."""

    entry: int
    number: int  # in the entry; -1 is before the first file
    offset: int = 0  # byte of the source at which the entry begins, where a reader can seek to it

    @property
    def sequence(self) -> int:
        """One number that orders all files of a source, below 2**63."""
        return (self.entry << 32) + self.number


START = Position(0, -1)


class Extent(NamedTuple):
    """The bytes of a file inside another file, such as a member of a tar."""

    path: str
    offset: int
    size: int


class Member(NamedTuple):
    """One file of a source: its content or where that is, or the reason why it is skipped.

    A reason is a kind (`damaged image`), and after a colon the detail if there is one. Reports
    count skipped files by kind.
    """

    container: str  # the synset tar or class folder
    name: str  # path inside the container
    data: bytes = b""
    class_id: str = ""
    skipped: str = ""
    position: Position = START
    extent: Extent | None = None  # of the content, if it is not in `data`

    @property
    def num_bytes(self) -> int:
        """Size of the content."""
        return self.extent.size if self.extent else len(self.data)

    def content(self) -> bytes:
        """Return the bytes of the file.

        Raises:
            OSError: if they cannot be read.
        """
        if self.extent is None:
            return self.data
        descriptor = os.open(self.extent.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            content = os.pread(descriptor, self.extent.size, self.extent.offset)
        finally:
            os.close(descriptor)
        if len(content) != self.extent.size:
            raise OSError(f"{len(content)} of {self.extent.size} bytes")
        return content

    @property
    def file_name(self) -> str:
        """The name in the dataset, such as `n01440764/n01440764_10026.JPEG`.

        It is the same for every layout of the same images.
        """
        return f"{self.class_id}/{self.name}"


class ImageSource(abc.ABC):
    """Files with classes, in a fixed order. The packer reads every source through this class only.

    A source is a sequence of entries: synset tars, class folders, or single files. The packer can
    begin to read behind any file (`Position`), and at the beginning of any entry, so that it
    resumes after a crash and so that several machines can read one source.

    To add a source: derive from this class, set the four attributes in `__init__` with
    `super().__init__`, implement the three abstract methods, and return it for its layout in
    `recognise_file` or `recognise_folder`. Instances are pickled when several machines read, so
    they hold no open file. Override `advice` if the source knows what to do about skipped files.

    Guarantees that the packer relies on:
    - `members` gives the same files in the same order each time, whatever it starts behind.
    - A file that cannot be used is given too, with the reason in `Member.skipped`, so that every
      file is accounted for. This includes system files (`is_hidden`).
    - Memory does not grow with the number of files, except for names of what a folder holds.

    Attributes:
        path: of the source.
        layout: what was recognised, as a noun phrase for the user: `tar of 1,000 synset tars`.
        num_bytes: size on the disk.
        num_bytes_read: how many of them `members` has passed; for the progress display.
        fingerprint: hash of the names and sizes of entries or files, as far as they are seen
            without reading the images. An unfinished packing is only resumed from a source with
            the same fingerprint.
        num_files: in the source, where that is known before reading; system files count too.
        class_names: names of classes for people by class id, where the source knows them.
        splits: names of the splits that the source itself has, such as `train` and `val`. One
            `ImageSource` gives the files of one split; `recognise` returns one for each.
        described: what else decides the classes of the images, such as the hash of a table of
            labels; the manifest holds it.
    """

    splits: tuple[str, ...] = ()

    def __init__(self, path: Path, layout: str, num_bytes: int, fingerprint: str) -> None:
        self.path = path
        self.layout = layout
        self.num_bytes = num_bytes
        self.num_bytes_read = 0
        self.fingerprint = fingerprint
        self.class_names: Mapping[str, str] = {}
        self.num_files: int | None = None
        self.described: Mapping[str, Any] = {}

    @abc.abstractmethod
    def list_class_ids(self) -> tuple[str, ...] | None:
        """Return the class ids, sorted; None if they are known only after all files are read."""

    def advice(self, kinds: Mapping[str, int]) -> str:
        """Return what to do if no file of the source can be packed.

        Args:
            kinds: number of skipped files by the kind of the reason.
        """
        return "Give another source." if kinds else EXPECTED

    @abc.abstractmethod
    def entries(self) -> list[Position]:
        """Return where each entry begins, or only the first where a reader cannot seek."""

    @abc.abstractmethod
    def _entries(
        self, first: Position, stop_entry: int | None
    ) -> Iterator[tuple[int, int, Iterator[Member]]]:
        """Yield byte, number and files of each entry from that of `first` up to `stop_entry`."""

    def members(self, after: Position = START, stop_entry: int | None = None) -> Iterator[Member]:
        """Yield every file behind `after` once, up to an entry or the end, in a fixed order.

        Raises:
            UserError: if the source ends early or cannot be read. A damaged tar inside the source
                is a skipped member and raises nothing.
        """
        try:
            for offset, entry, members in self._entries(after, stop_entry):
                for number, member in enumerate(members):
                    if (position := Position(entry, number, offset)).sequence > after.sequence:
                        yield member._replace(position=position)
        except (SourceDamaged, OSError) as error:
            raise UserError(
                f"Source {self.path} ends early or is damaged ({error}). Download it again, "
                "or repair it."
            ) from error


def check_class_ids(path: Path, class_ids: Iterable[str]) -> None:
    """Refuse class ids that a class list cannot hold.

    Raises:
        UserError: naming the first of them.
    """
    for class_id in class_ids:
        if class_id != class_id.strip() or not class_id.isprintable() or "/" in class_id:
            raise UserError(
                f"Source {path} has a class {class_id!r}; expected a printable name without / "
                "and without spaces around it. Rename the folder or tar."
            )


def is_ignored(name: str) -> bool:
    """Return whether a path is a file that an operating system or a notebook server left there."""
    *folders, file = name.lower().split("/")
    return (
        file.startswith("._")
        or file in _IGNORED_FILES
        or file in _IGNORED_FOLDERS
        or not _IGNORED_FOLDERS.isdisjoint(folders)
    )


def is_hidden(name: str) -> bool:
    """Return whether a file is ignored, or is in something whose name begins with a dot.

    The path must begin in the source: images that a table lists may be below `~/.cache`.
    """
    parts = name.split("/")
    return is_ignored(name) or any(part.startswith(".") and part.strip(".") for part in parts)


def may_be_image(name: str) -> bool:
    """Return whether a file may be an image, judged by its name."""
    return name.rpartition(".")[2].lower() not in _NO_IMAGES and not is_hidden(name)


def why_no_class(name: str, reason: str) -> str:
    """Return why a file without a class is skipped.

    A file whose name is not an image's is reported as such, because users do not expect it in the
    dataset.

    Args:
        name: of the file.
        reason: for an image: `NO_CLASS` or `NO_LABEL`.
    """
    return reason if may_be_image(name) else NO_IMAGE_NAME


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return `1 tar` or `2,000 tars`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
