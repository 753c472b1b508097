"""A first look into a tar or zip: which folders hold files, before its layout is decided."""

import itertools
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from i21k.data.sources.base import SourceDamaged, is_hidden, may_be_image
from i21k.data.sources.tar_reader import Window, begins_as_tar, headers, opener, tar_stem, tidy
from i21k.data.sources.zips import is_zip, zip_files
from i21k.errors import UserError

_COMPLETE_BYTES = 1 << 30  # a compressed tar up to this size is read to its end; our choice
_LOOK_BYTES = 256 << 20  # of a larger one are decompressed; our choice
_NUM_FIRST = 32  # files that decide whether it is a tar of tars
_NUM_NAMES = 8  # that are kept of each folder; our choice
_NUM_LOOK = 1000  # files of one tar of many; our choice
_UNREAD = {
    b"\x28\xb5\x2f\xfd": ("compressed by Zstandard", "zstd -d FILE"),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", "7z x FILE"),
    b"Rar!": ("a RAR archive", "unrar x FILE"),
}


_IMAGES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"RIFF", b"II*\0", b"MM\0*")
_NO_ARCHIVES = frozenset(
    {".tfrecord", ".tfrecords", ".arrow", ".json", ".jsonl", ".npz", ".npy", ".h5", ".mat", ".pkl"}
)


class ArchiveLook(NamedTuple):
    """What an archive holds.

    Attributes:
        folders: that directly hold images, judged by their names; without any, that directly
            hold files. System files do not count.
        has_tars: whether it holds more tars than images.
        is_complete: whether all files were seen.
        names: some files of each folder.
        linked: files of a tar that hard links name.
    """

    kind: Literal["tar", "zip"]
    is_compressed: bool
    folders: list[str]
    has_tars: bool
    is_complete: bool
    names: dict[str, list[str]]
    linked: frozenset[str] = frozenset()

    def names_in(self, folder: str) -> list[str]:
        """Return some names of files directly in a folder."""
        return self.names.get(folder, [])

    def top_folders(self) -> set[str]:
        """Return the names of the folders at the top."""
        return {PurePosixPath(folder).parts[0] for folder in self.folders if folder}


def look_into(path: Path) -> ArchiveLook:
    """Look into an archive; of a damaged one return what is before the damage.

    Raises:
        UserError: if a zip is damaged.
        OSError: if it cannot be read.
    """
    if is_zip(path):
        names = [info.filename for info in zip_files(path)]
        return _look("zip", False, names, is_complete=True)
    size = path.stat().st_size
    with path.open("rb") as file:
        window = Window(file, 0, size)
        is_compressed = opener(window) is not None
        is_whole = not is_compressed or size <= _COMPLETE_BYTES
        linked = set[str]()
        found = _names(window, None if is_whole else _LOOK_BYTES, linked)
        first = list(itertools.islice(found, _NUM_FIRST))
        begin = _look("tar", is_compressed, first, is_complete=False)
        if begin.has_tars:
            return begin
        look = _look("tar", is_compressed, itertools.chain(first, found), is_complete=is_whole)
        return look._replace(linked=frozenset(linked))


def first_look(path: Path) -> ArchiveLook:
    """Look at the first files of a tar only."""
    with path.open("rb") as file:
        window = Window(file, 0, path.stat().st_size)
        is_compressed = opener(window) is not None
        names = itertools.islice(_names(window, _COMPLETE_BYTES, set()), _NUM_LOOK)
        return _look("tar", is_compressed, list(names), is_complete=False)


def magic_of(path: Path) -> bytes:
    """Return the first bytes of a file, which tell its format; nothing if they are a tar's."""
    with path.open("rb") as file:
        begin = file.read(512)
    return b"" if begins_as_tar(begin) else begin[:8]


def refuse_unread(path: Path, magic: bytes) -> None:
    """Refuse a file that nothing here reads: other archives, one image, an incomplete zip.

    Args:
        path: of the file.
        magic: what `magic_of` returns for it.

    Raises:
        UserError: naming a program that unpacks it, or what to give instead.
    """
    for begin, (kind, how) in _UNREAD.items():
        if magic.startswith(begin):
            raise UserError(f"Source {path} is {kind}, which is not read. Unpack it with `{how}`.")
    if tar_stem(path.name):  # these bytes may be the file name in a damaged header
        return
    if magic.startswith(_IMAGES):
        raise UserError(f"Source {path} is one image. Give the folder of the images.")
    if magic.startswith(b"PK") and not zipfile.is_zipfile(path):
        raise UserError(f"Source {path} is no complete zip. Download it again.")
    if path.suffix.lower() in _NO_ARCHIVES:
        raise UserError(
            f"Source {path} is a {path.suffix} file, which is not read. Write its images into "
            "class folders, a WebDataset or Parquet files."
        )


def _names(window: Window, num_bytes: int | None, linked: set[str]) -> Iterator[str]:
    """Yield the names of files, and add to `linked` those that hard links name."""
    num_seen = 0
    try:
        for _, info in headers(window):
            if info.islnk():
                linked.add(tidy(info.linkname))
            if info.isreg() or info.islnk():
                yield info.name
            num_seen += info.size
            if num_bytes is not None and num_seen > num_bytes:
                return
    except SourceDamaged:  # it is reported when the source is read
        return


def _look(
    kind: Literal["tar", "zip"], is_compressed: bool, names: Iterable[str], *, is_complete: bool
) -> ArchiveLook:
    of_folder: dict[str, list[str]] = {}
    num_tars, with_images = 0, dict[str, None]()
    num_images = 0
    for name in names:
        if is_hidden(tidy(name)):
            continue
        folder, _, file = tidy(name).rpartition("/")
        num_tars += bool(tar_stem(file))
        kept = of_folder.setdefault(folder, [])
        if may_be_image(file):
            num_images += 1
            with_images[folder] = None
        if len(kept) < _NUM_NAMES:
            kept.append(file)
    folders = list(with_images or of_folder)
    if not set(folders) - {""}:
        folders = []
    has_tars = num_tars > num_images  # a few tars beside images are no classes
    return ArchiveLook(kind, is_compressed, folders, has_tars, is_complete, of_folder)
