"""Files that are whole or absent, directories that one process holds, and reading with checks."""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from i21k.errors import UserError

TEMPORARY = ".i21k-"  # how the names of files begin that are not complete yet


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Yield another name beside `path` to write to, and rename it to `path` if nothing fails.

    Several processes may write the same file, as each has another name. The last one wins.
    """
    temporary = path.with_name(f"{TEMPORARY}{secrets.token_hex(8)}-{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def is_temporary(path: Path) -> bool:
    """Say whether a name is one of those that writers write under."""
    return (
        re.fullmatch(rf"{re.escape(TEMPORARY)}([0-9a-f]{{16}}-.+|[a-z0-9_]{{8}})", path.name)
        is not None
    )


def remove_temporaries(directory: Path) -> None:
    """Remove what writers left behind that were killed. None may be at work."""
    for path in filter(is_temporary, list(directory.iterdir())):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextlib.contextmanager
def locked(directory: Path, what: str, option: str) -> Iterator[None]:
    """Make a directory and hold it for this process. Afterwards remove it again if it is empty.

    While it is held, the file `lock` in it says by whom.

    Args:
        directory: to hold.
        what: it is, for messages, such as "working directory".
        option: with which the user can choose another one, such as "--workdir".

    Raises:
        UserError: if it cannot be made, written or locked, or another process holds it.
    """
    made = [folder for folder in (directory, *directory.parents) if not folder.exists()]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = (directory / "lock").open("a+")
    except OSError as error:
        raise UserError(
            f"{what} {directory} cannot be written ({error.strerror}). Choose another one with"
            f" {option}."
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The last holder removes the file. Who locked it after that holds nothing.
            removed = os.fstat(file.fileno()).st_nlink == 0
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise UserError(
                f"{what} {directory} is held by {holder}. Wait for it, or choose another one with"
                f" {option}."
            ) from error
        except OSError as error:
            raise UserError(
                f"{what} {directory} cannot be locked ({error.strerror}). Choose a {option} on a"
                " file system with flock."
            ) from error
        if removed:
            with locked(directory, what, option):
                yield
            return
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        os.fsync(file.fileno())  # or other machines of a shared file system see it much later
        try:
            yield
        finally:
            (directory / "lock").unlink(missing_ok=True)
            for folder in made:
                with contextlib.suppress(OSError):
                    folder.rmdir()  # removes only what is empty


def hash_file(path: Path) -> str:
    """Return the SHA-256 (hex) of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} cannot be read ({error}); restore it or pack the directory again"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(
            f"{path} cannot be read as JSON ({error}); restore it or pack the directory again"
        ) from error
    if not isinstance(content, dict):
        raise UserError(
            f"{path} holds a JSON {type(content).__name__}; expected an object; restore it or pack the directory again"
        )
    return content
