"""A zip of images as a source, and the reading of zips that may be damaged or hostile."""

import contextlib
import hashlib
import lzma
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from i21k.data.sources.archive_split import ArchiveSplit
from i21k.data.sources.base import (
    MAX_FILE_BYTES,
    MAX_NAME_BYTES,
    TOO_LARGE,
    ImageSource,
    Member,
    Position,
    SourceDamaged,
    check_class_ids,
    may_be_image,
)
from i21k.data.sources.rules import Rule
from i21k.data.sources.tables import Labels
from i21k.data.sources.tar_reader import begins_as_tar, refusal_of_name
from i21k.errors import UserError


class ZipSource(ImageSource):
    """A zip of images, with a rule that gives their classes. Each file is an entry.

    Args:
        path: of the zip.
        rule: gives the class of each image.
        root: folder whose files are read.
    """

    def __init__(self, path: Path, rule: Rule | Labels, root: str = "") -> None:
        self._split = ArchiveSplit(rule, root)
        digest, class_ids = hashlib.blake2b(digest_size=16), set[str]()
        infos = zip_files(path)
        for info in infos:
            digest.update(f"{info.filename!a} {info.file_size} {info.CRC}\n".encode())
            if self._split.is_inside(info.filename) and may_be_image(info.filename):
                class_ids.add(self._split.class_and_name(info.filename)[0])
        self._class_ids = tuple(sorted(class_ids - {""}))
        self._num_entries = len(infos)
        num_files = sum(self._split.is_inside(info.filename) for info in infos)
        check_class_ids(path, self._class_ids)
        layout = self._split.layout("zip", len(self._class_ids))
        super().__init__(path, layout, path.stat().st_size, digest.hexdigest())
        self.num_files = num_files
        self.described = self._split.describe()

    def list_class_ids(self) -> tuple[str, ...] | None:
        return self._class_ids

    def entries(self) -> list[Position]:
        return [Position(number, -1) for number in range(self._num_entries)]

    def _entries(
        self, first: Position, stop_entry: int | None
    ) -> Iterator[tuple[int, int, Iterator[Member]]]:
        with opened_zip(self.path) as archive:
            for number, info in list(enumerate(_files(archive)))[first.entry : stop_entry]:
                if self._split.is_inside(info.filename):
                    yield 0, number, iter([self._read(archive, info)])
                self.num_bytes_read += info.compress_size

    def _read(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Member:
        container, (class_id, name) = self.path.name, self._split.class_and_name(info.filename)
        reason = refusal_of_name(info.filename)
        if not reason and info.file_size > MAX_FILE_BYTES:
            reason = TOO_LARGE
        if not reason and stat.S_ISLNK(info.external_attr >> 16):
            reason = "symbolic link in a zip"
        if reason or class_id not in self._class_ids:
            shown = info.filename[:MAX_NAME_BYTES]
            return Member(container, shown, skipped=reason or self._split.reason(shown))
        if info.flag_bits & 1:
            return Member(container, name, class_id=class_id, skipped="encrypted file in a zip")
        try:
            return Member(container, name, read_zip_file(archive, info), class_id)
        except SourceDamaged as error:
            reason = f"damaged file in a zip: {error}"
            return Member(container, name, class_id=class_id, skipped=reason)


def is_zip(path: Path) -> bool:
    """Return whether a file is a zip, and not a tar whose last file is one."""
    with path.open("rb") as file:
        return not begins_as_tar(file.read(512)) and zipfile.is_zipfile(path)


@contextlib.contextmanager
def opened_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip.

    Raises:
        UserError: if its directory is damaged.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise UserError(
            f"Source {path} is no zip or not a complete one ({error}). Download it again."
        ) from error
    with archive:
        yield archive


def zip_files(path: Path) -> list[zipfile.ZipInfo]:
    """Return the files of a zip in the order of its directory.

    Raises:
        UserError: if it is damaged.
    """
    with opened_zip(path) as archive:
        return _files(archive)


def _files(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    # `ZipInfo.is_dir` raises an IndexError for an empty name.
    return [info for info in archive.infolist() if not info.filename.endswith("/")]


def read_zip_file(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """Return a file of a zip.

    Raises:
        SourceDamaged: if it is damaged, whatever its compression.
        OSError: if the disk cannot be read.
    """
    try:
        return archive.read(info)
    except OSError as error:
        if error.errno is not None:
            raise  # a disk error; errors of bz2 have no number
        raise SourceDamaged(str(error)) from error
    # An unknown compression is a NotImplementedError, which is a RuntimeError.
    except (
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        struct.error,  # a header that is cut off
        EOFError,
        RuntimeError,
        ValueError,
    ) as error:
        raise SourceDamaged(str(error)) from error
