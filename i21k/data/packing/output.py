"""The directory that is packed into: claim it, see what it holds, put a new split in place. A room of its own for what must not go wrong.

A split appears when it is complete. Its files are made in the folder `.packing` inside the directory and moved at the end, the manifest
last; after a failure nothing of it stays, and what a killed run leaves the next one removes.
"""

import contextlib
import dataclasses
import fcntl
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from i21k.data import shards
from i21k.labels import ClassList

_WORK = ".packing"


@contextlib.contextmanager
def claimed(directory: Path) -> Iterator[None]:
    """Make the directory, keep other packers out, and take away again what was made if nothing came to lie in it.

    Raises:
        ValueError: if it is a file, or another process has claimed it.
    """
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"output {directory} is a file; expected a directory; change --out")
    made = [folder for folder in (directory, *directory.parents) if not folder.exists()]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError as error:
            raise ValueError(f"another process packs into {directory}; wait for its end or change --out") from error
        finally:
            os.close(descriptor)
    finally:
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()  # removes only what is empty


@contextlib.contextmanager
def working_directory(directory: Path) -> Iterator[Path]:
    """Make the folder where a split grows, and remove it at the end, however that comes."""
    work = directory / _WORK
    try:
        work.mkdir()
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def read_output(directory: Path, name: str) -> shards.Manifest | None:
    """Return the manifest of a directory that may be packed into, cleaned of what a killed run left; None if it is empty.

    Raises:
        ValueError: if it holds another dataset or other files; it is not touched then.
    """
    manifest = shards.read_manifest(directory)
    if manifest is not None and manifest.name != name:
        raise ValueError(f"{directory} holds the dataset {manifest.name!r}; expected {name!r}; change --name or --out")
    of_dataset = re.compile(re.escape(name) + r"-(?P<split>\w+)\.array_record-\d+-of-\d+")
    was_killed = (directory / _WORK).exists()
    leftovers = []
    for path in sorted(directory.iterdir()) if was_killed or manifest is None else ():
        match = of_dataset.fullmatch(path.name)
        if was_killed and (path.name == _WORK or (match and match["split"] not in (manifest.splits if manifest else {}))):
            leftovers.append(path)
        elif manifest is None and not (was_killed and (path.name in shards.METADATA or path.name.startswith("left_out-"))):
            raise ValueError(
                f"{directory} holds {path.name}, which `i21k pack` did not put there; expected an empty directory; change --out"
            )
    for path in leftovers:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return manifest


def agree_on_classes(directory: Path, manifest: shards.Manifest | None, given: ClassList | None) -> ClassList | None:
    """Return the class list of the directory, or the given one if there is none yet.

    Raises:
        ValueError: if both are there and differ.
    """
    if manifest is None or not manifest.splits:
        return given
    there = shards.open_split(directory, next(iter(manifest.splits))).classes
    if given is not None and (difference := there.difference(given)):
        raise ValueError(f"{directory} has another class list than the one given ({difference}); drop --classes or change --out")
    return there


def find_complete(
    directory: Path, manifest: shards.Manifest, wanted: Iterable[str], described: dict[str, Any]
) -> dict[str, shards.SplitManifest]:
    """Return the wanted splits if they are there, made in the way described and undamaged; nothing if none is there.

    Raises:
        ValueError: if one of them was made in another way, is damaged, or lacks another.
    """
    there = {split: manifest.splits[split] for split in wanted if split in manifest.splits}
    for split, entry in there.items():
        for key, value in described.items():
            if entry.options.get(key) != value:
                raise ValueError(
                    f"{directory} has a split {split!r} already, packed with {key} {entry.options.get(key)!r}; got {value!r}; "
                    "use the same, choose another --split, or change --out"
                )
        shards.open_split(directory, split)
    if there and there.keys() != set(wanted):
        raise ValueError(f"{directory} has split {next(iter(there))!r} but not the one made with it; expected both; change --out")
    return there


def commit(work: Path, directory: Path, classes: ClassList, old: shards.Manifest, new: dict[str, shards.SplitManifest]) -> None:
    """Move shards and table into place, then write the metadata, and last the manifest, which makes them count."""
    moved = []
    manifest = dataclasses.replace(old, splits=old.splits | new)
    try:
        for path in sorted(work.glob("*.array_record-*")) + sorted(work.glob("left_out-*.tsv")):
            moved.append(path.replace(directory / path.name))
        shards.write_metadata(directory, old.name, classes, {split: entry.shards for split, entry in manifest.splits.items()})
        manifest.write(directory)
    except BaseException:
        for path in moved:
            path.unlink()
        if old.splits:
            shards.write_metadata(directory, old.name, classes, {split: entry.shards for split, entry in old.splits.items()})
        else:
            for file in shards.METADATA:
                (directory / file).unlink(missing_ok=True)
        raise
