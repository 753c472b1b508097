"""Labels that are given beside the images: a table of file and class id."""

import csv
import hashlib
import importlib.util
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from i21k.data.sources.label_values import (
    class_of_number,
    is_number,
    label_number,
    label_text,
)
from i21k.data.sources.rules import SPLITS, SYNSET
from i21k.errors import UserError
from i21k.files import read_given
from i21k.labels import ClassList

ILSVRC2012_VAL = "ilsvrc2012-val"
# Names of columns in tables of the field, in lower case; our choice.
_FILE_COLUMNS = (
    "file",
    "filename",
    "file_name",
    "path",
    "filepath",
    "image",
    "imageid",
    "image_id",
    "image_name",
    "image_path",
    "filepaths",
    "filenames",
    "img_path",
    "img",
    "id",
)
_CLASS_COLUMNS = (
    "class",
    "label",
    "labels",
    "class_name",
    "class_id",
    "synset",
    "wnid",
    "category",
    "predictionstring",
    "breed",
    "target",
    "species",
    "y",
)
_SPLIT_COLUMNS = ("split", "subset", "partition", "set", "data set")
_WITH_BLANK = re.compile(r"\S.*\.\w+\s+(n\d{8}|-?\d+)")
_LOOKED_AT_ROWS = 100  # to find the column of classes; our choice
_EXPECTED = "Give --labels " + ILSVRC2012_VAL + ", or a file with lines of FILE<TAB>CLASS."


