"""Tables in files for other tools: CSV, JSON lines and Parquet, written row by row.

All formats have the same columns. A missing value is an empty cell, null, or null.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Protocol, runtime_checkable

from i21k import files
from i21k.errors import UserError
from i21k.text import escaped

FORMATS = {".csv": "csv", ".jsonl": "jsonl", ".parquet": "parquet"}
_ROWS_PER_GROUP = 1 << 14  # our choice: of a Parquet file; some MB in memory

Columns = Mapping[str, type]  # name: str, int or float
Row = Mapping[str, Any]


@runtime_checkable
class TableWriter(Protocol):
    """Writes rows to a binary stream. `close` ends the table and leaves the stream open."""

    def write(self, rows: Iterable[Row]) -> None:
        """Add rows."""

    def close(self) -> None:
        """Write what is left."""


def format_of(path: Path) -> str:
    """Return the format that a file's name means.

    Raises:
        UserError: if its ending means none.
    """
    if path.suffix.lower() not in FORMATS:
        raise UserError(
            f"{path} ends in {path.suffix!r}; expected {', '.join(FORMATS)}. Change the name."
        )
    return FORMATS[path.suffix.lower()]


def writer(table_format: str, stream: BinaryIO, columns: Columns) -> TableWriter:
    """Return a writer of a format in `FORMATS`."""
    kinds: dict[str, Callable[[BinaryIO, Columns], TableWriter]] = {
        "csv": _Csv,
        "jsonl": _JsonLines,
        "parquet": _Parquet,
    }
    return kinds[table_format](stream, columns)


class _Csv:
    def __init__(self, stream: BinaryIO, columns: Columns) -> None:
        self._stream, self._columns = stream, list(columns)
        self._send(lambda table: table.writeheader())

    def write(self, rows: Iterable[Row]) -> None:
        # Names of files may hold what steers a terminal, and people look at CSV in one.
        shown = (
            {k: escaped(v, "\n\t") if isinstance(v, str) else v for k, v in r.items()} for r in rows
        )
        self._send(lambda table: table.writerows(shown))

    def close(self) -> None:
        self._stream.flush()

    def _send(self, fill: Any) -> None:
        text = io.StringIO()
        fill(csv.DictWriter(text, self._columns, lineterminator="\n"))
        self._stream.write(text.getvalue().encode("utf-8", "backslashreplace"))


class _JsonLines:
    def __init__(self, stream: BinaryIO, columns: Columns) -> None:
        self._stream = stream

    def write(self, rows: Iterable[Row]) -> None:
        for row in rows:
            shown = {key: _text(value) for key, value in row.items()}
            self._stream.write(json.dumps(shown, allow_nan=False).encode() + b"\n")

    def close(self) -> None:
        self._stream.flush()


class _Parquet:
    def __init__(self, stream: BinaryIO, columns: Columns) -> None:
        import pyarrow
        import pyarrow.parquet

        self._table = pyarrow.Table
        self._schema = pyarrow.schema(list(_types(columns).items()))
        self._file = pyarrow.parquet.ParquetWriter(stream, self._schema, compression="zstd")
        self._rows: list[dict[str, Any]] = []

    def write(self, rows: Iterable[Row]) -> None:
        self._rows += [{key: _text(value) for key, value in row.items()} for row in rows]
        if len(self._rows) >= _ROWS_PER_GROUP:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._file.close()

    def _flush(self) -> None:
        if self._rows:
            self._file.write_table(self._table.from_pylist(self._rows, self._schema))
            self._rows = []


def _text(value: Any) -> Any:
    """Return a value that UTF-8 can hold: names of files may have lone surrogates."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    return value


def read(path: Path, columns: Columns) -> dict[str, list[Any]]:
    """Return columns of a table in the order of its rows; None where a value is missing.

    Raises:
        UserError: if the file cannot be read, or a column is missing.
    """
    import pyarrow

    table_format, types = format_of(path), _types(columns)
    try:
        # An open file: pyarrow gives folders named x=y a meaning, and takes names of UTF-8 only.
        with files.open_regular(path) as file:
            table = _read(file, table_format, types)
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(
            f"{path} cannot be read as a table ({str(error).splitlines()[0]}). Write it again."
        ) from error
    if lacking := [name for name in columns if name not in table.column_names]:
        raise UserError(
            f"{path} lacks the column {lacking[0]!r}; it has {', '.join(table.column_names)}."
            " Give a file of i21k evaluate --predictions."
        )
    return {name: table.column(name).to_pylist() for name in columns}


def _read(file: BinaryIO, table_format: str, types: dict[str, Any]) -> Any:
    import pyarrow
    import pyarrow.csv
    import pyarrow.json
    import pyarrow.parquet

    if table_format == "parquet":
        return pyarrow.parquet.read_table(file)
    if table_format == "csv":
        return pyarrow.csv.read_csv(
            file,
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=types, null_values=[""], strings_can_be_null=True
            ),
        )
    options = pyarrow.json.ParseOptions(explicit_schema=pyarrow.schema(list(types.items())))
    return pyarrow.json.read_json(file, parse_options=options)


def _types(columns: Columns) -> dict[str, Any]:
    import pyarrow

    types = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64()}
    return {name: types[kind] for name, kind in columns.items()}
