"""Phase 4: verify what was written, and move it into the dataset. The manifest comes last.

A split counts from the moment the manifest names it. A failure before that moves everything back.
"""

import dataclasses
from pathlib import Path

from i21k.data.format.manifest import Manifest, SplitManifest, read_manifest
from i21k.data.format.tfds import METADATA, write_metadata
from i21k.data.pack.work_directory import TABLES, WorkDirectory
from i21k.files import hash_file, sync
from i21k.labels import ClassList


def commit(
    work: WorkDirectory, classes: ClassList, old: Manifest, new: dict[str, SplitManifest]
) -> None:
    """Move shards and tables into place, then write the metadata, and last the manifest.

    A crash may leave some files moved; the next packing finds them in either place.

    Args:
        work: with all shards and tables of the new splits.
        classes: of the dataset.
        old: manifest of the splits that are there already.
        new: entries of the new splits.
    """
    directory = work.output
    verify(work, new)
    moved: list[Path] = []
    manifest = dataclasses.replace(old, splits=old.splits | new)
    try:
        shards, tables = work.path.glob(f"{old.name}-*.array_record-*"), work.path.glob("*.tsv")
        for path in sorted([*shards, *tables]):
            moved.append(path.replace(directory / path.name))
        _write_metadata(directory, classes, manifest)
        names = (*METADATA, *(table.format(split) for split in new for table in TABLES))
        files = {file: hash_file(directory / file) for file in names if (directory / file).exists()}
        dataclasses.replace(manifest, files=old.files | files).write(directory)
    except BaseException:
        if (there := read_manifest(directory)) is not None and new.keys() <= there.splits.keys():
            raise  # a signal after the last step: the splits count
        for path in moved:
            path.replace(work.path / path.name)
        if old.splits:
            _write_metadata(directory, classes, old)
        else:
            for file in METADATA:
                (directory / file).unlink(missing_ok=True)
        raise
    sync(directory)


def verify(work: WorkDirectory, new: dict[str, SplitManifest]) -> None:
    """Check that every shard is there with its size.

    The write phase has counted the records and hashed the bytes of each after writing it.
    """
    for entry in new.values():
        for shard in entry.shards:
            places = (work.shard(shard.file), work.output / shard.file)
            assert any(p.exists() and p.stat().st_size == shard.num_bytes for p in places), shard


def _write_metadata(directory: Path, classes: ClassList, manifest: Manifest) -> None:
    shards = {split: entry.shards for split, entry in manifest.splits.items()}
    has_labels = any(e.options.get("duplicates") == "merge" for e in manifest.splits.values())
    write_metadata(directory, manifest.name, classes, shards, has_labels=has_labels)
