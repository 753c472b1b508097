"""Walk through folders and read files, without leaving the source through a link."""

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from i21k.data.sources.base import IGNORED, MAX_FILE_BYTES, TOO_LARGE, Member, is_ignored

LINK_OUTSIDE = "symbolic link out of the source"


def walk(folder: Path) -> Iterator[Path]:
    """Yield all files below a folder in the order of their names, and links to folders as files.

    Raises:
        OSError: if a folder cannot be listed, which `os.walk` alone hides.
    """
    for _, _, files in walk_folders(folder):
        yield from files


def walk_folders(folder: Path) -> Iterator[tuple[Path, list[str], list[Path]]]:
    """Walk as `os.walk` does, sorted; the files include links to folders."""

    def refuse(error: OSError) -> None:
        raise error

    for root, folders, files in os.walk(folder, onerror=refuse):
        folders.sort()
        links = [name for name in folders if Path(root, name).is_symlink()]
        yield Path(root), folders, [Path(root, name) for name in sorted(files + links)]


def files_of(entry: Path) -> Iterable[Path]:
    """Return all files below a folder, or the file itself."""
    return walk(entry) if entry.is_dir() else (entry,)


def is_link_outside(path: Path, source: Path) -> bool:
    """Return whether a path is a link to something outside of the source."""
    # `Path.resolve` raises an error for a loop of links.
    target = Path(os.path.realpath(path))
    return path.is_symlink() and not target.is_relative_to(os.path.realpath(source))


def size_and_fingerprint(path: Path, files: Iterable[Path]) -> tuple[int, str]:
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


def read_file(path: Path, container: str, name: str, class_id: str, source: Path | None) -> Member:
    """Read a file, or give the reason why it is skipped.

    Args:
        path: of the file.
        container: of the member.
        name: of the member.
        class_id: of the member.
        source: folder that links must stay in; None follows every link to a file.
    """
    if is_ignored(name):
        return Member(container, name, class_id=class_id, skipped=IGNORED)
    try:
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            if source is not None and is_link_outside(path, source):
                return Member(container, name, class_id=class_id, skipped=LINK_OUTSIDE)
            status = path.stat()
            if stat.S_ISDIR(status.st_mode):
                reason = "symbolic link to a folder"
                return Member(container, name, class_id=class_id, skipped=reason)
        if not stat.S_ISREG(status.st_mode):
            return Member(container, name, class_id=class_id, skipped="not a regular file")
        if status.st_size > MAX_FILE_BYTES:
            return Member(container, name, class_id=class_id, skipped=TOO_LARGE)
        return Member(container, name, path.read_bytes(), class_id)
    except OSError as error:
        reason = f"unreadable file: {error.strerror}"
        return Member(container, name, class_id=class_id, skipped=reason)
