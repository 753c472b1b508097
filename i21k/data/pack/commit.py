"""The directory that is packed into: claim it, see what it holds, put a new split in place. A room of its own for what must not go wrong.

A split appears when it is complete. Its files are made in the folder `.packing` inside the directory and moved at the end, the manifest
last. A run that ends before leaves that folder behind, if there is anything in it worth keeping, and the same command goes on with it.
What is not needed any more gets another name first, so that a folder called `.packing` is whole, and is then removed, by the next run if
need be.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from i21k.data.format.manifest import Manifest, SplitManifest, read_manifest
from i21k.data.format.splits import open_split
from i21k.data.format.tfds import METADATA, write_metadata
from i21k.data.pack import plan, spill
from i21k.errors import UserError
from i21k.files import hash_file, is_temporary, remove_temporaries
from i21k.labels import ClassList

_WORK = ".packing"
_REMOVED = ".packing-removed"
_TABLES = r"(left_out|duplicates)-\w+\.tsv"


@contextlib.contextmanager
def claimed(directory: Path) -> Iterator[None]:
    """Make the directory, keep other packers out, and take away again what was made if nothing came to lie in it.

    Raises:
        ValueError: if it is a file, another process has claimed it, or it lies where nothing can be claimed.
    """
    if directory.exists() and not directory.is_dir():
        raise UserError(f"output {directory} is a file; expected a directory; change --out")
    made = [folder for folder in (directory, *directory.parents) if not folder.exists()]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(
                    f"another process packs into {directory}; wait for its end or change --out"
                ) from error
            except OSError as error:
                raise UserError(
                    f"output directory {directory} cannot be locked ({error.strerror}); choose an --out on a file system with flock"
                ) from error
            yield
        finally:
            os.close(descriptor)
    finally:
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()  # removes only what is empty


@contextlib.contextmanager
def working_directory(directory: Path, made_of: dict[str, Any]) -> Iterator[Path]:
    """Make the folder where a split grows, or take the one that a run left which made the same; remove it when the split is complete.

    Args:
        directory: that is packed into.
        made_of: what decides the content of the runs, as JSON can say it.

    Raises:
        ValueError: if there is an unfinished split that is made of something else.
    """
    work = directory / _WORK
    description = work / "made_of.json"
    if description.exists():
        was_made_of = json.loads(description.read_bytes())
        for key in (*made_of, *was_made_of):
            if was_made_of.get(key) != made_of.get(key):
                raise UserError(
                    f"{directory} holds an unfinished packing with {key} {was_made_of.get(key)!r}; got {made_of.get(key)!r}; "
                    f"finish it with the same, or remove {work} to begin anew"
                )
    try:
        if not description.exists():
            _remove(work)
            work.mkdir()
            spill.write_whole(description, json.dumps(made_of).encode())
        yield work
    except BaseException:
        if not any(run.about.num_record_bytes for run in spill.find_runs(work)):
            _remove(work)
        raise
    _remove(work)


def _sync(directory: Path) -> None:
    """Have the names in a directory on the disk before what they were made of goes."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(work: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(work.rename(work.with_name(_REMOVED)))


def read_output(directory: Path, name: str) -> Manifest | None:
    """Return the manifest of a directory that may be packed into; None if it is empty, or a first split in it is not finished.

    What runs that were killed left behind and no run needs is removed.

    Raises:
        ValueError: if it holds another dataset or other files, or a split is not whole; it is not touched then.
    """
    manifest = read_manifest(directory)
    if manifest is not None and manifest.name != name:
        raise UserError(
            f"{directory} holds the dataset {manifest.name!r}; expected {name!r}; change --name or --out"
        )
    work = directory / _WORK
    is_unfinished = work.exists()
    ours = re.compile(
        rf"{re.escape(name)}-\w+\.array_record-\d+-of-\d+|{'|'.join(map(re.escape, METADATA))}|{_TABLES}"
    )
    for path in sorted(directory.iterdir()) if manifest is None else ():
        if (
            path.name not in (_WORK, _REMOVED)
            and not (is_unfinished and ours.fullmatch(path.name))
            and not is_temporary(path)
        ):
            raise UserError(
                f"{directory} holds {path.name}, which `i21k pack` did not put there; expected an empty directory; change --out"
            )
    made = plan.read(work)
    is_complete = (
        manifest is not None and made is not None and made.choices.split in manifest.splits
    )
    if made is not None and is_complete:
        open_split(directory, made.choices.split)  # what it was made of goes only if it is whole
    remove_temporaries(directory)
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(directory / _REMOVED)
    if is_complete:
        _remove(work)  # a run ended just when its split was complete
    return manifest


