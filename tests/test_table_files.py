"""Tables in CSV, JSON lines and Parquet."""

import io
from pathlib import Path

import pytest

from i21k import table_files
from i21k.errors import UserError

COLUMNS = {"file": str, "rank": int, "p": float}
ROWS = [
    {"file": '猫, "quoted"\nline.jpg', "rank": 1, "p": 0.25},
    {"file": "NA", "rank": None, "p": None},
    {"file": "2026-01-02", "rank": 7, "p": 1e-30},
]


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_what_is_written_is_read(ending: str, tmp_path: Path) -> None:
    path, stream = tmp_path / f"t{ending}", io.BytesIO()
    writer = table_files.writer(table_files.format_of(path), stream, COLUMNS)
    writer.write(ROWS[:1])
    writer.write(ROWS[1:])
    writer.close()
    assert not stream.closed
    path.write_bytes(stream.getvalue())
    expected = {name: [row[name] for row in ROWS] for name in COLUMNS}
    assert table_files.read(path, COLUMNS) == expected
    if ending == ".jsonl":  # a line of JSON may lack what it has no value for
        assert table_files.read(path, {"truth": str}) == {"truth": [None] * 3}
    else:
        with pytest.raises(UserError, match="lacks the column 'truth'"):
            table_files.read(path, {"truth": str})


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_names_that_are_no_unicode_are_escaped(ending: str, tmp_path: Path) -> None:
    path, stream = tmp_path / f"t{ending}", io.BytesIO()
    writer = table_files.writer(table_files.format_of(path), stream, COLUMNS)
    writer.write([{"file": "\udcff.jpg", "rank": 1, "p": 0.5}])
    writer.close()
    path.write_bytes(stream.getvalue())
    assert table_files.read(path, COLUMNS)["file"] == ["\\udcff.jpg"]


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ends in '.xlsx'; expected .csv, .jsonl, .parquet"):
        table_files.format_of(tmp_path / "t.xlsx")
    (tmp_path / "t.parquet").write_text("no table")
    with pytest.raises(UserError, match="cannot be read as a table"):
        table_files.read(tmp_path / "t.parquet", COLUMNS)


def test_csv_holds_nothing_that_steers_a_terminal() -> None:
    stream = io.BytesIO()
    writer = table_files.writer("csv", stream, COLUMNS)
    writer.write([{"file": "\x1b]0;owned\x07猫\u202egpj.jpg", "rank": 1, "p": 0.5}])
    assert stream.getvalue().decode().splitlines()[1] == (r"\x1b]0;owned\x07猫\u202egpj.jpg,1,0.5")
