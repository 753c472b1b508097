"""`manifest.json`: what was packed into a directory, in enough detail to tell whether it is still there."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from i21k.data.format.shards import Shard
from i21k.errors import UserError
from i21k.files import read_json, replaced

MANIFEST = "manifest.json"
MANIFEST_FORMAT = "i21k-shards-1"


@dataclasses.dataclass(frozen=True)
class SplitManifest:
    """What the manifest says of one split: its shards, how it was made, and what became of every picture that was read."""

    shards: tuple[Shard, ...]
    options: dict[str, Any]
    counts: dict[str, Any]

    @property
    def num_records(self) -> int:
        """Number of records in all shards."""
        return sum(shard.num_records for shard in self.shards)


@dataclasses.dataclass(frozen=True)
class Manifest:
    """`manifest.json`: what was packed into a directory, in enough detail to tell whether it is still there."""

    name: str
    class_list_hash: str
    splits: dict[str, SplitManifest]
    files: dict[str, str] = dataclasses.field(
        default_factory=dict
    )  # SHA-256 (hex) of what lies beside shards and manifest

    def write(self, directory: Path) -> None:
        """Replace the directory's manifest as a whole."""
        with (
            replaced(directory / MANIFEST) as temporary,
            temporary.open("w", encoding="utf-8") as file,
        ):
            json.dump({"format": MANIFEST_FORMAT, **dataclasses.asdict(self)}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())


def read_manifest(directory: Path) -> Manifest | None:
    """Return the manifest of a packed directory, or None if it has none (then TFDS, not we, made the directory).

    Raises:
        ValueError: if `manifest.json` is damaged or of another format.
    """
    path = directory / MANIFEST
    if not path.exists():
        return None
    content = read_json(path)
    if content.get("format") != MANIFEST_FORMAT:
        raise UserError(
            f"{path} has format {content.get('format')!r}; expected {MANIFEST_FORMAT!r}; pack again or use another version of i21k"
        )
    try:
        splits = {
            str(split): SplitManifest(
                tuple(Shard(**shard) for shard in entry["shards"]),
                dict(entry["options"]),
                dict(entry["counts"]),
            )
            for split, entry in content["splits"].items()
        }
        for shard in (shard for entry in splits.values() for shard in entry.shards):
            if (
                Path(shard.file).name != shard.file
                or not isinstance(shard.num_records, int)
                or not isinstance(shard.num_bytes, int)
            ):
                raise UserError(f"shard {shard}")
        files = {str(file): str(sha256) for file, sha256 in content.get("files", {}).items()}
        if any(Path(file).name != file for file in files):
            raise UserError(f"files {', '.join(files)}")
        return Manifest(str(content["name"]), str(content["class_list_hash"]), splits, files)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path} is damaged ({error!r}); restore it or pack the directory again"
        ) from error
