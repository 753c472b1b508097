"""One split of a dataset directory: which shards it has, checked without opening them."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from i21k.data.format.manifest import MANIFEST, read_manifest
from i21k.data.format.tfds import INFO, LABELS, read_features, read_info
from i21k.errors import UserError
from i21k.files import hash_file
from i21k.labels import ClassList


class ShardChangedError(UserError):
    """A shard is not the file that it was when its split was opened. No record may be skipped."""


class Stamp(NamedTuple):
    """What changes when a file is replaced or written."""

    num_bytes: int
    modified_ns: int
    inode: int


def stamp(path: Path) -> Stamp:
    """Return what a file is now."""
    status = path.stat()
    return Stamp(status.st_size, status.st_mtime_ns, status.st_ino)


@dataclasses.dataclass(frozen=True)
class Split:
    """One split on disk, checked as far as that is possible without opening its shards."""

    directory: Path
    split: str
    shard_paths: tuple[Path, ...]
    shard_counts: tuple[int, ...]  # records in each shard; may be 0
    num_records: int
    num_bytes: int  # of all shards
    classes: ClassList
    fingerprint: str  # SHA-256 (hex) of the content; does not depend on the directory's path
    has_labels: bool = (
        False  # whether images may have several labels, as `--duplicates merge` packs
    )
    # Of each shard: when it was checked, and its hash where the manifest has one.
    stamps: tuple[Stamp, ...] = dataclasses.field(default=(), compare=False, repr=False)
    sha256s: tuple[str, ...] = dataclasses.field(default=(), compare=False, repr=False)

    def check_unchanged(self) -> None:
        """Check that no shard was replaced or changed since the split was opened.

        Raises:
            ShardChangedError: naming the first that was.
        """
        for shard in range(len(self.stamps)):
            self.check_shard(shard)

    def check_shard(self, shard: int) -> None:
        """Check that a shard is the file that was there when the split was opened, or equals it.

        Raises:
            ShardChangedError: if it is not.
        """
        if not self.stamps:
            return
        path = self.shard_paths[shard]
        try:
            found = stamp(path)
            if found == self.stamps[shard]:
                return
            same = bool(self.sha256s) and found.num_bytes == self.stamps[shard].num_bytes
            same = same and hash_file(path) == self.sha256s[shard]
        except OSError:
            same = False
        if not same:
            raise ShardChangedError(
                f"{path} was changed, replaced or removed while it was in use. Pack into another"
                " directory while a run reads this one, and start the run again."
            )


def split_names(directory: str | Path) -> tuple[str, ...]:
    """Return the names of the splits in a dataset directory, sorted.

    Raises:
        UserError: if it is not a TFDS dataset in ArrayRecord files.
    """
    return tuple(sorted(read_info(Path(directory)).splits))


def open_split(directory: str | Path, split: str) -> Split:
    """Find the shards of `split` in a directory that `i21k pack` or TFDS made.

    Raises:
        UserError: if there is no such dataset or split, a shard is missing or has another size
            than the manifest says, or the features are not `image` and `label`.
    """
    directory = Path(directory)
    info = read_info(directory)
    if split not in info.splits:
        raise UserError(
            f"{directory} has no split {split!r}; expected one of {', '.join(sorted(info.splits))}."
            f" Pack it with --split {split}."
        )
    classes, features = read_features(directory)
    manifest = read_manifest(directory)
    content: dict[str, Any]
    if manifest is not None and split in manifest.splits:
        if manifest.class_list_hash != classes.hash:
            raise UserError(
                f"{directory / LABELS} has another class list than {MANIFEST} beside it. "
                "Restore it or pack the directory again."
            )
        shards = manifest.splits[split].shards
        files, counts = [shard.file for shard in shards], [shard.num_records for shard in shards]
        stamps = _check_files(directory, split, files, [shard.num_bytes for shard in shards])
        content = {
            "counts": counts,
            "sha256": [shard.sha256 for shard in shards],
            "classes": classes.hash,
        }
    else:
        files, counts = info.shard_files(split), list(info.splits[split].shard_counts)
        stamps = _check_files(directory, split, files, None)
        content = {
            "split": split,
            "counts": counts,
            "bytes": [file.num_bytes for file in stamps],
            "features": features,
            "classes": classes.hash,
        }
    return Split(
        directory=directory,
        split=split,
        shard_paths=tuple(directory / file for file in files),
        shard_counts=tuple(counts),
        num_records=sum(counts),
        num_bytes=sum(file.num_bytes for file in stamps),
        classes=classes,
        fingerprint=hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest(),
        has_labels="sequence" in features.get("labels", {}),
        stamps=stamps,
        sha256s=tuple(content.get("sha256", ())),
    )


def _check_files(
    directory: Path, split: str, files: list[str], expected_bytes: list[int] | None
) -> tuple[Stamp, ...]:
    """Return what each file is, and refuse missing files and wrong sizes.

    ArrayRecord opens missing, empty and truncated files as if they had no records.
    """
    stamps: list[Stamp] = []
    for k, file in enumerate(files):
        try:
            stamps.append(stamp(directory / file))
        except OSError as error:
            num_there = sum((directory / f).is_file() for f in files)
            raise UserError(
                f"{directory / file} is missing: {num_there} of the {len(files)} shards of split "
                f"{split!r} are there; expected {len(files)} shards as "
                f"{MANIFEST if expected_bytes else INFO} says. "
                "Copy it again or pack the split again."
            ) from error
        expected = f"{expected_bytes[k]} bytes" if expected_bytes else "at least one byte"
        size = stamps[k].num_bytes
        if size != expected_bytes[k] if expected_bytes else size == 0:
            raise UserError(
                f"{directory / file} has {size} bytes; expected {expected}. "
                "It is damaged: copy it again or pack the split again."
            )
    return tuple(stamps)
