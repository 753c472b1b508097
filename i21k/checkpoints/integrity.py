"""Whether the files of a checkpoint are those that were saved: digests, metadata, inventory."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from i21k import files
from i21k.errors import UserError

FORMAT = 1
INVENTORY = "files.json"  # SHA-256 by name of a checkpoint's other files
# What Orbax raises when files are damaged; a bug raises the same, so the files are checked then.
SUSPICIOUS = (
    RecursionError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    FileNotFoundError,
    NotADirectoryError,
)


class FormatError(UserError):
    """A checkpoint that another version of i21k has written."""


class DamagedError(Exception):
    """The bytes of a checkpoint on disk are not those that were saved."""


def read_meta(directory: Path) -> dict[str, Any]:
    """Read the metadata of a checkpoint, and compare them with their own digest.

    Raises:
        DamagedError: if they are missing, no JSON, or not those that were saved.
        FormatError: if another version of i21k wrote the checkpoint.
    """
    try:
        meta = files.parse_json((directory / "meta" / "metadata").read_bytes())
    except (ValueError, FileNotFoundError, NotADirectoryError) as error:
        raise DamagedError(f"metadata: {error}".splitlines()[0]) from error
    if not isinstance(meta, dict) or not {"format", "meta_digest"} <= set(meta):
        raise DamagedError("metadata: it has no format or no digest")
    if meta["format"] != FORMAT:
        raise FormatError(
            f"checkpoint {directory} has format {meta['format']!r}; this version of i21k reads"
            f" {FORMAT}. Install the version of i21k that wrote it."
        )
    if meta["meta_digest"] != digest_of_meta(meta):
        raise DamagedError("metadata: its SHA-256 differs")
    return meta


def find_damage(directory: Path, meta: Mapping[str, Any], error: Exception) -> str | None:
    """Return what is wrong with the files of a checkpoint that Orbax cannot read; None if nothing.

    Older checkpoints have no inventory. There an error that code raises counts as damage only
    if Orbax's own metadata does not name the arrays that were saved.
    """
    first_line = (str(error) or type(error).__name__).splitlines()[0]
    try:
        expected = files.parse_json((directory / INVENTORY).read_bytes())
    except (ValueError, FileNotFoundError, NotADirectoryError):
        if not isinstance(error, (AttributeError, KeyError, TypeError)):
            return first_line
        return None if _names_arrays(directory, set(meta["digests"])) else "Orbax's metadata"
    found = digests_of_files(directory)
    for name in sorted(expected):
        if name not in found:
            return f"{name} is missing"
        if found[name] != expected[name]:
            return f"the SHA-256 of {name} differs"
    return None


def _names_arrays(directory: Path, paths: set[str]) -> bool:
    """Return whether Orbax's metadata of the tree can be read and names exactly these arrays."""
    try:
        metadata = files.parse_json((directory / "state" / "_METADATA").read_bytes())
        named = {
            "/".join(part["key"] for part in entry["key_metadata"])
            for entry in metadata["tree_metadata"].values()
            if entry["value_metadata"]["value_type"] == "np.ndarray"
            and all(part["key_type"] == 2 for part in entry["key_metadata"])  # a dict's
        }
    except (ValueError, KeyError, TypeError, AttributeError, FileNotFoundError, NotADirectoryError):
        return False
    return named == paths


def digests_of_files(directory: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a checkpoint except its inventory, by relative path."""
    return {
        path.relative_to(directory).as_posix(): files.hash_file(path)
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != INVENTORY and not files.is_temporary(path)
    }


def digest_of_meta(meta: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the metadata of a checkpoint, without the digest that is among them."""
    canonical = json.dumps(
        {key: value for key, value in meta.items() if key != "meta_digest"}, sort_keys=True
    )
    return hashlib.sha256(canonical.encode()).hexdigest()


def digest(array: np.ndarray) -> str:
    """Return the SHA-256 of the type, the shape and the values of an array."""
    return hashlib.sha256(
        f"{array.dtype.str}{array.shape}".encode() + np.ascontiguousarray(array).tobytes()
    ).hexdigest()
