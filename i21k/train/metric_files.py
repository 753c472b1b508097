"""`metrics.jsonl` and `metrics.csv` of a run: repaired when they are opened, and never in its way.

Every row is in both files. `metrics.jsonl` is only appended to, so it survives more.
"""

import csv
import json
import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from i21k import log
from i21k.errors import UserError
from i21k.files import parse_json, replaced, write_bytes

_NUMBER = r"[0-9]{1,18}(\.[0-9]+)?"  # longer ones are damage
# Of a record: metrics, and numbers that only `metrics.jsonl` has.
_NAME = re.compile("[a-z][a-z0-9-]*(_[a-z0-9]+)*")
_METRIC = re.compile(  # the names of sets have no underscore
    "lr|images_per_s|data_wait_fraction|train_s|[a-z][a-z0-9-]*(_ema)?(_over)?_(loss|top[0-9]+)"
)
_MOST = 1e39  # what devices compute is below it: float32
ROW_KINDS = ("epoch", "evaluation")  # of the records that are rows too
Row = dict[str, str]
Record = dict[str, Any]


class MetricFiles:
    """The files of a run. What a full disk refuses is kept and written with the next record."""

    def __init__(self, workdir: Path, restored_step: int) -> None:
        """Read the files, repair them, and drop what comes after `restored_step`.

        Raises:
            UserError: if a line of `metrics.csv` is damaged and `metrics.jsonl` has no rows.
        """
        self._csv, self._jsonl = workdir / "metrics.csv", workdir / "metrics.jsonl"
        self.attempt = Attempts()
        records, bad = _read_records(self._jsonl)
        self.records = [record for record in records if record["step"] <= restored_step]
        rows = _rows(self._csv, self.records)
        self.rows = [row for row in rows if int(row["step"]) <= restored_step]
        self._pending, self._bad, self._is_repaired = b"", bad, False
        self.attempt(self._jsonl, self._repair)

    def _repair(self) -> None:
        if bad := self._bad:
            aside = self._jsonl.with_suffix(".bad.jsonl")
            with aside.open("ab") as file:
                file.writelines(line + b"\n" for line in bad.values())
            numbers = ", ".join(map(str, list(bad)[:5])) + ", ..." * (len(bad) > 5)
            log.warning(
                f"{len(bad)} lines of {self._jsonl} are not records (line {numbers}). They were"
                f" moved to {aside.name}; all others are used."
            )
        write_bytes(self._jsonl, b"".join(map(_line, self.records)))
        self._is_repaired = True

    def append(self, record: Record) -> None:
        """Append a record. A row is on the disk before this returns."""
        self._pending += _line(record)
        self.attempt(self._jsonl, lambda: self._append(durable=record["kind"] in ROW_KINDS))

    def _append(self, durable: bool) -> None:
        if not self._is_repaired:
            self._repair()
        with self._jsonl.open("ab", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            try:
                written = 0
                while written < len(self._pending):
                    written += file.write(self._pending[written:]) or 0
                if durable:
                    os.fsync(file.fileno())
            except OSError:
                file.truncate(size)
                raise
        self._pending = b""

    def write_rows(self, columns: Sequence[str], rows: Sequence[Row]) -> None:
        """Write all rows to `metrics.csv`. They are on the disk before this returns."""

        def write() -> None:
            with replaced(self._csv) as temporary, temporary.open("w", newline="") as file:
                writer = csv.DictWriter(file, columns, lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)

        self.attempt(self._csv, write)


class Attempts:
    """Writes of files that may fail. Each file is named once, until a write of it works again."""

    def __init__(self) -> None:
        self._failed: set[Path] = set()

    def __call__(self, path: Path, write: Callable[[], None]) -> None:
        try:
            write()
            self._failed.discard(path)
        except OSError as error:
            if path not in self._failed:
                self._failed.add(path)
                reason = error.strerror or str(error)
                log.warning(
                    f"{path} cannot be written ({reason}). The run continues and tries again."
                )


def read_metrics(workdir: Path) -> list[Row]:
    """Return the rows of a run's `metrics.csv` with the columns of the file.

    There are none before the first evaluation. The epoch of a row is a whole number at the end of
    an epoch, and a fraction inside one.

    Raises:
        UserError: naming the first line that is not a row of metrics.
    """
    path = workdir / "metrics.csv"
    if not path.exists():
        return []
    content = path.read_bytes()
    if not content.strip(b"\0 \r\n"):  # a crash of the machine can leave this
        raise UserError(f"{path} is empty. Resume the run to write it again from metrics.jsonl.")
    reader = csv.DictReader(content.decode("utf-8-sig", "replace").splitlines())
    rows: list[Row] = []
    try:
        for row in reader:
            if not _is_row(row):
                raise ValueError
            rows.append(row)
    except (ValueError, csv.Error) as error:
        raise UserError(
            f"line {len(rows) + 2} of {path} is not a row of metrics. Restore the file, or move it"
            " away."
        ) from error
    return rows


def is_metric(column: str) -> bool:
    """Return whether a column is one that runs write numbers to, besides `epoch` and `step`.

    Users may add columns of any other name, with any text.
    """
    return _METRIC.fullmatch(column) is not None


def _is_row(row: dict[Any, Any]) -> bool:
    if None in row or None in row.values() or not {"epoch", "step"} <= row.keys():
        return False
    if not re.fullmatch(_NUMBER, row["epoch"]) or not re.fullmatch("[0-9]{1,18}", row["step"]):
        return False
    values = (value for column, value in row.items() if is_metric(column))
    return all(not value or _fits(float(value)) for value in values)


def _fits(value: float) -> bool:
    return abs(value) == math.inf or not abs(value) >= _MOST  # NaN too


def read_records(workdir: Path) -> list[Record]:
    """Return the records of a run's `metrics.jsonl`, without damaged lines."""
    return _read_records(workdir / "metrics.jsonl")[0]


def _rows(path: Path, records: Sequence[Record]) -> list[Row]:
    """Return the rows of both files by step. Say what `metrics.csv` lacked."""
    of_records = {record["step"]: _row(record) for record in records if record["kind"] in ROW_KINDS}
    fault = ""
    try:
        of_csv = {int(row["step"]): row for row in read_metrics(path.parent)}
    except UserError as error:
        if not of_records and path.read_bytes().strip(b"\0 \r\n"):
            raise
        of_csv, fault = {}, f" ({error})"
    lacking = sorted(of_records.keys() - of_csv.keys())
    if lacking:
        log.warning(
            f"{path} lacks {len(lacking)} rows that metrics.jsonl has, of step"
            f" {', '.join(map(str, lacking))}{fault}. It is written again with them."
        )
    found = {**{step: of_records[step] for step in lacking}, **of_csv}
    return [found[step] for step in sorted(found)]


def _row(record: Record) -> Row:
    return {name: text_of(value) for name, value in record.items() if name != "kind"}


def text_of(value: Any) -> str:
    """Return a number as `metrics.csv` has it; empty for None."""
    if value is None:
        return ""
    return repr(round(value, 9)) if isinstance(value, float) else str(value)


def _line(record: Record) -> bytes:
    return json.dumps(record).encode() + b"\n"


def _read_records(path: Path) -> tuple[list[Record], dict[int, bytes]]:
    """Return the records of a file, and by number the lines that are none.

    A last line without its end is ignored: the run was killed when it wrote it.
    """
    try:
        *lines, _ = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return [], {}
    records: list[Record] = []
    bad: dict[int, bytes] = {}
    for number, line in enumerate(lines, 1):
        if (record := _read_record(line)) is not None:
            records.append(record)
        elif line.strip():
            bad[number] = line
    return records, bad


def _read_record(line: bytes) -> Record | None:
    try:
        record = parse_json(line.decode("utf-8-sig"))
    except ValueError:
        return None
    if not isinstance(record, dict) or not isinstance(record.get("kind"), str):
        return None
    numbers = {name: value for name, value in record.items() if name != "kind"}
    for name, value in numbers.items():
        is_number = value is None or (isinstance(value, (int, float)) and _fits(value))
        if not is_number or not _NAME.fullmatch(name):
            return None
    step, epoch = numbers.get("step"), numbers.get("epoch", 0)
    fits = isinstance(step, int) and not isinstance(step, bool) and 0 <= step < 1e18
    fits = fits and epoch is not None and math.isfinite(epoch) and 0 <= epoch < 1e18
    return record if fits else None
