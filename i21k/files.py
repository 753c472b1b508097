"""Files that are complete or absent, hashes, JSON with good errors, and the lock of a directory.

A file is written under a temporary name, flushed to the disk, and renamed.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from i21k.errors import UserError

TEMPORARY = ".i21k-"  # how the names of unfinished files begin


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` if the block ends without an error.

    The file and its name are on the disk before this returns. Each writer has its own temporary
    name, so several may write the same file: the last one to finish wins.
    """
    temporary = path.with_name(f"{TEMPORARY}{secrets.token_hex(8)}-{path.name}")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that it is complete or absent, also after a crash of the machine."""
    with replaced(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file so that it is complete or absent, also after a crash of the machine."""
    write_bytes(path, text.encode("utf-8"))


def sync(path: Path) -> None:
    """Wait until a file's content, or a directory's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_temporary(path: Path) -> bool:
    """Return whether a name is one of those that `replaced` and `tempfile` make here."""
    name = rf"{re.escape(TEMPORARY)}([0-9a-f]{{16}}-.+|[a-z0-9_]{{8}})"
    return re.fullmatch(name, path.name) is not None


def remove_temporaries(directory: Path) -> None:
    """Remove the unfinished files of writers that were killed. No writer may be at work."""
    for path in filter(is_temporary, list(directory.iterdir())):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextlib.contextmanager
def locked(path: Path, what: str, option: str) -> Iterator[None]:
    """Hold a file or a directory that exists, so that no other process can lock it.

    The kernel ends the lock with the process. A lock file may contain who holds it; the error
    message then says so.

    Args:
        path: to lock.
        what: the directory in words for error messages, such as `output directory data/i21k`.
        option: that chooses another directory, such as `--out`.

    Raises:
        UserError: if another process holds the lock, or the file system has no locks.
    """
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = path.read_text().strip() if path.is_file() else ""
            raise UserError(
                f"{what} is in use by {holder or 'another process'}. "
                f"Wait until it ends, or choose another directory with {option}."
            ) from error
        except OSError as error:
            raise UserError(
                f"{what} cannot be locked ({error.strerror}). "
                f"Choose a directory with {option} on a file system that supports flock."
            ) from error
        yield
    finally:
        os.close(descriptor)


def hash_file(path: Path) -> str:
    """Return the SHA-256 (hex) of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_text(path: Path) -> str:
    """Return the content of a UTF-8 file of a dataset.

    Raises:
        UserError: if it cannot be read.
    """
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} cannot be read ({error}). Restore it or pack the directory again."
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file of a dataset.

    Raises:
        UserError: if it cannot be read, or is not one JSON object.
    """
    try:
        content = json.loads(read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(
            f"{path} cannot be read as JSON ({error}). Restore it or pack the directory again."
        ) from error
    if not isinstance(content, dict):
        raise UserError(
            f"{path} contains a JSON {type(content).__name__}; expected an object. "
            "Restore it or pack the directory again."
        )
    return content
