"""Options and class lists of the packer: what is refused, and what a complete split accepts."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from i21k import cli
from i21k.data.format.splits import split_names
from i21k.data.pack.pack import PackOptions, pack
from i21k.labels import ClassList
from tests.helpers.packing import (
    CLASS_IDS,
    NUM_PER_CLASS,
    content_of,
    images_of,
    records_of,
    run,
    tar_of,
)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quality": 0}, r"quality is 0; expected 1 to 100. Change --quality"),
        ({"quality": 101}, r"quality is 101; expected 1 to 100"),
        ({"short_side": -1}, r"short_side is -1; expected 0 to 65500. Change --short-side"),
        ({"num_shards": 0}, r"num_shards is 0; expected 1 to 99999. Change --num-shards"),
        ({"val_per_class": -1}, r"val_per_class is -1; expected at least 0"),
        ({"min_side": -1}, r"min_side is -1; expected 0 to 65500. Change --min-side"),
        (
            {"val_per_class": 5, "min_class_size": 5},
            r"min_class_size is 5; expected at least 6. Change --min-class-size",
        ),
        (
            {"duplicates": "some"},
            r"duplicates is 'some'; expected one of keep, first, drop, merge. Change --duplicates",
        ),
        (
            {"val_per_class": 1, "split": "val"},
            r"val_per_class fills the split 'val', and split is 'val' too",
        ),
        ({"name": "no/slash"}, r"name is 'no/slash'; expected letters, digits and underscores"),
        ({"split": ""}, r"split is ''; expected letters, digits and underscores"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PackOptions(**options)


def test_bad_number_of_workers(whole_tar: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"workers is 0; expected at least 1. Change --workers"):
        pack(whole_tar, tmp_path / "out", PackOptions(), num_workers=0)


def test_complete_split_is_left_alone(
    whole_tar: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = run(whole_tar, tmp_path / "out")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    again = run(whole_tar, tmp_path / "out")
    assert again == dataclasses.replace(first, already_complete=True, seconds=again.seconds)
    assert cli.main(["pack", str(whole_tar), "--out", str(tmp_path / "out")]) == 0
    assert "is complete with these options. There is nothing to do" in capsys.readouterr().out
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"short_side": 16},
            r"has a split 'train' already, packed with short_side 256; got 16. Use the same, "
            r"choose another --split",
        ),
        ({"quality": 80}, r"packed with quality 90; got 80"),
        ({"seed": 1}, r"packed with seed 0; got 1"),
        ({"num_shards": 3}, r"packed with num_shards 1; got 3"),
        ({"val_per_class": 1}, r"packed with val_per_class 0; got 1"),
        (
            {"name": "other"},
            r"holds the dataset 'imagenet21k'; expected 'other'. Change --name or --out",
        ),
        (
            {"classes": ClassList(CLASS_IDS[:2])},
            r"has another class list than the one given \(3 against 2 classes",
        ),
    ],
)
def test_other_options_for_a_split_that_is_there(
    whole_tar: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    run(whole_tar, tmp_path / "out")
    before = content_of(tmp_path / "out")
    with pytest.raises(ValueError, match=message):
        run(whole_tar, tmp_path / "out", **options)
    assert content_of(tmp_path / "out") == before


def test_given_class_list_decides_labels_and_what_is_skipped(
    whole_tar: Path, tmp_path: Path
) -> None:
    classes = ClassList(("n00000003", "n99999999", "n00000001"))
    report = run(whole_tar, tmp_path / "out", classes)
    assert {(name.partition("/")[0], label) for name, label, _ in records_of(tmp_path / "out")} == {
        ("n00000003", 0),
        ("n00000001", 2),
    }
    assert (report.num_classes, report.skipped) == (3, {"class not in the list": NUM_PER_CLASS})


def test_unknown_classes(whole_tar: Path, class_folders: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"has class 'n00000001', one of 3 that are not among the 1 classes .* of the given "
        r"list; expected some",
    ):
        run(whole_tar, tmp_path / "out", ClassList(("n99999999",)))
    run(class_folders, tmp_path / "out")
    (class_folders / "n00000004").mkdir()
    (class_folders / "n00000004" / "a.JPEG").write_bytes(b"an empty folder is no class")
    with pytest.raises(
        ValueError,
        match=r"has class 'n00000004', one of 1 that are not among the 3 classes .* of the dataset",
    ):
        run(class_folders, tmp_path / "out", split="val")
    gzipped = tmp_path / "more.tar.gz"
    gzipped.write_bytes(tar_of({"n00000004.tar": tar_of(images_of("n00000001"))}, "w:gz"))
    with pytest.raises(ValueError, match=r"has class 'n00000004'"):
        run(gzipped, tmp_path / "out", split="val")
    assert split_names(tmp_path / "out") == ("train",)
