"""Describe a dataset directory by the numbers in its JSON and the sizes of its files."""

import dataclasses
from pathlib import Path
from typing import Any

from i21k.data.format.manifest import read_manifest
from i21k.data.format.splits import open_split
from i21k.data.format.tfds import list_shards, read_classes


@dataclasses.dataclass(frozen=True)
class SplitOverview:
    """One split; bytes are those of the shards. The last four are None where TFDS made it, empty
    where nothing was noted."""

    num_records: int
    num_shards: int
    num_bytes: int
    options: dict[str, Any] | None
    counts: (
        dict[str, Any] | None
    )  # of the packing run that made the split: it may have made others too
    left_out: dict[str, int] | None  # by reason
    dropped: dict[str, int] | None  # by reason


@dataclasses.dataclass(frozen=True)
class Overview:
    """What is in a dataset directory. A split whose shards are not all there is an error, damage
    inside them goes unseen."""

    directory: str
    name: str
    has_manifest: bool
    num_records: int
    num_bytes: int
    num_classes: int
    first_class: str
    last_class: str
    class_list_hash: str
    splits: dict[str, SplitOverview]


def overview(directory: str | Path) -> Overview:
    """Say what a directory that `i21k pack` or TFDS made has in it, by its JSON and the sizes of
    its files.

    Raises:
        ValueError: if there is no dataset, or `open_split` refuses one of its splits.
    """
    directory = Path(directory)
    manifest, splits = read_manifest(directory), {}
    listing = list_shards(directory)
    for name in sorted(listing.splits):
        opened = open_split(directory, name)
        entry = manifest.splits.get(name) if manifest else None
        splits[name] = SplitOverview(
            num_records=opened.num_records,
            num_shards=len(opened.shard_paths),
            num_bytes=sum(path.stat().st_size for path in opened.shard_paths),
            options=entry.options if entry else None,
            counts={
                key: n
                for key, n in entry.counts.items()
                if key not in ("skipped", "left_out", "dropped")
            }
            if entry
            else None,
            # Version one called it `left_out`.
            left_out=entry.counts.get("skipped", entry.counts.get("left_out", {}))
            if entry
            else None,
            dropped=entry.counts.get("dropped", {}) if entry else None,
        )
    classes = read_classes(directory)
    return Overview(
        directory=str(directory),
        name=manifest.name if manifest else listing.name,
        has_manifest=manifest is not None,
        num_records=sum(split.num_records for split in splits.values()),
        num_bytes=sum(split.num_bytes for split in splits.values()),
        num_classes=len(classes),
        first_class=classes.ids[0],
        last_class=classes.ids[-1],
        class_list_hash=classes.hash,
        splits=splits,
    )
