"""`verify` and `info`: a clean dataset passes, each way to damage one is found and named, the
numbers are those that were written."""

import dataclasses
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from i21k import cli
from i21k.data import contact_sheet, overview, verify
from i21k.data.format import shards
from i21k.data.format.manifest import read_manifest
from i21k.data.format.records import decode_example, encode_example, file_name_of
from i21k.data.format.tfds import METADATA
from i21k.data.pack.pack import PackOptions, Progress, pack
from i21k.data.verify import records
from i21k.data.verify import report as reports
from i21k.labels import ClassList
from tests.helpers.datasets import CLASSES, NUM_TRAIN, NUM_VAL, write_dataset
from tests.helpers.packing import encoded, photo

NUM_SHARDS = 3


def shard(split: str, index: int) -> str:
    return shards.shard_name("tiny", split, index, NUM_SHARDS)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset whose file names tell the classes, as the packer's do."""
    directory = write_dataset(
        tmp_path_factory.mktemp("verify") / "tiny", {"train": 12, "val": 6}, NUM_SHARDS
    )
    for split in ("train", "val"):
        for k in range(NUM_SHARDS):
            rewrite(
                directory,
                split,
                k,
                lambda i, image, label, name: (
                    image,
                    label,
                    f"{CLASSES.ids[label]}/{name.replace('/', '_')}",
                ),
            )
    return directory


@pytest.fixture
def damaged(clean: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(clean, tmp_path / "tiny"))


def rewrite(
    directory: Path,
    split: str,
    index: int,
    change: Callable[[int, bytes, int, str], tuple[bytes, int, str]],
    in_manifest: bool = True,
) -> None:
    """Write a shard again with each record changed, and have the manifest say so."""
    path = directory / shard(split, index)
    count = shards.count_records(path)
    assert count is not None
    records = []
    for i, record in shards.read_records(path, range(count)):
        assert isinstance(record, bytes)
        records.append(encode_example(*change(i, *decode_example(record), file_name_of(record))))
    made, manifest = shards.write_shard(path, records), read_manifest(directory)
    assert manifest is not None
    if in_manifest:
        entry = manifest.splits[split]
        files = tuple(made if k == index else old for k, old in enumerate(entry.shards))
        dataclasses.replace(
            manifest, splits=manifest.splits | {split: dataclasses.replace(entry, shards=files)}
        ).write(directory)


def check(
    directory: Path, split: str | None = None, sample: int | None = None
) -> verify.VerifyReport:
    return verify.verify(directory, split, sample, num_workers=1)


def faults(directory: Path) -> list[tuple[str, int | None, str]]:
    return [(fault.file, fault.record, fault.kind) for fault in check(directory).faults]


def test_clean_dataset_passes(clean: Path) -> None:
    report = check(clean)
    assert (report.faults, report.num_faults, report.has_manifest, report.compared) == (
        (),
        {},
        True,
        ("train", "val"),
    )
    num_bytes = sum((clean / shard("train", k)).stat().st_size for k in range(NUM_SHARDS))
    assert report.splits["train"] == verify.SplitReport(
        NUM_SHARDS, 12, num_bytes, num_decoded=12, num_named=12
    )
    assert check(clean, split="val").compared == () and list(check(clean, split="val").splits) == [
        "val"
    ]


def test_file_names_may_tell_no_class(dataset: Path) -> None:
    report = check(dataset)
    assert report.num_faults == {}
    assert [(split.num_records, split.num_named) for split in report.splits.values()] == [
        (NUM_TRAIN, 0),
        (NUM_VAL, 0),
    ]


