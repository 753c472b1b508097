"""Files that are whole or absent: write under another name, move into place, and make both durable."""

import contextlib
import hashlib
import json
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from i21k.errors import UserError

TEMPORARY = ".i21k-"  # how the names of files begin that are not complete yet


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Give another name beside `path` to write under, and move what was written into its place if nothing goes wrong.

    No two writers have the same one, so that several may write the same file: the last to end leaves it whole.
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
