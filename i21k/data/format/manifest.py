"""`manifest.json`: what was packed into a directory, so that `verify` sees changes."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from i21k.data.format.shards import Shard
from i21k.errors import UserError
from i21k.files import read_json, write_text

MANIFEST = "manifest.json"
MANIFEST_FORMAT = "i21k-shards-1"


@dataclasses.dataclass(frozen=True)
class SplitManifest:
    """One split: its shards, the options that made it, and what happened to the images.

    `counts["skipped"]` and `counts["dropped"]` map reasons to numbers; the old name of
    `skipped` is `left_out`.
    """

    shards: tuple[Shard, ...]
    options: dict[str, Any]
    counts: dict[str, Any]
    class_counts: tuple[int, ...] | None = None  # images of each class; None: not counted

    @property
    def num_records(self) -> int:
        """Number of records in all shards."""
        return sum(shard.num_records for shard in self.shards)


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The content of `manifest.json`."""

    name: str
    class_list_hash: str
    splits: dict[str, SplitManifest]
    # SHA-256 (hex) of the files beside shards and manifest
    files: dict[str, str] = dataclasses.field(default_factory=dict)

    def write(self, directory: Path) -> None:
        """Replace the directory's manifest."""
        content = {"format": MANIFEST_FORMAT, **dataclasses.asdict(self)}
        write_text(directory / MANIFEST, json.dumps(content, indent=1))


def read_manifest(directory: Path) -> Manifest | None:
    """Return the manifest of a directory; None if it has none, because TFDS made it.

    Raises:
        UserError: if `manifest.json` is damaged or of another format.
    """
    path = directory / MANIFEST
    if not path.exists():
        return None
    content = read_json(path)
    if content.get("format") != MANIFEST_FORMAT:
        raise UserError(
            f"{path} has format {content.get('format')!r}; expected {MANIFEST_FORMAT!r}. "
            "Pack again or use another version of i21k."
        )
    try:
        splits = {
            str(split): SplitManifest(
                tuple(Shard(**shard) for shard in entry["shards"]),
                dict(entry["options"]),
                dict(entry["counts"]),
                _class_counts(entry.get("class_counts")),
            )
            for split, entry in content["splits"].items()
        }
        for shard in (shard for entry in splits.values() for shard in entry.shards):
            if (
                Path(shard.file).name != shard.file
                or not isinstance(shard.num_records, int)
                or not isinstance(shard.num_bytes, int)
            ):
                raise ValueError(f"shard {shard}")
        files = {str(file): str(sha256) for file, sha256 in content.get("files", {}).items()}
        if any(Path(file).name != file for file in files):
            raise ValueError(f"files {', '.join(files)}")
        return Manifest(str(content["name"]), str(content["class_list_hash"]), splits, files)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path} is damaged ({error!r}). Restore it or pack the directory again."
        ) from error


def _class_counts(stored: Any) -> tuple[int, ...] | None:
    if stored is None:
        return None
    if not all(isinstance(count, int) and count >= 0 for count in stored):
        raise ValueError(f"class counts {stored[:3]}")
    return tuple(stored)
