"""Parquet files of Hugging Face's `datasets` as a source; the only file that imports pyarrow.

The column `image` holds `bytes` and `path`, the column `label` an integer whose names are in the
schema's metadata. An entry is a row group, and one row group at a time is in memory.
"""

import collections
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from i21k.data.sources.base import (
    MAX_FILE_BYTES,
    NO_LABEL,
    TOO_LARGE,
    ImageSource,
    Member,
    Position,
    check_class_ids,
    counted,
)
from i21k.data.sources.label_values import class_of_number, label_number, label_text
from i21k.errors import UserError
from i21k.files import parse_json
from i21k.labels import ClassList

MAGIC = b"PAR1"
_IMAGE_COLUMNS = ("image", "img", "jpg", "png", "webp")
_LABEL_COLUMNS = ("label", "labels", "fine_label", "cls", "class_name", "class")
_SYNSET_IN_PATH = re.compile(r"_(n\d{8})\.\w+$")  # of ILSVRC/imagenet-1k
_BATCH_ROWS = 64


class ParquetSource(ImageSource):
    """Parquet files of one split, in order.

    Args:
        path: what the user gave, for messages.
        files: in order.
        names: class ids by label. They replace the names in the schema if they are as many.
    """

    def __init__(self, path: Path, files: Sequence[Path], names: ClassList | None) -> None:
        self._files = list(files)
        self._groups: list[tuple[int, int]] = []  # file and row group
        columns = ("", "")
        names_there: tuple[str, ...] | None = None
        digest, num_bytes, num_rows = hashlib.blake2b(digest_size=16), 0, 0
        for number, file in enumerate(files):
            with _opened(file) as parquet:
                metadata = parquet.metadata
                self._groups += [(number, group) for group in range(metadata.num_row_groups)]
                num_rows += metadata.num_rows
                of_file = _columns(path, parquet.schema_arrow)
                of_file_names = _label_names(parquet.schema_arrow, of_file[1])
                if number > 0 and (of_file, of_file_names) != (columns, names_there):
                    raise UserError(
                        f"{file} has other columns or names of labels than {files[0].name}. Pack "
                        "the files that belong together, by a pattern such as 'train-*.parquet'."
                    )
                if number == 0:
                    columns, names_there = of_file, of_file_names
                    first_path = _first_path(parquet, columns[0])
                    is_text = _check_types(path, parquet.schema_arrow, columns)
            digest.update(f"{file.name!a} {file.stat().st_size}\n".encode())
            num_bytes += file.stat().st_size
        self._image, self._label = columns
        self._by_path = bool(_SYNSET_IN_PATH.search(first_path))
        self._names: ClassList | None = None
        if self._by_path:
            by = "synset ids in paths"
        elif is_text:
            by = f"texts in column {self._label}"
        else:
            self._names = self._choose_names(path, names_there, names)
            by = f"{counted(len(self._names), 'name')} of column {self._label}"
            check_class_ids(path, self._names.ids)
        layout = f"{counted(len(files), 'Parquet file')} of {num_rows:,} rows, classes by {by}"
        super().__init__(path, layout, num_bytes, digest.hexdigest())
        self.num_files = num_rows
        self.described = {"classes_by": self._names.hash if self._names else by}

    @staticmethod
    def _choose_names(
        path: Path, names_there: tuple[str, ...] | None, names: ClassList | None
    ) -> ClassList:
        if (
            names is not None
            and names_there is not None
            and len(names) == len(names_there)
            and not set(names.ids) & set(names_there)
        ):
            return names
        if names_there and (wrong := _unfit(names_there)):
            raise UserError(
                f"Source {path} has names of labels that cannot be class ids: {wrong}. Give "
                f"--classes FILE with {len(names_there)} ids in the order of the labels."
            )
        there = ClassList(names_there) if names_there else None
        if there is None:
            class_of_number(0, names, str(path))  # refuses if there are none
            assert names is not None
            return names
        if names is None or names.label_of.keys() & there.label_of.keys():
            return there
        raise UserError(
            f"Source {path} has {len(there)} classes, such as {there.ids[0]!r}, and none of them "
            f"is among the {len(names)} of the given list. Give a list of {len(there)} ids in the "
            "order of the labels, or drop --classes."
        )

    def has_labels(self) -> bool:
        """Return whether a row has a label; a `test` split often has -1 in all rows."""
        import pyarrow

        if self._by_path:
            return True
        for file in self._files:
            with _opened(file) as parquet:
                try:
                    for batch in parquet.iter_batches(columns=[self._label]):
                        if any(map(label_text, batch.column(0).to_pylist())):
                            return True
                except (pyarrow.ArrowException, OSError) as error:
                    if isinstance(error, OSError) and error.errno is not None:
                        raise
                    return True  # its rows are reported as damaged when they are read
        return False

    def list_class_ids(self) -> tuple[str, ...] | None:
        return tuple(sorted(self._names.ids)) if self._names else None

    def entries(self) -> list[Position]:
        return [Position(number, -1) for number in range(len(self._groups))]

    def _entries(
        self, first: Position, stop_entry: int | None
    ) -> Iterator[tuple[int, int, Iterator[Member]]]:
        opened: Any = None
        current = -1
        try:
            for entry, (number, group) in list(enumerate(self._groups))[first.entry : stop_entry]:
                if number != current:
                    if opened is not None:
                        opened.close(force=True)
                    opened, current = _opened(self._files[number]), number
                yield 0, entry, self._of_group(opened, number, group)
        finally:
            if opened is not None:
                opened.close(force=True)

    def _of_group(self, opened: Any, number: int, group: int) -> Iterator[Member]:
        import pyarrow

        container = self._files[number].name
        size = self._files[number].stat().st_size
        num_groups, row = opened.metadata.num_row_groups, 0
        num_rows = opened.metadata.row_group(group).num_rows
        try:
            batches = opened.iter_batches(
                batch_size=_BATCH_ROWS, row_groups=[group], columns=[self._image, self._label]
            )
            for batch in batches:
                for image, label in zip(
                    batch.column(0).to_pylist(), batch.column(1).to_pylist(), strict=True
                ):
                    yield self._member(container, group, row, image, label)
                    row += 1
        except (pyarrow.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            reason = f"damaged row group: {str(error).splitlines()[0]}"
            for lost in range(row, num_rows):
                yield Member(container, f"row group {group}, row {lost}", skipped=reason)
        self.num_bytes_read += size // num_groups

    def _member(self, container: str, group: int, row: int, image: Any, label: Any) -> Member:
        content, path = image, ""
        if isinstance(image, dict):
            content, path = image.get("bytes"), str(image.get("path") or "")
        stem = container.removesuffix(".parquet")
        name = PurePosixPath(path).as_posix().lstrip("/").replace("../", "") if path else ""
        name = name if name not in ("", ".") else f"{stem}_{group:05d}_{row:06d}.jpg"
        if not isinstance(content, bytes):
            return Member(container, name, skipped="no bytes in the row")
        if len(content) > MAX_FILE_BYTES:
            return Member(container, name, skipped=TOO_LARGE)
        if self._by_path:
            match = _SYNSET_IN_PATH.search(path)
            class_id = match.group(1) if match else ""
        elif self._names is None:
            class_id = label_text(label)
        elif (number := label_number(label_text(label))) is None:
            class_id = ""
        else:
            class_id = class_of_number(number, self._names, str(self.path))
        if not class_id:
            return Member(container, name, skipped=NO_LABEL)
        check_class_ids(self.path, (class_id,))
        return Member(container, name, content, class_id)


def _check_types(path: Path, schema: Any, columns: tuple[str, str]) -> bool:
    """Return whether the labels are texts.

    Raises:
        UserError: if a column has values of another kind, such as lists of labels.
    """
    import pyarrow.types as types

    image, label = (schema.field(name).type for name in columns)
    is_binary = types.is_binary(image) or types.is_large_binary(image)
    if not is_binary and not (types.is_struct(image) and image.get_field_index("bytes") >= 0):
        raise UserError(
            f"Source {path} has {_kind(image)} in column {columns[0]}; expected the bytes of an "
            "image file, as `datasets` writes them. Write it again, or give the image files."
        )
    value = label.value_type if types.is_dictionary(label) else label
    is_text = types.is_string(value) or types.is_large_string(value)
    if not is_text and not types.is_integer(value) and not types.is_floating(value):
        raise UserError(
            f"Source {path} has {_kind(label)} in column {columns[1]}; expected one integer or "
            "text for each image. Write the column again."
        )
    return is_text


def _kind(of_type: Any) -> str:
    text = str(of_type)
    return text if len(text) < 40 else f"{text[:40]}..."


def _opened(path: Path) -> Any:
    import pyarrow
    import pyarrow.parquet

    try:
        # By name pyarrow takes UTF-8 only, and `s3:` for an address.
        file = pyarrow.OSFile(os.fsencode(path))
        return pyarrow.parquet.ParquetFile(file, pre_buffer=False, page_checksum_verification=True)
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UserError(
            f"{path} is no Parquet file or not a complete one ({str(error).splitlines()[0]}). "
            "Download it again."
        ) from error


def _columns(path: Path, schema: Any) -> tuple[str, str]:
    image = next((name for name in _IMAGE_COLUMNS if name in schema.names), "")
    label = next((name for name in _LABEL_COLUMNS if name in schema.names), "")
    if not (image and label):
        raise UserError(
            f"Source {path} has the columns {', '.join(schema.names)}; expected image and label. "
            "Rename the columns."
        )
    return image, label


def _label_names(schema: Any, label: str) -> tuple[str, ...] | None:
    """Return the names that `datasets` writes into the metadata of the schema."""
    try:
        about = parse_json((schema.metadata or {}).get(b"huggingface", b"{}"))
        names = about["info"]["features"][label]["names"]
    except (ValueError, KeyError, TypeError):
        return None
    if isinstance(names, dict):  # of the dataset card: {"0": "tench"}
        names = [names[str(k)] for k in range(len(names))]
    return tuple(map(str, names)) or None


def _unfit(names: tuple[str, ...]) -> str:
    """Return what is wrong with the first name that cannot be a class id."""
    counts = collections.Counter(names)
    for name, count in counts.items():
        if count > 1:
            return f"{name!r} is there {count} times"
        if "/" in name or name != name.strip() or not name.isprintable() or not name:
            return f"{name!r}"
    return ""


def _first_path(parquet: Any, image: str) -> str:
    for batch in parquet.iter_batches(batch_size=1, columns=[image]):
        value = batch.column(0)[0].as_py()
        return str(value.get("path") or "") if isinstance(value, dict) else ""
    return ""
