"""The ImageNet challenge as Kaggle ships it: class folders for train, a flat val with a table."""

from collections.abc import Iterable
from pathlib import Path

from i21k.data.sources.rules import SYNSET
from i21k.data.sources.tables import ILSVRC2012_VAL, Labels, ilsvrc2012_val, read_labels

_TABLE = "LOC_val_solution.csv"
_VAL_PREFIX = "ILSVRC2012_val_"


def find_root(path: Path) -> Path | None:
    """Return the folder `CLS-LOC` with `train` and `val`, at or below a path, if there is one."""
    for below in ("", "CLS-LOC", "Data/CLS-LOC", "ILSVRC/Data/CLS-LOC"):
        root = path / below
        if (
            (root / "train").is_dir()
            and (root / "val").is_dir()
            and any(file.name.startswith(_VAL_PREFIX) for file in (root / "val").iterdir())
            and any(SYNSET.fullmatch(folder.name) for folder in (root / "train").iterdir())
        ):
            return root
    return None


def val_labels(root: Path) -> Labels:
    """Return the labels of `val`: of the table that Kaggle ships, or the published ones."""
    for folder in (root, *list(root.absolute().parents)[:4]):
        if (folder / _TABLE).is_file():
            return read_labels(folder / _TABLE)
    return Labels(ILSVRC2012_VAL, ilsvrc2012_val())


def labels_of_val(names: Iterable[str]) -> Labels | None:
    """Return the published labels, if the files are the validation images of ILSVRC 2012."""
    if any(name.startswith(_VAL_PREFIX) for name in names):
        return Labels(ILSVRC2012_VAL, ilsvrc2012_val())
    return None
