"""Features of images with names and labels, and the files that hold them: npz and Parquet.

The files hold plain arrays and text. Nothing is unpickled.
"""

import dataclasses
import io
import json
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Float, Int

from i21k import files
from i21k.errors import UserError
from i21k.labels import ClassList

FORMAT = "i21k-features-1"
SUFFIXES = (".npz", ".parquet")
_ROWS_PER_GROUP = 1 << 14  # of Parquet, our choice: 32 MB of 1,024 numbers in float16


@dataclasses.dataclass(frozen=True, eq=False)
class Features:
    """N images as F numbers each: what the classifier head of a model takes."""

    array: Float[np.ndarray, "N F"]  # float16 or float32
    names: tuple[str, ...]  # of the files, in the same order
    labels: Int[np.ndarray, " N"]  # in `classes`; -1 where the class is unknown
    classes: ClassList | None = None  # None: no image has a label
    about: dict[str, Any] = dataclasses.field(default_factory=dict)  # the model and the images

    def __post_init__(self) -> None:
        num = len(self.array)
        if self.array.ndim != 2 or num != len(self.names) or self.labels.shape != (num,):
            raise UserError(
                f"features have shape {list(self.array.shape)}, with {len(self.names):,} names and"
                f" {len(self.labels):,} labels. Expected one name and one label for each row."
            )
        top = -1 if self.classes is None else len(self.classes) - 1
        if num and not -1 <= self.labels.min() <= self.labels.max() <= top:
            raise UserError(
                f"labels are from {self.labels.min()} to {self.labels.max()}. Expected -1 to {top}."
            )

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        num_classes = 0 if self.classes is None else len(self.classes)
        return f"Features({len(self):,} images of {num_classes:,} classes, {self.array.dtype})"

    def take(self, rows: Sequence[int] | Int[np.ndarray, " M"]) -> "Features":
        """Return the features of some images."""
        rows = np.asarray(rows, np.int64)
        names = tuple(self.names[row] for row in rows.tolist())
        return dataclasses.replace(
            self, array=self.array[rows], names=names, labels=self.labels[rows]
        )

    def save(self, path: str | Path) -> None:
        """Write a file that is complete or absent. Its ending chooses npz or Parquet."""
        shape, dtype = self.array.shape, self.array.dtype
        write(Path(path), [self.array], shape, dtype, self.names, self.labels, self.classes,
              self.about)  # fmt: skip


def write(
    path: Path,
    blocks: Iterable[np.ndarray],
    shape: tuple[int, ...],
    dtype: Any,
    names: Sequence[str],
    labels: Int[np.ndarray, " N"],
    classes: ClassList | None,
    about: dict[str, Any],
) -> None:
    """Write features that come in blocks, so that they need not fit into memory.

    Args:
        path: ends in .npz or .parquet.
        blocks: arrays [n, F], N rows together.
        shape: (N, F).
        dtype: float16 or float32.
        names: of the images.
        labels: of the images.
        classes: that the labels count.
        about: JSON.

    Raises:
        UserError: if the file has another ending.
    """
    check_suffix(path)
    ids = [] if classes is None else list(classes.ids)
    described = json.dumps({"format": FORMAT, **about})
    with files.replaced(path) as temporary:
        if path.suffix == ".parquet":
            with temporary.open("wb") as stream:
                _write_parquet(stream, blocks, names, labels, ids, described)
            return
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            with archive.open("features.npy", "w", force_zip64=True) as file:
                header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_2_0(file, header)
                for block in blocks:
                    file.write(np.ascontiguousarray(block, dtype).tobytes())
            for name, array in (
                ("names", np.array(names, np.str_)),
                ("labels", np.asarray(labels, np.int32)),
                ("classes", np.array(ids, np.str_)),
                ("about", np.array(described)),
            ):
                content = io.BytesIO()
                np.lib.format.write_array(content, array, allow_pickle=False)
                archive.writestr(f"{name}.npy", content.getvalue())


def load_features(path: str | Path) -> Features:
    """Read features that `i21k embed` wrote.

    >>> import i21k
    >>> found = i21k.load_features("features.npz")
    >>> found.array.shape, found.classes.ids[found.labels[0]]
    ((21, 136), 'n01440764')

    Raises:
        UserError: if the file is missing, damaged, or holds something else.
    """
    path = Path(path)
    check_suffix(path)
    try:
        read = _read_parquet if path.suffix == ".parquet" else _read_npz
        array, names, labels, ids, about = read(path)
        if about.pop("format", None) != FORMAT:
            raise ValueError("another format")
        classes = ClassList(tuple(ids)) if len(ids) else None
        return Features(array, tuple(names), labels, classes, about)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path} cannot be read as features ({text}). Write it with i21k embed."
        ) from error


def check_suffix(path: Path) -> None:
    """Raise a `UserError` if a file of features would have another ending than is known."""
    if path.suffix not in SUFFIXES:
        raise UserError(
            f"{path} ends in {path.suffix!r}. Use a name that ends in .npz or .parquet."
        )


def _read_npz(path: Path) -> tuple[np.ndarray, list[str], np.ndarray, list[str], dict[str, Any]]:
    with files.open_regular(path) as file, np.load(file, allow_pickle=False) as found:
        ids, about = found["classes"].tolist(), files.parse_json(str(found["about"]))
        return found["features"], found["names"].tolist(), found["labels"], ids, about


def _write_parquet(
    stream: BinaryIO,
    blocks: Iterable[np.ndarray],
    names: Sequence[str],
    labels: np.ndarray,
    ids: list[str],
    described: str,
) -> None:
    """Write columns `name`, `label`, `class` and `features`; the rest is metadata of the schema."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer, first = None, 0
    metadata = {"i21k": described, "i21k_classes": json.dumps(ids)}
    for block in blocks:
        kind = pa.float16() if block.dtype == np.float16 else pa.float32()
        features = pa.list_(kind, block.shape[1])
        fields = [("name", pa.string()), ("label", pa.int32()), ("class", pa.string())]
        schema = pa.schema([*fields, ("features", features)], metadata=metadata)
        writer = writer or pq.ParquetWriter(stream, schema)
        part = slice(first, first + len(block))
        first += len(block)
        flat = pa.array(np.ascontiguousarray(block).reshape(-1), kind)
        columns = [
            pa.array([name.encode("utf-8", "backslashreplace").decode() for name in names[part]]),
            pa.array(np.asarray(labels[part], np.int32)),
            pa.array([ids[k] if k >= 0 else None for k in labels[part].tolist()], pa.string()),
            pa.FixedSizeListArray.from_arrays(flat, block.shape[1]),
        ]
        writer.write_table(pa.Table.from_arrays(columns, schema=schema), _ROWS_PER_GROUP)
    if writer is None:
        raise UserError("there are no features to write. Give images that can be read.")
    writer.close()


def _read_parquet(
    path: Path,
) -> tuple[np.ndarray, list[str], np.ndarray, list[str], dict[str, Any]]:
    import pyarrow.parquet as pq

    with files.open_regular(path) as file:  # by name pyarrow takes UTF-8 only
        table = pq.read_table(file)
    metadata = table.schema.metadata or {}
    about, ids = files.parse_json(metadata[b"i21k"]), files.parse_json(metadata[b"i21k_classes"])
    column = table["features"].combine_chunks()
    array = column.flatten().to_numpy(zero_copy_only=False).reshape(len(table), -1)
    return array, table["name"].to_pylist(), table["label"].to_numpy(), ids, about
