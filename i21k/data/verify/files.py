"""Check the files of a dataset directory: shards, class list, metadata and tables."""

import dataclasses
from pathlib import Path

from i21k.data.format.manifest import MANIFEST, Manifest
from i21k.data.format.tfds import Listing, read_classes
from i21k.data.verify.report import Fault, Faults, SplitReport
from i21k.errors import UserError
from i21k.files import hash_file
from i21k.labels import ClassList


@dataclasses.dataclass(frozen=True)
class ExpectedFile:
    """A shard as it should be; what is unknown without a manifest is None."""

    split: str
    file: str
    num_records: int
    num_bytes: int | None
    sha256: str | None


def expected_files(
    listing: Listing, manifest: Manifest | None, split: str | None, directory: Path, found: Faults
) -> list[ExpectedFile]:
    """List the shards of the wanted splits.

    Two files list them, of which TFDS reads one and we the other. They are compared.
    """
    of_manifest = manifest.splits if manifest else {}
    names = sorted(listing.splits.keys() | of_manifest.keys())
    if split is not None and split not in names:
        raise UserError(
            f"{directory} has no split {split!r}; expected one of {', '.join(names)}; change "
            f"--split"
        )
    files = []
    for name in names if split is None else (split,):
        if name not in of_manifest:
            files += [
                ExpectedFile(name, file, count, None, None) for file, count in listing.splits[name]
            ]
            continue
        entry = of_manifest[name]
        files += [
            ExpectedFile(name, shard.file, shard.num_records, shard.num_bytes, shard.sha256)
            for shard in entry.shards
        ]
        listed, packed = (
            listing.splits.get(name, ()),
            tuple((shard.file, shard.num_records) for shard in entry.shards),
        )
        if listed != packed:
            num_listed = sum(count for _, count in listed)
            of_listed = f"{num_listed:,} records in {len(listed):,} shards of split {name!r}"
            of_packed = f"{entry.num_records:,} in {len(packed):,} in {MANIFEST}"
            of_packed += ", shard by shard and under the same file names"
            found.add(Fault.of_file("dataset_info.json", "metadata", of_listed, of_packed))
    return files


def check_classes(
    directory: Path, manifest: Manifest | None, found: Faults
) -> tuple[ClassList | None, bool]:
    """Return the class list if it can be read, and whether file names may be judged by it."""
    try:
        classes = read_classes(directory)
    except ValueError as error:
        expected = "the class list of the dataset"
        found.add(Fault.of_file("label.labels.txt", "class list", str(error), expected))
        return None, False
    if manifest is None or manifest.class_list_hash == classes.hash:
        return classes, True
    what = f"{len(classes):,} classes with hash {classes.hash}"
    expected = f"hash {manifest.class_list_hash} in {MANIFEST}"
    found.add(Fault.of_file("label.labels.txt", "class list", what, expected))
    return classes, False


def check_other_files(directory: Path, manifest: Manifest | None, found: Faults) -> None:
    """Compare metadata and tables with their hashes, except those with faults already."""
    named = {fault.file for fault in found.named}
    for file, sha256 in manifest.files.items() if manifest else ():
        if file in named:
            continue
        expected = f"SHA-256 {sha256} in {MANIFEST}"
        try:
            if (actual := hash_file(directory / file)) != sha256:
                found.add(Fault.of_file(file, "hash", f"SHA-256 {actual}", expected))
        except FileNotFoundError:
            found.add(Fault.of_file(file, "missing", "no such file", expected))
        except OSError as error:
            found.add(Fault.of_file(file, "unreadable", error.strerror or str(error), expected))


def check_presence(
    directory: Path, files: list[ExpectedFile], totals: dict[str, SplitReport], found: Faults
) -> list[tuple[ExpectedFile, int]]:
    """Return the files that are there, each with its size."""
    present = []
    for file in files:
        try:
            num_bytes = (directory / file.file).stat().st_size
        except OSError as error:
            what, expected = (
                error.strerror or str(error),
                f"a shard of {file.num_records:,} records",
            )
            found.add(Fault.of_file(file.file, "missing", what, expected))
            continue
        totals[file.split].num_shards += 1
        totals[file.split].num_bytes += num_bytes
        if file.num_bytes is not None and num_bytes != file.num_bytes:
            what, expected = f"{num_bytes:,} bytes", f"{file.num_bytes:,} bytes"
            found.add(Fault.of_file(file.file, "size", what, expected))
        present.append((file, num_bytes))
    return present
