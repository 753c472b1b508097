"""A list of image files as a source: a table of path and label, or lines of standard input."""

import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from i21k.data.sources.base import counted, is_ignored
from i21k.data.sources.folders import ListedFiles
from i21k.data.sources.rules import SYNSET
from i21k.data.sources.tables import class_of_number, read_labels
from i21k.errors import UserError
from i21k.labels import ClassList

STANDARD_INPUT = "-"


def table_source(path: Path, names: ClassList | None) -> ListedFiles:
    """Return the images that a table names; their paths are relative to the table's folder.

    Raises:
        UserError: if the table cannot be read, or names no file that is there.
    """
    labels = read_labels(path, names)
    files = list(labels.class_id_of.items())
    root = path.parent
    if not any((root / name).exists() for name, _ in files):
        example = files[0][0] if files else "nothing"
        raise UserError(
            f"Table {path} names {example}, which is not in {root}. Put the table into the folder "
            f"of the images, or give the folder as SOURCE and --labels {path}."
        )
    source = ListedFiles(path, root, files, f"table of {counted(len(files), 'image')}")
    source.described = {"labels": labels.hash}
    return source


def standard_input_source(lines: Iterable[str], names: ClassList | None) -> ListedFiles:
    """Return the images of a list of files, such as `find` prints it.

    A line is a path, or a path and a class with a tab between. Without a class it is the innermost
    folder that is named by a synset id, or else the folder that the file is in.

    Raises:
        UserError: if the list is empty, or a file is in no folder.
    """
    files: list[tuple[str, str]] = []
    for line in lines:
        name, _, class_text = line.rstrip("\r\n").partition("\t")
        if not name.strip() or is_ignored(name):
            continue
        folders = PurePosixPath(name).parts[:-1]
        if class_text.strip():
            text = class_text.strip()
            class_id = class_of_number(int(text), names, "The list") if text.isdecimal() else text
        else:
            synsets = [folder for folder in folders if SYNSET.fullmatch(folder)]
            class_id = (synsets or [folder for folder in folders if folder != "."] or [""])[-1]
        if not class_id or class_id in ("/", ".."):
            raise UserError(
                f"File {name} of standard input is in no folder that could be its class. Write "
                "FILE<TAB>CLASS."
            )
        files.append((name, class_id))
    if not files:
        raise UserError("Standard input names no files. Write one path a line.")
    layout = f"list of {counted(len(files), 'file')} on standard input"
    source = ListedFiles(Path("stdin"), Path(), files, layout)
    digest = hashlib.sha256("".join(f"{n}\t{c}\n" for n, c in files).encode()).hexdigest()
    source.described = {"labels": digest}
    return source


def read_standard_input() -> list[str]:
    """Return the lines of standard input."""
    return sys.stdin.read().splitlines()
