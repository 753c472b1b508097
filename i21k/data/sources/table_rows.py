"""The rows of a table of files and classes, and the columns that they are in."""

import csv
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from i21k.data.sources.label_values import is_number, label_kind, label_text
from i21k.data.sources.rules import SPLITS, SYNSET
from i21k.errors import UserError

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


class _Columns(NamedTuple):
    """Where file, class and split are in a row; the split is -1 if no column names it."""

    file: int
    of_class: int
    split: int
    num_cells: int


def rows_of(table: str, lines: Sequence[str]) -> Iterator[tuple[int, str, str, str]]:
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


def _header(cells: list[str], following: list[list[str]]) -> tuple[_Columns, bool]:
    """Return the columns, and whether the first row is a header."""
    lower = [cell.strip().lower() for cell in cells]

    def find(names: Sequence[str]) -> int:
        return next((lower.index(name) for name in names if name in lower), -1)

    def kinds(at: int) -> set[str]:
        return {label_kind(label_text(row[at])) for row in following if at < len(row)}

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
