"""Planning: validation splits and duplicates."""

import collections
import hashlib
from pathlib import Path
from typing import Any

import pytest

from i21k.data.format.manifest import read_manifest
from i21k.data.pack.pack import PackOptions, pack
from tests.helpers.packing import CLASS_IDS, encoded, images_of, photo, records_of, run, tar_of


def test_first_images_by_name_of_large_classes_are_validation(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for class_id, count in (("small", 2), ("large", 5)):
        (source / class_id).mkdir(parents=True)
        for i in range(count):
            (source / class_id / f"{9 - i}.jpg").write_bytes(encoded(photo(seed=i)))
    (source / "large" / "0.jpg").write_bytes(b"the least name, but no image")
    report = run(source, tmp_path / "out", val_per_class=2, num_shards=2)
    assert sorted(name for name, _, _ in records_of(tmp_path / "out", "val")) == [
        "large/5.jpg",
        "large/6.jpg",
    ]
    assert len(records_of(tmp_path / "out")) == 5
    assert {split: made.num_images for split, made in report.splits.items()} == {
        "train": 5,
        "val": 2,
    }
    assert (report.num_read, report.num_written, report.skipped) == (8, 7, {"not an image": 1})
    with pytest.raises(
        ValueError,
        match=r"val_per_class takes 7 of each class with at least 8 images, but the largest "
        r"class has 5. .*",
    ):
        run(source, tmp_path / "other", val_per_class=7)


def test_large_enough_classes_give_to_validation(class_folders: Path, tmp_path: Path) -> None:
    for name in list(images_of(CLASS_IDS[0]))[:2]:
        (class_folders / CLASS_IDS[0] / name).unlink()
    run(class_folders, tmp_path / "out", val_per_class=1, min_class_size=6)
    assert {name.partition("/")[0] for name, _, _ in records_of(tmp_path / "out", "val")} == set(
        CLASS_IDS[1:]
    )
    run(class_folders, tmp_path / "smaller", val_per_class=1, min_class_size=4)
    assert {
        name.partition("/")[0] for name, _, _ in records_of(tmp_path / "smaller", "val")
    } == set(CLASS_IDS)
    with pytest.raises(
        ValueError,
        match=r"takes 1 of each class with at least 7 images, but the largest class has 6",
    ):
        run(class_folders, tmp_path / "other", val_per_class=1, min_class_size=7)


@pytest.mark.parametrize(
    ("options", "train", "val", "dropped"),
    [
        ({}, "a1 a3 a4 a5 b0 b6 b7 b9", "", {}),
        ({"duplicates": "first"}, "a1 a3 a5 b6 b9", "", {"duplicate of another image": 3}),
        ({"duplicates": "drop"}, "a1 a5 b9", "", {"duplicate of another image": 5}),
        ({"val_per_class": 2}, "a5 b9", "a1 a3 b0 b6", {"duplicate of a validation image": 2}),
        ({"val_per_class": 2, "keep_val_duplicates": True}, "a4 a5 b7 b9", "a1 a3 b0 b6", {}),
        (
            {"val_per_class": 1, "duplicates": "first"},
            "a3 a5 b9",
            "a1 b6",
            {"duplicate of another image": 3},
        ),
    ],
)
def test_duplicates(
    duplicated: Path,
    tmp_path: Path,
    options: dict[str, Any],
    train: str,
    val: str,
    dropped: dict[str, int],
) -> None:
    report = run(duplicated, tmp_path / "out", **options)

    def names(split: str) -> str:
        return " ".join(
            sorted(
                name.replace("/", "").removesuffix(".jpg")
                for name, _, _ in records_of(tmp_path / "out", split)
            )
        )

    assert names("train") == train and (names("val") if val else "") == val
    assert report.dropped == dropped and report.skipped == {"not an image": 1}
    assert report.num_read == 9 == report.num_written + report.num_skipped + report.num_dropped
    counts = read_manifest(tmp_path / "out").splits["train"].counts  # type: ignore[union-attr]
    assert counts["dropped"] == dropped
    rows = [
        line.split("\t")
        for line in (tmp_path / "out" / "duplicates-train.tsv").read_text().splitlines()
    ]
    assert rows[0] == ["sha256", "file_name", "fate"] and len(rows) == 6
    groups = collections.defaultdict(list)
    for digest, name, fate in rows[1:]:
        groups[digest].append(name)
        assert fate.startswith("dropped: ") == (
            name not in {n for s in report.splits for n, _, _ in records_of(tmp_path / "out", s)}
        )
    assert groups[hashlib.sha256(encoded(photo(seed=91))).hexdigest()] == [
        "a/3.jpg",
        "a/4.jpg",
        "b/0.jpg",
    ]
    assert groups[hashlib.sha256(encoded(photo(seed=92))).hexdigest()] == ["b/6.jpg", "b/7.jpg"]


def test_split_of_which_no_image_remains_is_refused(tmp_path: Path) -> None:
    same = {f"{i}.jpg": encoded(photo()) for i in range(4)}
    (tmp_path / "whole.tar").write_bytes(tar_of({"a.tar": tar_of(same)}))
    for options, numbers in (
        ({"duplicates": "drop"}, "0 go to 'val', and 4"),
        ({"val_per_class": 1}, "1 go to 'val', and 3"),
    ):
        with pytest.raises(
            ValueError,
            match=f"No image remains for split 'train': of 4, {numbers} are dropped as "
            f"duplicates. Change --dup",
        ):
            run(tmp_path / "whole.tar", tmp_path / "out", **options)
    assert run(tmp_path / "whole.tar", tmp_path / "out", duplicates="first").num_dropped == 3


def test_planning_tells_its_progress(whole_tar: Path, tmp_path: Path, small_steps: None) -> None:
    told = []
    pack(
        whole_tar,
        tmp_path / "out",
        PackOptions(val_per_class=1),
        num_workers=1,
        on_progress=told.append,
    )
    phases = [progress.phase for progress in told]
    assert phases == sorted(phases, key=["reading", "planning", "writing"].index)
    planning = [progress for progress in told if progress.phase == "planning"]
    assert len(planning) > 6 and [p.num_bytes for p in planning] == sorted(
        p.num_bytes for p in planning
    )
    assert planning[-1].num_bytes == planning[-1].total_bytes > 0 and planning[-1].num_images == 18