def test_workers_change_nothing(damaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flip_byte(damaged)
    monkeypatch.setattr(records, "_RANGE_RECORDS", 2)  # several ranges a shard
    alone, together = verify.verify(damaged, num_workers=1), verify.verify(damaged, num_workers=2)
    assert alone.faults and dataclasses.replace(alone, seconds=0.0) == dataclasses.replace(
        together, seconds=0.0
    )


def test_progress_reaches_the_end(clean: Path) -> None:
    seen: list[Progress] = []
    verify.verify(clean, num_workers=1, on_progress=seen.append)
    assert [progress.num_images for progress in seen] == [4, 8, 12, 14, 16, 18]
    assert (
        seen[-1].num_bytes
        == seen[-1].total_bytes
        == sum((clean / shard(s, k)).stat().st_size for s in ("train", "val") for k in range(3))
    )


@pytest.mark.parametrize("sample", [0, 1, 5, 12, 100])
def test_so_many_are_decoded(clean: Path, monkeypatch: pytest.MonkeyPatch, sample: int) -> None:
    monkeypatch.setattr(records, "_RANGE_RECORDS", 3)
    decoded = {
        name: split.num_decoded for name, split in check(clean, sample=sample).splits.items()
    }
    assert decoded == {"train": min(sample, 12), "val": min(sample, 6)}


def flip_byte(directory: Path) -> None:
    path = directory / shard("train", 1)
    content = bytearray(path.read_bytes())
    ((_, record),) = shards.read_records(path, [2])
    assert isinstance(record, bytes)
    content[content.index(record) + len(record) // 2] ^= 1
    path.write_bytes(content)


def truncate(directory: Path) -> None:
    with (directory / shard("val", 0)).open("r+b") as file:
        file.truncate(1000)


def swap(directory: Path) -> None:
    paths = [directory / shard("train", k) for k in (0, 2)]
    contents = [path.read_bytes() for path in paths]
    for path, content in zip(paths, reversed(contents), strict=True):
        path.write_bytes(content)


def drop_record(directory: Path) -> None:
    path = directory / shard("train", 0)
    shards.write_shard(
        path,
        [record for _, record in shards.read_records(path, range(3)) if isinstance(record, bytes)],
    )


def wrong_label(directory: Path) -> None:
    rewrite(
        directory,
        "train",
        1,
        lambda i, image, label, name: (image, (label + 1) % 4 if i == 2 else label, name),
    )


def label_out_of_range(directory: Path) -> None:
    rewrite(
        directory,
        "train",
        1,
        lambda i, image, label, name: (image, 4 if i == 2 else -1 if i == 0 else label, name),
    )


def leak(directory: Path) -> None:
    ((_, record),) = shards.read_records(directory / shard("train", 2), [3])
    assert isinstance(record, bytes)
    image, label = decode_example(record)
    name = f"{CLASSES.ids[label]}/copy.JPEG"
    new: Any = (image, label, name)
    rewrite(directory, "val", 1, lambda i, *old: new if i == 1 else old)  # type: ignore[arg-type]


def change_class(directory: Path) -> None:
    ClassList((*CLASSES.ids[:3], "n99999999")).write(directory / "label.labels.txt")


def remove_class(directory: Path) -> None:
    ClassList(CLASSES.ids[:3]).write(directory / "label.labels.txt")


def cut_image(directory: Path) -> None:
    rewrite(
        directory,
        "val",
        2,
        lambda i, image, label, name: (image[: len(image) // 2] if i == 1 else image, label, name),
    )


def cut_png(directory: Path) -> None:
    png = encoded(photo(), "PNG")
    cut = png[: len(png) // 2]
    rewrite(
        directory,
        "val",
        2,
        lambda i, image, label, name: (cut if i == 1 else png if i == 0 else image, label, name),
    )


def no_image(directory: Path) -> None:
    rewrite(
        directory,
        "val",
        2,
        lambda i, image, label, name: (b"<html>" if i == 1 else image, label, name),
    )


def not_an_example(directory: Path) -> None:
    path = directory / shard("val", 2)
    shards.write_shard(path, [b"", b"no example"])


def change_info(directory: Path) -> None:
    path = directory / "dataset_info.json"
    info = json.loads(path.read_text())
    info["splits"][0]["shardLengths"][0] = "3"
    path.write_text(json.dumps(info))


Where = Sequence[tuple[str, int | None, str]]


@pytest.mark.parametrize(
    ("damage", "expected", "words"),
    [
        (
            flip_byte,
            [(shard("train", 1), None, "hash"), (shard("train", 1), 2, "unreadable")],
            "hash mismatch",
        ),
        (
            truncate,
            [(shard("val", 0), None, kind) for kind in ("size", "unreadable", "hash")],
            "1,000 bytes; expected",
        ),
        (
            lambda d: (d / shard("val", 1)).unlink(),
            [(shard("val", 1), None, "missing")],
            "expected a shard of 2 records",
        ),
        (
            lambda d: (d / shard("val", 1)).write_bytes(b""),
            [(shard("val", 1), None, k) for k in ("size", "unreadable", "hash")],
            "0 bytes",
        ),
        (
            swap,
            [(shard("train", k), None, "hash") for k in (0, 2)],
            f"the content of {shard('train', 2)}; expected SHA-256",
        ),
        (
            drop_record,
            [(shard("train", 0), None, "count"), (shard("train", 0), None, "hash")],
            "count: 3 records; expected 4",
        ),
        (
            wrong_label,
            [(shard("train", 1), 2, "class")],
            "(n01491361/train_7.JPEG): class: label 0 (n01440764)",
        ),
        (
            label_out_of_range,
            [(shard("train", 1), 0, "label"), (shard("train", 1), 2, "label")],
            "label 4; expected 0 to 3",
        ),
        (
            leak,
            [(shard("val", 1), 1, "content")],
            f"the image of {shard('train', 2)}, record 3 (n01491361/train_11.JPEG)",
        ),
        (change_class, [("label.labels.txt", None, "class list")], f"expected hash {CLASSES.hash}"),
        (remove_class, [("label.labels.txt", None, "class list")], "has 3 classes; expected 4"),
        (cut_image, [(shard("val", 2), 1, "decode")], "(n01443537/val_5.JPEG): decode"),
        (cut_png, [(shard("val", 2), 1, "decode")], "expected an image that decodes completely"),
        (no_image, [(shard("val", 2), 1, "decode")], "6 bytes that are not an image"),
        (
            not_an_example,
            [(shard("val", 2), r, "unreadable") for r in (0, 1)],
            "is not a tf.train.Example",
        ),
        (
            change_info,
            [("dataset_info.json", None, "metadata")],
            "expected 12 in 3 in manifest.json",
        ),
    ],
)
def test_fault_is_named(
    damaged: Path, damage: Callable[[Path], None], expected: Where, words: str
) -> None:
    damage(damaged)
    report = check(damaged)
    of_size = (
        ("size", "hash") if damage in (not_an_example, drop_record) else ()
    )  # where the other size depends on padding
    found = [(fault.file, fault.record, fault.kind) for fault in report.faults]
    assert set(expected) <= set(found)
    assert [fault for fault in found if fault not in expected and fault[2] not in of_size] == []
    assert len(found) == len(set(found)) == sum(report.num_faults.values())
    assert words in "\n".join(map(str, report.faults))


def test_files_beside_the_shards_are_checked_too(tmp_path: Path) -> None:
    for index in range(2):
        (tmp_path / "source" / f"n0000000{index}").mkdir(parents=True)
        for split in ("a", "b"):
            (tmp_path / "source" / f"n0000000{index}" / f"{split}.JPEG").write_bytes(
                encoded(photo(seed=index))
            )
    (tmp_path / "source" / "n00000000" / "c.txt").write_bytes(b"no image")
    for split in ("train", "other"):
        pack(tmp_path / "source", tmp_path / "out", PackOptions(split=split), num_workers=1)
    tables = {
        f"{table}-{split}.tsv"
        for table in ("skipped", "duplicates")
        for split in ("train", "other")
    }
    manifest = read_manifest(tmp_path / "out")
    assert manifest is not None and manifest.files.keys() == tables | set(METADATA)
    assert set(check(tmp_path / "out").num_faults) == {"content"}
    for file in manifest.files:
        shutil.copytree(tmp_path / "out", tmp_path / "damaged")
        with (tmp_path / "damaged" / file).open("ab") as opened:
            opened.write(b"\n")  # which no reader minds
        found = check(tmp_path / "damaged", split="train").faults
        assert [(fault.file, fault.kind) for fault in found] == [(file, "hash")]
        assert f"expected SHA-256 {manifest.files[file]} in manifest.json" in str(found[0])
        if file in tables:
            (tmp_path / "damaged" / file).unlink()
            assert (file, None, "missing") in faults(tmp_path / "damaged")
        shutil.rmtree(tmp_path / "damaged")


def test_all_contents_of_a_copied_split_are_found(
    damaged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for k in range(NUM_SHARDS):
        shutil.copy(damaged / shard("val", k), damaged / shard("train", k))
    monkeypatch.setattr(reports, "MAX_NAMED", 1)
    report = check(damaged)
    assert report.num_faults["content"] == 6
    assert [fault.file for fault in report.faults if fault.kind == "content"] == [
        shard("train", k) for k in range(NUM_SHARDS)
    ]


def test_records_without_an_image_are_no_duplicates_of_each_other(damaged: Path) -> None:
    for split in ("train", "val"):
        shards.write_shard(damaged / shard(split, 2), [b"no example"])
    assert {fault.file for fault in check(damaged).faults if fault.kind == "unreadable"} == {
        shard("train", 2),
        shard("val", 2),
    }
    assert "content" not in check(damaged).num_faults


def test_sample_misses_what_all_finds(damaged: Path) -> None:
    cut_image(damaged)
    assert check(damaged, sample=0).num_faults == {}
    assert check(damaged, split="train").num_faults == {}


def test_dataset_of_tfds(damaged: Path) -> None:
    """Without a manifest counts, labels, images and contents remain."""
    (damaged / "manifest.json").unlink()
    report = check(damaged)
    assert (report.num_faults, report.has_manifest, report.splits["train"].num_named) == (
        {},
        False,
        12,
    )
    change_info(damaged)
    (damaged / shard("val", 1)).write_bytes((damaged / shard("train", 1)).read_bytes())
    found = faults(damaged)
    assert (shard("train", 0), None, "count") in found
    assert [record for file, record, kind in found if kind == "content"] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("name", "class_id"),
    [
        ("n01440764/x.JPEG", "n01440764"),
        ("train/n01440764_10026.JPEG", "n01440764"),
        ("n01440764_10026.JPEG", "n01440764"),
        ("n99999999/x.JPEG", None),
        ("ILSVRC2012_val_00000001.JPEG", None),
        ("", None),
    ],
)
def test_class_of_a_file_name(name: str, class_id: str | None) -> None:
    assert records.class_of(name, CLASSES) == class_id


def test_exit_codes(
    clean: Path, damaged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["verify", str(clean), "--workers", "1"]) == 0
    assert "no faults" in capsys.readouterr().out
    wrong_label(damaged)
    assert cli.main(["verify", str(damaged), "--workers", "1", "--all", "--json"]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["num_faults"] == {"class": 1} and captured.err == ""
    assert cli.main(["verify", str(damaged), "--workers", "1"]) == 1
    assert (
        f"fault: {shard('train', 1)}, record 2 (n01491361/train_7.JPEG): class"
        in capsys.readouterr().out
    )
    for arguments, message in (
        ([str(tmp_path / "none")], "does not exist; expected a packed dataset"),
        (
            [str(clean), "--split", "test"],
            "no split 'test'; expected one of train, val; change --split",
        ),
        ([str(clean), "--workers", "0"], "workers is 0; expected at least 1; change --workers"),
        ([str(clean), "--sample", "-1"], "sample is -1; expected at least 0; change --sample"),
    ):
        assert cli.main(["verify", *arguments]) == 2
        assert message in capsys.readouterr().err
    assert cli.main(["info", str(tmp_path / "none")]) == 2


def test_info_says_what_was_written(damaged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = read_manifest(damaged)
    assert manifest is not None
    counts = {
        "read": 15,
        "written": 11,
        "left_out": {"empty file": 3},
        "dropped": {"copy of another picture": 1},
    }
    train = dataclasses.replace(
        manifest.splits["train"], options={"short_side": 256}, counts=counts
    )
    dataclasses.replace(manifest, splits=manifest.splits | {"train": train}).write(damaged)
    report = overview.overview(damaged)
    num_bytes = sum((damaged / shard("train", k)).stat().st_size for k in range(NUM_SHARDS))
    assert report.splits["train"] == overview.SplitOverview(
        12,
        NUM_SHARDS,
        num_bytes,
        {"short_side": 256},
        {"read": 15, "written": 11},
        {"empty file": 3},
        {"copy of another picture": 1},
    )
    assert (report.num_records, report.num_classes, report.class_list_hash) == (18, 4, CLASSES.hash)
    assert (report.first_class, report.last_class) == (CLASSES.ids[0], CLASSES.ids[-1])
    assert cli.main(["info", str(damaged)]) == 0
    text = capsys.readouterr().out
    for words in (
        "split train: 12 images",
        "options: short_side 256",
        "counts: read 15, written 11",
        "skipped: empty file 3",
        "dropped: copy of",
    ):
        assert words in text
    assert cli.main(["info", str(damaged), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    contents = printed.pop("contents")
    assert printed == dataclasses.asdict(report)
    assert {name: one["read"] for name, one in contents.items()} == {"train": 12, "val": 6}


def test_contact_sheet(damaged: Path, tmp_path: Path) -> None:
    no_image(damaged)
    assert cli.main(["info", str(damaged), "--contact-sheet", str(tmp_path / "out.png")]) == 0
    with Image.open(tmp_path / "out.png") as sheet:
        assert sheet.format == "PNG"
        pixels = np.asarray(sheet)
    again, other = (np.asarray(contact_sheet.contact_sheet(damaged, seed=seed)) for seed in (0, 1))
    assert np.array_equal(pixels, again) and not np.array_equal(pixels, other)
    shown = contact_sheet.random_images(damaged, 100)
    assert len(shown) == 18 and sorted({one.split for one in shown}) == ["train", "val"]
    damaged_ones = [one for one in shown if one.image is None]
    assert damaged_ones and all("damaged" in one.name or "no" in one.name for one in damaged_ones)
