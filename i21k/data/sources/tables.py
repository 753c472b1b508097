"""Labels that are given beside the images: a table of file and class id."""

import hashlib
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from i21k.data.sources.label_values import class_of_text, label_kind
from i21k.data.sources.table_rows import rows_of
from i21k.errors import UserError
from i21k.files import read_given
from i21k.labels import ClassList

ILSVRC2012_VAL = "ilsvrc2012-val"
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
    for number, file, class_text, of_split in rows_of(table, lines):
        splits.add(of_split)
        kinds.add(label_kind(class_text))  # the same for all splits
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
    return {name: class_of_text(text, kinds, names, table) for name, text in class_id_of.items()}


def slashed(path: str) -> str:
    """Return a path of Windows, `cat\\1.jpg`, with slashes."""
    return path if "/" in path else path.replace("\\", "/")


def splits_of_table(table: str, lines: Sequence[str]) -> list[str]:
    """Return the splits that a column of a table names; an empty one if it has none."""
    return sorted(
        {of_split for *_, of_split in rows_of(table, lines)},
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
