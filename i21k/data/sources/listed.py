"""A list of image files as a source: a table of path and label, or lines of standard input."""

import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from i21k.data.sources.base import counted, is_ignored
from i21k.data.sources.folders import ListedFiles
from i21k.data.sources.label_values import class_of_number
from i21k.data.sources.rules import SPLITS, SYNSET, split_of
from i21k.data.sources.tables import (
    Labels,
    parse_labels,
    read_lines,
    splits_of_table,
)
from i21k.errors import UserError
from i21k.labels import ClassList

STANDARD_INPUT = "-"


def table_sources(path: Path, names: ClassList | None) -> dict[str, ListedFiles]:
    """Return the images that a table names, by split; paths are relative to the table's folder.

    The split is empty if no column names it.

    Raises:
        UserError: if the table cannot be read, or names no file that is there.
    """
    lines, root = read_lines(path), path.parent
    found = {
        split: Labels(str(path), parse_labels(str(path), lines, names, split))
        for split in splits_of_table(str(path), lines)
    }
    files = {split: list(labels.class_id_of.items()) for split, labels in found.items()}
    all_files = [name for of_split in files.values() for name, _ in of_split]
    if not all_files:
        raise UserError(f"Table {path} names no files. Give lines of FILE<TAB>CLASS.")
    if not any((root / name).exists() for name in all_files):
        raise UserError(
            f"Table {path} names {all_files[0]}, which is not in the folder {root.resolve()}. Put "
            "the table into the folder of the images, or give the folder as SOURCE and --labels "
            f"{path}."
        )
    sources = {}
    for split, labels in found.items():
        layout = f"table of {counted(len(files[split]), 'image')}"
        sources[split] = ListedFiles(path, root, files[split], layout)
        sources[split].described = {"labels": labels.hash}
    return sources


def standard_input_sources(lines: Iterable[str], names: ClassList | None) -> dict[str, ListedFiles]:
    """Return the images of a list of files, such as `find` prints it, by split.

    A line is a path, or a path and a class with a tab between. Without a class it is the innermost
    folder that is named by a synset id, or else the folder that the file is in. If every path has
    a folder such as `train` or `val` before its class, that is its split; otherwise the split is
    empty.

    Raises:
        UserError: if the list is empty, a file is in no folder, or a line is there twice.
    """
    by_split: dict[str, list[tuple[str, str]]] = {}
    seen = set[tuple[str, str]]()
    lines = list(lines)
    has_classes = any("\t" in line for line in lines)
    has_train = any(split_of(folder) == "train" for line in lines for folder in line.split("/"))
    for number, line in enumerate(lines, 1):
        name, _, class_text = line.rstrip("\r\n").partition("\t")
        if not name.strip() or is_ignored(name):
            continue
        name = name.removeprefix("./")
        split, class_id = _split_and_class(name, class_text.strip(), names, has_train)
        if (name, class_id) in seen:
            raise UserError(f"Line {number} of standard input is there twice: {name}. Remove one.")
        seen.add((name, class_id))
        by_split.setdefault(split, []).append((name, class_id))
    found = {class_id for of_split in by_split.values() for _, class_id in of_split}
    if len(found) == 1 and not has_classes and not SYNSET.fullmatch(one := found.pop()):
        raise UserError(
            f"All files of standard input are in the class {one!r}, by the folder that they are in."
            " Write FILE<TAB>CLASS, also if one class is right."
        )
    if not by_split:
        raise UserError("Standard input names no files. Write one path a line.")
    if "" in by_split:
        by_split = {"": [file for of_split in by_split.values() for file in of_split]}
    sources = {}
    for split in sorted(by_split, key=lambda name: (name != "train", name)):
        files = by_split[split]
        layout = f"list of {counted(len(files), 'file')} on standard input"
        sources[split] = ListedFiles(Path("stdin"), Path(), files, layout)
        digest = hashlib.sha256("".join(f"{n}\t{c}\n" for n, c in files).encode(*_BYTES))
        sources[split].described = {"labels": digest.hexdigest()}
    return sources


def _split_and_class(
    name: str, class_text: str, names: ClassList | None, has_train: bool
) -> tuple[str, str]:
    """Return split and class; names such as `dev` are splits only where another is `train`."""
    folders = [folder for folder in PurePosixPath(name).parts[:-1] if folder not in ("/", "..")]
    if class_text:
        is_number = class_text.isdecimal()
        return "", class_of_number(int(class_text), names, "The list") if is_number else class_text
    synsets = [at for at, folder in enumerate(folders) if SYNSET.fullmatch(folder)]
    if not folders and Path(name).is_dir():
        raise UserError(
            f"Standard input names the folder {name}; expected files. Add -type f to find."
        )
    if not folders:
        raise UserError(
            f"File {name} of standard input is in no folder that could be its class. Write "
            "FILE<TAB>CLASS."
        )
    at = synsets[-1] if synsets else len(folders) - 1
    known = split_of if has_train else lambda folder: SPLITS.get(folder.lower(), "")
    split = next((split for folder in folders[:at][::-1] if (split := known(folder))), "")
    return split, folders[at]


_BYTES = ("utf-8", "surrogateescape")


def read_standard_input() -> list[str]:
    """Return the lines of standard input, or what is between zeros, as `find -print0` writes."""
    content = sys.stdin.buffer.read().removeprefix(b"\xef\xbb\xbf").decode(*_BYTES)
    return content.split("\0") if "\0" in content else content.split("\n")