class Labels:
    """The class id of each file that a table names.

    Args:
        table: name of the table, for messages.
        class_id_of: class id of each file, named with or without the folders that it is in, and
            with or without its extension; empty if its label is missing.
    """

    def __init__(self, table: str, class_id_of: Mapping[str, str]) -> None:
        self.table = table
        self.class_id_of = class_id_of
        self._paths_by_file: dict[str, list[str]] = {}  # of paths with folders
        for path in class_id_of:
            if "/" in path:
                self._paths_by_file.setdefault(PurePosixPath(path).name, []).append(path)

    def of(self, name: str) -> str:
        """Return the class id of a file; nothing if the table does not name it."""
        file = PurePosixPath(name)
        for key in (name, file.name, str(file.with_suffix("")) if file.name else "", file.stem):
            if (class_id := self.class_id_of.get(key)) is not None:
                return class_id
        # The source may be a folder inside the one that the table was made in.
        paths = self._paths_by_file.get(file.name, [])
        found = {self.class_id_of[path] for path in paths if path.endswith(f"/{name}")}
        return found.pop() if len(found) == 1 else ""

    def split(self, name: str) -> tuple[str, str]:
        """Return the class id of a file, and its name: labels are a `Rule`."""
        return self.of(name), name

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of the content: the table may have another path when packing resumes."""
        lines = (f"{file}\t{class_id}\n" for file, class_id in self.class_id_of.items())
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def read_labels(table: str | Path, names: ClassList | None = None) -> Labels:
    """Read a table of labels.

    Args:
        table: a TSV or CSV of file and class, with or without a header, such as Kaggle's
            `LOC_val_solution.csv`; or "ilsvrc2012-val" for the 50,000 validation images of ILSVRC
            2012, whose labels the package tensorflow-datasets ships in the order of their numbers.
        names: class ids by label, for a table with integers.

    Raises:
        UserError: if the table cannot be read, a line is not such a pair, or integers have no
            names.
    """
    if table == ILSVRC2012_VAL:
        return Labels(ILSVRC2012_VAL, ilsvrc2012_val())
    return Labels(str(table), parse_labels(str(table), read_lines(table), names))


def parse_labels(
    table: str, lines: Sequence[str], names: ClassList | None = None, split: str | None = None
) -> dict[str, str]:
    """Return the class id of each file in the lines of a table; empty if its label is missing.

    Args:
        table: name of the table, for messages.
        lines: as `read_labels` takes them.
        names: class ids by label, for integers.
        split: only the files of this split; None if the table must have one split at most.

    Raises:
        UserError: as `read_labels` does, or if the table has several splits and `split` is None.
    """
    class_id_of: dict[str, str] = {}
    splits, kinds = set[str](), set[str]()
    for number, file, class_text, of_split in _rows(table, lines):
        splits.add(of_split)
        kinds.add(_kind(class_text))  # the same for all splits
        if split is not None and of_split != split:
            continue
        name = slashed(file).removeprefix("./")
        if name in class_id_of:
            raise UserError(
                f"Line {number} of {table} is {lines[number - 1]!r}; expected FILE<TAB>CLASS, each "
                "file once. Correct the table."
            )
        class_id_of[name] = class_text
    if split is None and len(splits) > 1:
        raise UserError(
            f"Table {table} has a column with the splits {', '.join(sorted(splits))}. Give the "
            "table as SOURCE, in the folder that its paths begin in."
        )
    if kinds and kinds <= {"missing", "fraction"}:
        what = "only fractions as labels" if "fraction" in kinds else "no labels"
        raise UserError(
            f"Table {table} has {what}; expected FILE<TAB>CLASS. Give a table with a class for "
            "each file, in a column of the name label."
        )
    if "text" in kinds:
        return class_id_of
    numbers = {name: label_number(text) for name, text in class_id_of.items()}
    return {
        name: "" if label is None else class_of_number(label, names, table)
        for name, label in numbers.items()
    }


def slashed(path: str) -> str:
    """Return a path of Windows, `cat\\1.jpg`, with slashes."""
    return path if "/" in path else path.replace("\\", "/")


def splits_of_table(table: str, lines: Sequence[str]) -> list[str]:
    """Return the splits that a column of a table names; an empty one if it has none."""
    return sorted(
        {of_split for *_, of_split in _rows(table, lines)},
        key=lambda split: (split != "train", split),
    )


def read_lines(table: str | Path) -> list[str]:
    """Return the lines of a table.

    Raises:
        UserError: if it cannot be read.
    """
    try:
        content = read_given(Path(table))
        is_utf_16 = content.startswith((b"\xff\xfe", b"\xfe\xff"))
        return content.decode("utf-16" if is_utf_16 else "utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(
            f"Table of labels {table} is not in UTF-8 ({error}). Save it in UTF-8."
        ) from error
    except OSError as error:
        raise UserError(f"Table of labels {table} cannot be read ({error}). {_EXPECTED}") from error


class _Columns(NamedTuple):
    """Where file, class and split are in a row; the split is -1 if no column names it."""

    file: int
    of_class: int
    split: int
    num_cells: int


def _rows(table: str, lines: Sequence[str]) -> Iterator[tuple[int, str, str, str]]:
    """Yield line number, file, `label_text` and split of each line that is not empty.

    Raises:
        UserError: naming the first line that is no such row.
    """
    split_cells = _separator(_first(lines, 2))
    columns: _Columns | None = None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        cells = split_cells(line)
        cells = [cell.strip() if at else cell for at, cell in enumerate(cells)]
        if columns is None:
            columns, is_header = _header(
                cells, [split_cells(text) for text in _first(lines[number:], _LOOKED_AT_ROWS)]
            )
            if is_header:
                continue
        if len(cells) != columns.num_cells or not cells[columns.file].strip():
            raise UserError(
                f"Line {number} of {table} is {line!r}; expected FILE<TAB>CLASS, each file once. "
                "Correct the table."
            )
        class_text = label_text(cells[columns.of_class])
        if SYNSET.match(class_text):  # Kaggle has boxes behind it
            class_text = class_text.split()[0]
        split = ""
        if columns.split >= 0:
            split = SPLITS.get(cells[columns.split].lower(), cells[columns.split])
        yield number, cells[columns.file], class_text, split


def _first(lines: Iterable[str], number: int) -> list[str]:
    """Return the first lines that are not empty."""
    return list(itertools.islice((line for line in lines if line.strip()), number))


def _separator(lines: Sequence[str]) -> Callable[[str], list[str]]:
    """Return what cuts a line into cells, by the first lines: tabs, commas, semicolons or a blank.

    The blank is the last one of a line, as in the lists of Caffe.
    """
    first = lines[0] if lines else ""
    if "\t" in first:
        return lambda line: [_unquoted(cell) for cell in line.split("\t")]
    for separator in (",", ";"):
        if separator in first:
            return lambda line: next(csv.reader([line], delimiter=separator))
    if lines and all(_WITH_BLANK.fullmatch(line.strip()) for line in lines):
        return lambda line: line.strip().rsplit(None, 1)
    return lambda line: [line]


def _unquoted(cell: str) -> str:
    return cell[1:-1] if len(cell) > 1 and cell[0] == cell[-1] == '"' else cell


def _kind(text: str) -> str:
    """Return whether a `label_text` is missing, an integer, a fraction or another text."""
    if not text:
        return "missing"
    if label_number(text) is not None:
        return "integer"
    return "fraction" if is_number(text) else "text"


def _header(cells: list[str], following: list[list[str]]) -> tuple[_Columns, bool]:
    """Return the columns, and whether the first row is a header."""
    lower = [cell.strip().lower() for cell in cells]

    def find(names: Sequence[str]) -> int:
        return next((lower.index(name) for name in names if name in lower), -1)

    def kinds(at: int) -> set[str]:
        return {_kind(label_text(row[at])) for row in following if at < len(row)}

    file, of_class = find(_FILE_COLUMNS), find(_CLASS_COLUMNS)
    # Names are better than integers, and fractions are no classes: `y` is often a coordinate.
    at_named = [lower.index(name) for name in _CLASS_COLUMNS if name in lower]
    for kind in ("text", "integer"):
        if with_kind := [at for at in at_named if kind in kinds(at)]:
            of_class = with_kind[0]
            break
    if file >= 0 and of_class >= 0:
        return _Columns(file, of_class, find(_SPLIT_COLUMNS), len(cells)), True
    if len(cells) > 2 and all(map(is_number, cells[2:])) and PurePosixPath(cells[0]).suffix:
        return _Columns(0, 1, -1, len(cells)), False  # boxes behind it, as in Tiny ImageNet
    # Other names of two columns: only file names have an ending.
    is_header = bool(
        len(cells) == 2
        and following
        and not PurePosixPath(cells[0]).suffix
        and PurePosixPath(following[0][0]).suffix
    )
    return _Columns(0, 1, -1, 2), is_header


def ilsvrc2012_val() -> dict[str, str]:
    """Return the class id of each validation image of ILSVRC 2012 by file name."""
    spec = importlib.util.find_spec("tensorflow_datasets")  # found, not imported
    assert spec is not None and spec.origin is not None
    path = Path(spec.origin).parent / "datasets" / "imagenet2012" / "validation_labels.txt"
    class_ids = path.read_text("utf-8").split()
    return {
        f"ILSVRC2012_val_{number:08d}.JPEG": class_id
        for number, class_id in enumerate(class_ids, 1)
    }
