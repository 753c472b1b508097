"""The ImageNet challenge as Kaggle ships it: class folders for train, a flat val with a table."""

import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from i21k.data.sources.base import SourceDamaged
from i21k.data.sources.rules import SYNSET
from i21k.data.sources.tables import (
    ILSVRC2012_VAL,
    Labels,
    ilsvrc2012_val,
    parse_labels,
    read_labels,
)
from i21k.data.sources.zips import is_zip, opened_zip, read_zip_file, zip_files
from i21k.errors import UserError

_TABLE = "LOC_val_solution.csv"
_VAL_PREFIX = "ILSVRC2012_val_"
_FEW = 20  # entries of a folder around a download; our choice


def find_root(path: Path) -> Path | None:
    """Return the folder `CLS-LOC` with `train` and `val`, at or below a path, if there is one."""
    entries = [entry for entry in path.iterdir() if not entry.name.startswith(".")]
    alone = [entry for entry in entries if entry.is_dir()] if len(entries) < _FEW else []
    for start in (path, *(alone if len(alone) == 1 else ())):  # a folder around the download
        for below in ("", "CLS-LOC", "Data/CLS-LOC", "ILSVRC/Data/CLS-LOC"):
            root = start / below
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
            return Labels(_TABLE, read_labels(folder / _TABLE).class_id_of)
    return Labels(ILSVRC2012_VAL, ilsvrc2012_val())


def labels_of_val(names: Iterable[str], source: Path) -> Labels | None:
    """Return the labels of files that are the validation images of ILSVRC 2012, else None.

    Args:
        names: of some files.
        source: a folder, which may have Kaggle's table beside it, or an archive.

    Raises:
        UserError: if the table in a zip is damaged.
    """
    if not any(name.startswith(_VAL_PREFIX) for name in names):
        return None
    if source.is_dir():
        return val_labels(source)
    if is_zip(source):
        for info in zip_files(source):
            if PurePosixPath(info.filename).name == _TABLE:
                return Labels(_TABLE, parse_labels(_TABLE, _lines_in_zip(source, info)))
    return Labels(ILSVRC2012_VAL, ilsvrc2012_val())


def _lines_in_zip(path: Path, info: zipfile.ZipInfo) -> list[str]:
    try:
        with opened_zip(path) as archive:
            return read_zip_file(archive, info).decode("utf-8-sig").splitlines()
    except (SourceDamaged, UnicodeDecodeError) as error:
        raise UserError(
            f"Source {path} has a damaged file {info.filename} ({error}). Download it again."
        ) from error
