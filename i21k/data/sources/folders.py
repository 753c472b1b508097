"""A folder as a source: class folders, synset tars, or images whose labels are given beside."""

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from i21k.data.sources.base import (
    EXPECTED,
    IGNORED,
    MAX_FILE_BYTES,
    TOO_LARGE,
    ImageSource,
    Member,
    Position,
    check_class_ids,
    counted,
    is_ignored,
)
from i21k.data.sources.tables import Labels
from i21k.data.sources.tar_reader import Window, read_synset_tar, tar_stem
from i21k.errors import UserError


class FolderSource(ImageSource):
    """A folder of class folders or synset tars, or both.

    Entries whose names begin with a dot are ignored, and their files are counted as skipped. Links
    to files are followed, links to folders are not.
    """

    def __init__(self, path: Path) -> None:
        entries = sorted(path.iterdir())
        if all(entry.name.startswith(".") for entry in entries):
            raise UserError(f"Source {path} is empty. {EXPECTED}")
        self._class_of = {entry: _class_of(entry) for entry in entries}
        check_class_ids(path, self.list_class_ids())
        of_class = [entry for entry, class_id in self._class_of.items() if class_id]
        num_folders = sum(entry.is_dir() for entry in of_class)
        parts = [
            counted(number, noun)
            for number, noun in (
                (num_folders, "class folder"),
                (len(of_class) - num_folders, "synset tar"),
            )
            if number
        ]
        layout = f"folder of {' and '.join(parts)}" if parts else "folder without classes"
        files = (file for entry in entries for file in _files_of(entry))
        super().__init__(path, layout, *_size_and_fingerprint(path, files))

    def list_class_ids(self) -> tuple[str, ...]:
        return tuple(sorted({class_id for class_id in self._class_of.values() if class_id}))

    def entries(self) -> list[Position]:
        return [Position(number, -1) for number in range(len(self._class_of))]

    def _entries(
        self, first: Position, stop_entry: int | None
    ) -> Iterator[tuple[int, int, Iterator[Member]]]:
        numbered = list(enumerate(self._class_of.items()))
        for number, (entry, class_id) in numbered[first.entry : stop_entry]:
            yield 0, number, self._of_entry(entry, class_id)

    def _of_entry(self, entry: Path, class_id: str) -> Iterator[Member]:
        if not class_id:
            for file in _files_of(entry):
                is_system_file = entry.name.startswith(".") or is_ignored(entry.name)
                reason = IGNORED if is_system_file else "not in a class folder or synset tar"
                yield Member(self.path.name, file.relative_to(self.path).as_posix(), skipped=reason)
        elif entry.is_dir():
            for file in _walk(entry):
                member = _read_file(file, entry.name, file.relative_to(entry).as_posix(), class_id)
                self.num_bytes_read += len(member.data)
                yield member
        else:
            yield from self._of_tar(entry, class_id)

    def _of_tar(self, path: Path, class_id: str) -> Iterator[Member]:
        num_bytes_before = self.num_bytes_read
        try:
            with path.open("rb") as file:
                tar = Window(file, 0, path.stat().st_size)
                for member in read_synset_tar(tar, path.name, class_id):
                    self.num_bytes_read = num_bytes_before + file.tell()
                    yield member
        except OSError as error:
            reason = f"unreadable file: {error.strerror}"
            yield Member(path.name, "", class_id=class_id, skipped=reason)


class LabelledFolder(ImageSource):
    """A folder of images, at any depth, whose classes are given by a table of labels."""

    def __init__(self, path: Path, labels: Labels) -> None:
        self._files = list(_walk(path))
        if not self._files:
            raise UserError(f"Source {path} is empty. Give a folder of images.")
        self._class_ids = [labels.of(file.relative_to(path).as_posix()) for file in self._files]
        check_class_ids(path, self.list_class_ids())
        layout = (
            f"folder of {counted(len(self._files), 'file')} with labels from {labels.table}, "
            f"{counted(len(self.list_class_ids()), 'class', 'classes')}"
        )
        super().__init__(path, layout, *_size_and_fingerprint(path, self._files))

    def list_class_ids(self) -> tuple[str, ...]:
        return tuple(sorted({*self._class_ids} - {""}))

    def entries(self) -> list[Position]:
        return [Position(number, -1) for number in range(len(self._files))]

    def _entries(
        self, first: Position, stop_entry: int | None
    ) -> Iterator[tuple[int, int, Iterator[Member]]]:
        numbered = list(enumerate(zip(self._files, self._class_ids, strict=True)))
        for number, (file, class_id) in numbered[first.entry : stop_entry]:
            yield 0, number, self._of_file(file, class_id)

    def _of_file(self, file: Path, class_id: str) -> Iterator[Member]:
        name = file.relative_to(self.path).as_posix()
        if class_id or is_ignored(name):
            member = _read_file(file, self.path.name, name, class_id)
        else:
            member = Member(self.path.name, name, skipped="no label")
        self.num_bytes_read += len(member.data)
        yield member


def _class_of(entry: Path) -> str:
    """Return the class id of a class folder or synset tar; nothing for what is neither."""
    if entry.name.startswith(".") or is_ignored(entry.name):
        return ""
    return entry.name if entry.is_dir() else tar_stem(entry.name)


def _files_of(entry: Path) -> Iterable[Path]:
    return _walk(entry) if entry.is_dir() else (entry,)


def _walk(folder: Path) -> Iterator[Path]:
    """Yield all files below a folder in the order of their names, and links to folders as files.

    Raises:
        OSError: if a folder cannot be listed, which `os.walk` alone hides.
    """

    def refuse(error: OSError) -> None:
        raise error

    for root, folders, files in os.walk(folder, onerror=refuse):
        folders.sort()
        links = [name for name in folders if Path(root, name).is_symlink()]
        yield from (Path(root, name) for name in sorted(files + links))


def _size_and_fingerprint(path: Path, files: Iterable[Path]) -> tuple[int, str]:
    """Return the number of bytes of all files, and a hash of their names and sizes."""
    digest, total = hashlib.blake2b(digest_size=16), 0
    for file in files:
        num_bytes = 0
        with contextlib.suppress(OSError):  # such a file is skipped when it is read
            status = file.stat()
            num_bytes = status.st_size if stat.S_ISREG(status.st_mode) else 0
        digest.update(f"{str(file).removeprefix(str(path))!a} {num_bytes}\n".encode())
        total += num_bytes
    return total, digest.hexdigest()


def _read_file(path: Path, container: str, name: str, class_id: str) -> Member:
    if is_ignored(name):
        return Member(container, name, class_id=class_id, skipped=IGNORED)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return Member(container, name, class_id=class_id, skipped="not a regular file")
        if status.st_size > MAX_FILE_BYTES:
            return Member(container, name, class_id=class_id, skipped=TOO_LARGE)
        return Member(container, name, path.read_bytes(), class_id)
    except OSError as error:
        reason = f"unreadable file: {error.strerror}"
        return Member(container, name, class_id=class_id, skipped=reason)
