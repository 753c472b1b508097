"""Labels that are given beside the images: a table of file and class id."""

import csv
import hashlib
import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from i21k.data.sources.rules import SYNSET
from i21k.errors import UserError
from i21k.labels import ClassList

ILSVRC2012_VAL = "ilsvrc2012-val"
# Names of columns in tables of the field, in lower case; our choice.
_FILE_COLUMNS = ("file", "filename", "file_name", "path", "filepath", "image", "imageid", "id")
_CLASS_COLUMNS = ("class", "label", "class_id", "synset", "wnid", "category", "predictionstring")
_EXPECTED = "Give --labels " + ILSVRC2012_VAL + ", or a file with lines of FILE<TAB>CLASS."


class Labels:
    """The class id of each file that a table names.

    Args:
        table: name of the table, for messages.
        class_id_of: class id of each file, named with or without the folders that it is in, and
            with or without its extension.
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
            if class_id := self.class_id_of.get(key):
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
    try:
        lines = Path(table).read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Table of labels {table} cannot be read ({error}). {_EXPECTED}") from error
    class_id_of: dict[str, str] = {}
    for number, file, class_text in _pairs(str(table), lines):
        name = file.removeprefix("./")
        if name in class_id_of:
            raise UserError(
                f"Line {number} of {table} is {lines[number - 1]!r}; expected FILE<TAB>CLASS, each "
                "file once. Correct the table."
            )
        class_id_of[name] = class_text
    integers = sum(text.isdecimal() for text in class_id_of.values())
    if integers and integers == len(class_id_of):
        class_id_of = {
            name: class_of_number(int(text), names, str(table))
            for name, text in class_id_of.items()
        }
    return Labels(str(table), class_id_of)


def class_of_number(label: int, names: ClassList | None, source: str) -> str:
    """Return the class id that an integer label stands for.

    Raises:
        UserError: if there are no names, or too few.
    """
    if names is None:
        raise UserError(
            f"{source} has integer labels, such as {label}, and no names for them. Give the list "
            "that they count in: --classes NAME or FILE, such as --classes ilsvrc2012."
        )
    if not 0 <= label < len(names):
        raise UserError(
            f"{source} has label {label}; expected 0 to {len(names) - 1}, as the given list has "
            f"{len(names)} classes. Change --classes."
        )
    return names.ids[label]


def _pairs(table: str, lines: list[str]) -> Iterator[tuple[int, str, str]]:
    """Yield line number, file and class of each line that is not empty.

    Raises:
        UserError: naming the first line that is not a pair.
    """
    is_csv = _is_csv(lines)
    columns = (0, 1)
    is_first = True
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        cells = next(csv.reader([line])) if is_csv else line.split("\t")
        cells = [cell.strip() if at else cell for at, cell in enumerate(cells)]
        if is_first:
            is_first = False
            if (found := _header(cells)) is not None:
                columns = found
                num_cells = len(cells)
                continue
            num_cells = 2
        if len(cells) != num_cells or not (cells[columns[0]].strip() and cells[columns[1]]):
            raise UserError(
                f"Line {number} of {table} is {line!r}; expected FILE<TAB>CLASS, each file once. "
                "Correct the table."
            )
        class_text = cells[columns[1]]
        if SYNSET.match(class_text):  # Kaggle has boxes behind it
            class_text = class_text.split()[0]
        yield number, cells[columns[0]], class_text


def _is_csv(lines: list[str]) -> bool:
    first = next((line for line in lines if line.strip()), "")
    return "\t" not in first and "," in first


def _header(cells: list[str]) -> tuple[int, int] | None:
    """Return the columns of file and class, if the cells are a header."""
    lower = [cell.strip().lower() for cell in cells]
    file = next((lower.index(name) for name in _FILE_COLUMNS if name in lower), None)
    of_class = next((lower.index(name) for name in _CLASS_COLUMNS if name in lower), None)
    return None if file is None or of_class is None else (file, of_class)


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
