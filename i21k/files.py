"""Files that are complete or absent, hashes, JSON with good errors, and the lock of a directory.

A file is written under a temporary name, flushed to the disk, and renamed.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from i21k.errors import UserError

TEMPORARY = ".i21k-"  # how the names of unfinished files begin
_PLAIN = r"[\w./ ,+=@-]+"  # no library gives these characters of a path a meaning
_DESCRIPTORS = "/proc/self/fd"
_MAX_PIPE_BYTES = 1 << 30  # our choice: tables of labels of the full ImageNet have less


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
    """Write a UTF-8 file so that it is complete or absent, also after a crash of the machine.

    Half characters, which are bytes of file names that are no UTF-8, are written as escapes.
    """
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


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
def plainly_named(directory: Path) -> Iterator[Path]:
    """Yield a path of an existing directory that libraries do not take for a pattern or a URL.

    Some libraries expand `[` and `*`, turn a backslash into a slash, or take `x://` for a protocol.
    """
    if re.fullmatch(_PLAIN, str(directory)):
        yield directory
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        if (alias := Path(_DESCRIPTORS) / str(descriptor)).is_dir():
            yield alias
            return
        with tempfile.TemporaryDirectory() as folder:  # not Linux
            link = Path(folder) / "link"
            link.symlink_to(directory, target_is_directory=True)
            yield link
    finally:
        os.close(descriptor)


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


def read_given(path: Path) -> bytes:
    """Return the content of a file that the user has named; a pipe that somebody writes is one too.

    Opening a pipe without a writer would wait for ever, and a device such as `/dev/zero` has no
    end.

    Raises:
        UserError: if it is a device, an empty pipe, or one without an end.
        OSError: if it cannot be read.
    """
    with _opened(path) as file:
        if not stat.S_ISFIFO(os.fstat(file.fileno()).st_mode):
            _check_regular(path, file)
            return file.read()
        os.set_blocking(file.fileno(), True)  # a writer may be slow
        content = file.read(_MAX_PIPE_BYTES + 1)
    if not 0 < len(content) <= _MAX_PIPE_BYTES:
        amount = f"more than {_MAX_PIPE_BYTES >> 20} MiB" if content else "nothing"
        raise UserError(f"{path} is a pipe from which {amount} comes. Give a file.")
    return content


def open_regular(path: Path) -> BinaryIO:
    """Open a file that the user has named, to read from any place in it.

    Raises:
        UserError: if it is a pipe or a device.
        OSError: if it cannot be read.
    """
    file = _opened(path)
    try:
        _check_regular(path, file)
    except UserError:
        file.close()
        raise
    return file


def _opened(path: Path) -> BinaryIO:
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    return open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")  # noqa: PTH123


def _check_regular(path: Path, file: BinaryIO) -> None:
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        raise UserError(f"{path} is a pipe or a device. Give a regular file.")


def read_text(path: Path) -> str:
    """Return the content of a UTF-8 file of a dataset.

    Raises:
        UserError: if it cannot be read.
    """
    try:
        return read_given(path).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} cannot be read ({error}). Restore it or pack the directory again."
        ) from error


def parse_json(text: str | bytes) -> Any:
    """Return the JSON value in a text.

    Raises:
        ValueError: if the text is none, or is nested so deeply that Python cannot read it.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file of a dataset.

    Raises:
        UserError: if it cannot be read, or is not one JSON object.
    """
    try:
        content = parse_json(read_text(path))
    except UserError:
        raise
    except ValueError as error:
        raise UserError(
            f"{path} cannot be read as JSON ({error}). Restore it or pack the directory again."
        ) from error
    if not isinstance(content, dict):
        raise UserError(
            f"{path} contains a JSON {type(content).__name__}; expected an object. "
            "Restore it or pack the directory again."
        )
    return content
