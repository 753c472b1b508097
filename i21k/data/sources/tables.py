"""Labels that are given beside the images: a table of file and class id."""

import hashlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from i21k.errors import UserError

ILSVRC2012_VAL = "ilsvrc2012-val"


class Labels:
    """The class id of each file that a table names.

    Args:
        table: name of the table, for messages.
        class_id_of: class id of each file, named with or without the folders that it is in.
    """

    def __init__(self, table: str, class_id_of: Mapping[str, str]) -> None:
        self.table = table
        self._class_id_of = class_id_of

    def of(self, name: str) -> str:
        """Return the class id of a file; nothing if the table does not name it."""
        return self._class_id_of.get(name) or self._class_id_of.get(PurePosixPath(name).name, "")

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of the content: the table may have another path when packing resumes."""
        lines = (f"{file}\t{class_id}\n" for file, class_id in self._class_id_of.items())
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def read_labels(table: str | Path) -> Labels:
    """Read a table of labels.

    Args:
        table: a file with lines of `FILE<TAB>CLASS`, or "ilsvrc2012-val" for the 50,000 validation
            images of ILSVRC 2012, whose labels the package tensorflow-datasets ships in the order
            of their numbers.

    Raises:
        UserError: if the table cannot be read, or a line is not such a pair.
    """
    if table == ILSVRC2012_VAL:
        return Labels(ILSVRC2012_VAL, ilsvrc2012_val())
    try:
        lines = Path(table).read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"Table of labels {table} cannot be read ({error}). Give --labels {ILSVRC2012_VAL}, "
            "or a file with lines of FILE<TAB>CLASS."
        ) from error
    class_id_of = {}
    for number, line in enumerate(lines, 1):
        name, tab, class_id = line.partition("\t")
        if not (name and tab and class_id.strip()) or "\t" in class_id or name in class_id_of:
            raise UserError(
                f"Line {number} of {table} is {line!r}; expected FILE<TAB>CLASS, each file once. "
                "Correct the table."
            )
        class_id_of[name] = class_id.strip()
    return Labels(str(table), class_id_of)


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
