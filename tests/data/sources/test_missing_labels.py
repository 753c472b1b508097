"""Labels that are missing: every source with labels skips them alike."""

import io
import json
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from i21k.data.sources.label_values import is_number, label_number, label_text
from i21k.errors import UserError
from i21k.labels import ClassList
from tests.data.sources.test_layouts import image, write
from tests.helpers.packing import records_of, run, tar_of

NAMES = ClassList(("cat", "dog"))
MISSING: list[Any] = [
    None,
    math.nan,
    math.inf,
    -1,
    -1.0,
    "",
    " ",
    "nan",
    "NaN",
    "null",
    "-1",
    "-1.0",
    "-7",
]


@pytest.mark.parametrize("value", MISSING)
def test_what_is_missing(value: object) -> None:
    assert label_text(value) == ""


@pytest.mark.parametrize(
    ("value", "number"),
    [(3, 3), (3.0, 3), (" 3 ", 3), ("3.", 3), ("007", 7), (1.7, None), ("1e3", None), ("3a", None)],
)
def test_what_is_an_integer(value: object, number: int | None) -> None:
    assert label_number(label_text(value)) == number
    assert is_number(label_text(value)) == (value != "3a")
    assert label_text("none") == "none"  # a class of some datasets


def table(path: Path, labels: list[Any]) -> Path:
    texts = ["" if label is None else str(label) for label in labels]
    write(path, {f"{n}.jpg": image(n) for n in range(len(labels))})
    (path / "t.csv").write_text("".join(f"{n}.jpg,{text}\n" for n, text in enumerate(texts)))
    return path / "t.csv"


def parquet(path: Path, labels: list[Any]) -> Path:
    images = [{"bytes": image(n), "path": f"{n}.jpg"} for n in range(len(labels))]
    path.mkdir()
    of_rows = pyarrow.table({"image": images, "label": pyarrow.array(labels)})
    pyarrow.parquet.write_table(of_rows, path / "a.parquet")
    return path


def webdataset_of_cls(path: Path, labels: list[Any]) -> Path:
    files = {}
    for n, label in enumerate(labels):
        files |= {f"{n}.jpg": image(n), f"{n}.cls": b"" if label is None else str(label).encode()}
    return write(path, {"a.tar": tar_of(files)})


def webdataset_of_json(path: Path, labels: list[Any]) -> Path:
    files = {}
    for n, label in enumerate(labels):
        files |= {f"{n}.jpg": image(n), f"{n}.json": json.dumps({"label": label}).encode()}
    return write(path, {"a.tar": tar_of(files)})


def webdataset_of_names(path: Path, labels: list[Any]) -> Path:
    files = {}
    for n, label in enumerate(labels):
        files |= {f"{n}.jpg": image(n), f"{n}.json": json.dumps({"class_name": label}).encode()}
    return write(path, {"a.tar": tar_of(files)})


def recordio(path: Path, labels: list[Any]) -> Path:
    content = b""
    for n, label in enumerate(labels):
        data = struct.pack("<IfQQ", 0, label, n, 0) + image(n)
        content += struct.pack("<II", 0xCED7230A, len(data)) + data + bytes(-len(data) % 4)
    return write(path, {"a.rec": content})


def listed(path: Path, labels: list[Any]) -> Path:
    """Make what `on_standard_input` gives."""
    write(path, {f"photos/{n}.jpg": image(n) for n in range(len(labels))})
    texts = ["" if label is None else str(label) for label in labels]
    lines = "".join(f"{path}/photos/{n}.jpg\t{text}\n" for n, text in enumerate(texts))
    (path / "list").write_text(lines)
    return path / "list"