def agree_on_classes(
    directory: Path, manifest: Manifest | None, given: ClassList | None
) -> ClassList | None:
    """Return the class list of the directory, or the given one if there is none yet.

    Raises:
        ValueError: if both are there and differ.
    """
    if manifest is None or not manifest.splits:
        return given
    there = open_split(directory, next(iter(manifest.splits))).classes
    if given is not None and (difference := there.difference(given)):
        raise UserError(
            f"{directory} has another class list than the one given ({difference}); drop --classes or change --out"
        )
    return there


def find_complete(
    directory: Path, manifest: Manifest, wanted: Iterable[str], described: dict[str, Any]
) -> dict[str, SplitManifest]:
    """Return the wanted splits if they are there, made in the way described and undamaged; nothing if none is there.

    Raises:
        ValueError: if one of them was made in another way, is damaged, or lacks another.
    """
    there = {split: manifest.splits[split] for split in wanted if split in manifest.splits}
    for split, entry in there.items():
        for key, value in described.items():
            if entry.options.get(key) != value:
                raise UserError(
                    f"{directory} has a split {split!r} already, packed with {key} {entry.options.get(key)!r}; got {value!r}; "
                    "use the same, choose another --split, or change --out"
                )
        open_split(directory, split)
    if there and there.keys() != set(wanted):
        raise UserError(
            f"{directory} has split {next(iter(there))!r} but not the one made with it; expected both; change --out"
        )
    return there


def check_room(work: Path, num_bytes: int) -> None:
    """Refuse to begin what the disk cannot hold.

    Raises:
        ValueError: if less than `num_bytes` are free.
    """
    free = shutil.disk_usage(work).free
    if free < num_bytes:
        raise UserError(
            f"{work.parent} has {free / 1e9:,.1f} GB free; packing takes about {num_bytes / 1e9:,.1f} GB more while it runs, "
            "twice the result; make room, change --out, or make pictures smaller with --short-side or --quality"
        )


def commit(
    work: Path, directory: Path, classes: ClassList, old: Manifest, new: dict[str, SplitManifest]
) -> None:
    """Move shards and tables into place, then write the metadata, and last the manifest, which makes them count.

    A failure before that moves them back; what a crash leaves half moved, the next call finds.
    """
    moved: list[Path] = []
    manifest = dataclasses.replace(old, splits=old.splits | new)
    try:
        for path in sorted([*work.glob(f"{old.name}-*.array_record-*"), *work.glob("*.tsv")]):
            moved.append(path.replace(directory / path.name))
        write_metadata(
            directory,
            old.name,
            classes,
            {split: entry.shards for split, entry in manifest.splits.items()},
        )
        tables = [table.format(split) for split in new for table in plan.TABLES]
        files = {
            file: hash_file(directory / file)
            for file in (*METADATA, *tables)
            if (directory / file).exists()
        }
        dataclasses.replace(manifest, files=old.files | files).write(directory)
    except BaseException:
        if (there := read_manifest(directory)) is not None and new.keys() <= there.splits.keys():
            raise  # a signal just behind the last step: it counts
        for path in moved:
            path.replace(work / path.name)
        if old.splits:
            write_metadata(
                directory,
                old.name,
                classes,
                {split: entry.shards for split, entry in old.splits.items()},
            )
        else:
            for file in METADATA:
                (directory / file).unlink(missing_ok=True)
        raise
    _sync(directory)
