"""The output directory before packing: claim it, see what it holds, refuse what does not fit."""

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from i21k.data.format.manifest import MANIFEST, Manifest, SplitManifest, read_manifest
from i21k.data.format.splits import open_split
from i21k.data.format.tfds import METADATA
from i21k.data.pack import plan
from i21k.data.pack.work_directory import REMOVED, WORK, WorkDirectory
from i21k.errors import UserError
from i21k.files import is_temporary, remove_temporaries
from i21k.labels import ClassList

_TABLES = r"(skipped|left_out|duplicates)-\w+\.tsv"  # `left_out` is of version one
_KEYS_OF_VERSION_1 = {"keep_val_duplicates": "keep_val_copies"}


@contextlib.contextmanager
def claimed(directory: Path) -> Iterator[None]:
    """Make the directory and keep other packers out; remove it at the end if it is empty.

    Raises:
        UserError: if it is a file, another process has claimed it, or the file system has no locks.
    """
    if directory.exists() and not directory.is_dir():
        raise UserError(f"Output {directory} is a file; expected a directory. Change --out.")
    made = [folder for folder in (directory, *directory.parents) if not folder.exists()]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(
                    f"Another process packs into {directory}. Wait for its end, or change --out."
                ) from error
            except OSError as error:
                raise UserError(
                    f"Output directory {directory} cannot be locked ({error.strerror}). "
                    "Choose an --out on a file system with flock."
                ) from error
            yield
        finally:
            os.close(descriptor)
    finally:
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()  # removes only what is empty


def read_output(directory: Path, name: str) -> Manifest | None:
    """Return the manifest of a directory that may be packed into; None if there is none yet.

    Files that an interrupted packing has left and that no restart needs are removed.

    Raises:
        UserError: if it holds another dataset or other files, or a split is incomplete. Then
            nothing in it is touched.
    """
    manifest = read_manifest(directory)
    if manifest is not None and manifest.name != name:
        raise UserError(
            f"{directory} holds the dataset {manifest.name!r}; expected {name!r}. "
            "Change --name or --out."
        )
    work = WorkDirectory(directory)
    if manifest is None:
        _refuse_other_files(directory, name, is_unfinished=work.path.exists())
    work.check_format()
    made = plan.read(work)
    is_complete = (
        manifest is not None and made is not None and made.options.split in manifest.splits
    )
    if made is not None and is_complete:
        open_split(directory, made.options.split)  # it must be intact before its origin is removed
    remove_temporaries(directory)
    work.remove_removed()
    if is_complete:
        work.remove()  # the packing was interrupted when the split was complete
    return manifest


def _refuse_other_files(directory: Path, name: str, is_unfinished: bool) -> None:
    ours = re.compile(
        rf"{re.escape(name)}-\w+\.array_record-\d+-of-\d+|"
        rf"{'|'.join(map(re.escape, METADATA))}|{_TABLES}"
    )
    for path in sorted(directory.iterdir()):
        is_ours = (
            path.name in (WORK, REMOVED)
            or is_temporary(path)
            or (is_unfinished and ours.fullmatch(path.name))
        )
        if not is_ours:
            raise UserError(
                f"{directory} holds {path.name}, which `i21k pack` did not write; expected an "
                "empty directory. Change --out."
            )


def agree_on_classes(
    directory: Path, manifest: Manifest | None, given: ClassList | None
) -> ClassList | None:
    """Return the class list of the dataset, or the given one if there is no dataset yet.

    Raises:
        UserError: if both are there and differ.
    """
    if manifest is None or not manifest.splits:
        return given
    there = open_split(directory, next(iter(manifest.splits))).classes
    if given is not None and (difference := there.difference(given)):
        raise UserError(
            f"{directory} has another class list than the one given ({difference}). "
            "Drop --classes or change --out."
        )
    return there


def check_labels(directory: Path, manifest: Manifest | None, duplicates: str) -> None:
    """Refuse to mix splits with one label and splits with several labels per image.

    Raises:
        UserError: naming a split of the other kind.
    """
    for split, entry in manifest.splits.items() if manifest else ():
        there = str(entry.options.get("duplicates"))
        if (there == "merge") != (duplicates == "merge"):
            raise UserError(
                f"{directory} has a split {split!r} packed with duplicates {there!r}; got "
                f"{duplicates!r}. All splits or none have several labels per image: change "
                "--duplicates or --out."
            )


def find_complete(
    directory: Path, manifest: Manifest, wanted: Iterable[str], described: dict[str, Any]
) -> dict[str, SplitManifest]:
    """Return the wanted splits if they are there, made as described and undamaged.

    Returns:
        Nothing if none is there.

    Raises:
        UserError: if one of them was made in another way, is damaged, or only one is there.
    """
    there = {split: manifest.splits[split] for split in wanted if split in manifest.splits}
    for split, entry in there.items():
        for key, value in described.items():
            found = entry.options.get(key, entry.options.get(_KEYS_OF_VERSION_1.get(key, key)))
            if key == "source_files" and found is None:  # of an older version
                continue
            if found != value and key in ("source_bytes", "source_files"):
                change = (
                    _change(found, value)
                    if isinstance(found, int)
                    else "its files had other names or sizes"
                )
                raise UserError(
                    f"{directory} has a split {split!r} of this source as it was: {change}. Pack "
                    "it into a new directory with another --out, or give --overwrite to replace "
                    "what is there."
                )
            if found != value:
                raise UserError(
                    f"{directory} has a split {split!r} already, packed with {key} {found!r}; got "
                    f"{value!r}. Use the same, choose another --split, or change --out."
                )
        open_split(directory, split)
    if there and there.keys() != set(wanted):
        raise UserError(
            f"{directory} has split {next(iter(there))!r} but not the one that is packed with it; "
            "expected both. Change --out."
        )
    return there


def _change(before: int, now: int) -> str:
    """Return how a source has changed, in bytes."""
    more_or_less = "more" if now > before else "less"
    return f"it has {abs(now - before):,} bytes {more_or_less} now, {now:,} in all"


def overwrite(directory: Path, name: str) -> None:
    """Remove a dataset that `i21k pack` made, so that it is packed anew.

    Raises:
        UserError: if the directory holds another dataset or other files.
    """
    if not directory.exists():
        return
    read_output(directory, name)
    ours = re.compile(rf"{re.escape(name)}-\w+\.array_record-\d+-of-\d+|{_TABLES}")
    names = {*METADATA, MANIFEST, WORK, REMOVED}
    entries = sorted(directory.iterdir(), key=lambda path: path.name != MANIFEST)  # it goes first
    if foreign := next(
        (e for e in entries if e.name not in names and not ours.fullmatch(e.name)), None
    ):
        raise UserError(
            f"{directory} holds {foreign.name}, which `i21k pack` did not write. Remove it, or "
            "change --out."
        )
    for entry in entries:
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def check_free_space(directory: Path, num_bytes: int) -> None:
    """Refuse to begin what the disk cannot hold.

    Raises:
        UserError: if less than `num_bytes` are free.
    """
    free = shutil.disk_usage(directory).free
    if free < num_bytes:
        raise UserError(
            f"{directory} has {_size(free)} free; packing needs about {_size(num_bytes)} more, "
            "twice the size of the result. Free some space, change --out, or make images smaller "
            "with --short-side or --quality."
        )


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:,.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:,.1f} MB"