def on_standard_input(source: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the SOURCE to pack; a list is on standard input."""
    if source.name != "list":
        return source
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(source.read_bytes())))
    return Path("-")


OF_NUMBERS: list[tuple[Callable[[Path, list[Any]], Path], list[Any]]] = [
    (table, [-1, None, "nan", "null", "-2.0", 1.5]),
    (listed, [-1, None, "nan", "null", "-2.0", 1.5]),
    (parquet, [-1, None, -3]),
    (parquet, [-1.0, math.nan, None, math.inf, 1.5]),
    (webdataset_of_cls, [-1, None, "nan", "null", "-2.0", 1.5]),
    (webdataset_of_json, [-1, None, math.nan, math.inf, 1.5, "", "nan", "-1"]),
    (recordio, [-1.0, math.nan, math.inf, 1.5]),
]
OF_TEXTS: list[tuple[Callable[[Path, list[Any]], Path], list[Any]]] = [
    (table, [-1, None, "nan", "NULL"]),
    (listed, [-1, None, "nan", "NULL"]),
    (parquet, ["-1", None, "", "nan", "null"]),
    (webdataset_of_cls, [-1, None, "nan", "NULL"]),
    (webdataset_of_json, [None, "", "nan", "null", "-1"]),
    (webdataset_of_names, [None, "", "nan", "null", "-1"]),
]


@pytest.mark.parametrize(("make", "missing"), OF_NUMBERS)
@pytest.mark.parametrize("is_first", [True, False])
def test_missing_numbers(
    make: Callable[[Path, list[Any]], Path],
    missing: list[Any],
    is_first: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    labels = [*missing, 0, 1] if is_first else [0, 1, *missing]
    source = make(tmp_path / "s", labels)
    report = run(on_standard_input(source, monkeypatch), tmp_path / "out", NAMES)
    assert report.num_written == 2
    assert report.skipped == {"no label": len(missing)}


@pytest.mark.parametrize(("make", "missing"), OF_TEXTS)
@pytest.mark.parametrize("is_first", [True, False])
def test_missing_texts(
    make: Callable[[Path, list[Any]], Path],
    missing: list[Any],
    is_first: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    labels = [*missing, "cat", "dog"] if is_first else ["cat", "dog", *missing]
    report = run(on_standard_input(make(tmp_path / "s", labels), monkeypatch), tmp_path / "out")
    assert report.num_written == 2 and report.num_classes == 2
    assert report.skipped == {"no label": len(missing)}


def test_missing_label_of_a_path_is_not_that_of_a_file_with_its_name(tmp_path: Path) -> None:
    source = write(tmp_path / "s", {"1.jpg": image(1), "a/1.jpg": image(2), "b/2.jpg": image(3)})
    (tmp_path / "t.csv").write_text("1.jpg,cat\na/1.jpg,\nb/2.jpg,dog\n")
    report = run(source, tmp_path / "out", labels=str(tmp_path / "t.csv"))
    assert sorted(name for name, _, _ in records_of(tmp_path / "out")) == [
        "cat/1.jpg",
        "dog/b/2.jpg",
    ]
    assert report.skipped == {"no label": 1}


def test_list_of_a_record_file_has_missing_labels(tmp_path: Path) -> None:
    source = recordio(tmp_path / "s", [0, 1, -1, -1, math.nan])
    listing = "0\t0\tcat/0.jpg\n1\t1\tdog/1.jpg\n2\t-1\tx/2.jpg\n3\t-1\ty/3.jpg\n4\tnan\tz/4.jpg\n"
    (source / "a.lst").write_text(listing)
    report = run(source, tmp_path / "out")
    assert sorted(n for n, _, _ in records_of(tmp_path / "out")) == ["cat/0.jpg", "dog/1.jpg"]
    assert report.num_classes == 2 and report.skipped == {"no label": 3}


TRAIN = {"parquet": [None, "cat", "dog"], "tar": [None, "cat", "dog"], "rec": [-1.0, 0.0, 1.0]}


def with_test_split(ending: str, path: Path, labels: list[Any]) -> Path:
    makes = {"parquet": parquet, "tar": webdataset_of_cls, "rec": recordio}
    make = makes[ending]
    source, rest = make(path, TRAIN[ending]), make(path.with_name("rest"), labels)
    (source / f"a.{ending}").rename(source / f"train-0.{ending}")
    (rest / f"a.{ending}").rename(source / f"test-0.{ending}")
    return source


@pytest.mark.parametrize("ending", ["csv", "parquet", "tar", "rec"])
def test_split_without_labels_is_not_packed(ending: str, tmp_path: Path) -> None:
    if ending == "csv":
        source = table(tmp_path / "s", ["cat,train", "dog,train", ",test", "-1,test"])
        source.write_text("file,label,split\n" + source.read_text())
    else:
        labels = [-1.0, math.nan] if ending == "rec" else [None, "nan"]
        source = with_test_split(ending, tmp_path / "s", labels)
    report = run(source, tmp_path / "out", NAMES if ending == "rec" else None)
    assert list(report.splits) == ["train"] and report.num_written == 2


@pytest.mark.parametrize("ending", ["parquet", "tar", "rec"])
def test_split_whose_first_labels_are_missing_is_packed(ending: str, tmp_path: Path) -> None:
    labels = [-1.0, math.nan, 1.0] if ending == "rec" else [None, "nan", "cat"]
    source = with_test_split(ending, tmp_path / "s", labels)
    names = NAMES if ending == "rec" else None
    assert list(run(source, tmp_path / "out", names).splits) == ["train", "test"]


@pytest.mark.parametrize("ending", ["parquet", "tar", "rec"])
def test_only_a_split_without_labels_is_refused(ending: str, tmp_path: Path) -> None:
    labels = [-1.0, math.nan] if ending == "rec" else [None, "nan"]
    source = with_test_split(ending, tmp_path / "s", labels)
    (source / f"train-0.{ending}").unlink()
    advice = "Give --labels FILE" if ending == "tar" else "Give another SOURCE"
    with pytest.raises(UserError, match=f"only the split test, .*{advice}"):
        run(source, tmp_path / "out")


def test_table_without_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no labels; expected FILE<TAB>CLASS. Give a table"):
        run(table(tmp_path / "a", [None, "-1", "NaN"]), tmp_path / "out")
    with pytest.raises(UserError, match=r"has only fractions as labels"):
        run(table(tmp_path / "b", [0.53, 0.21, None]), tmp_path / "out")
    with pytest.raises(UserError, match=r"has label 2; expected 0 to 1"):
        run(table(tmp_path / "c", [0, 1, 2, -1]), tmp_path / "out", NAMES)
