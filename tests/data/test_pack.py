"""Packing: every picture accounted for, the same bytes for any number of workers, nothing half-written left, every refusal explained."""

import bz2
import collections
import contextlib
import dataclasses
import errno
import gc
import gzip
import hashlib
import importlib.util
import io
import json
import lzma
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from array_record.python.array_record_module import ArrayRecordReader
from PIL import Image, ImageCms

from i21k import cli, workers
from i21k.data.format import shards
from i21k.data.format.manifest import Manifest, read_manifest
from i21k.data.format.records import decode_example, file_name_of
from i21k.data.format.splits import open_split, split_names
from i21k.data.format.tfds import write_metadata
from i21k.data.pack import beam, commit, plan, recoding, spill, stages
from i21k.data.pack import pack as packing
from i21k.data.pack.pack import PackOptions, PackReport, pack
from i21k.data.pack.spill import place
from i21k.data.sources import base
from i21k.images import recode
from i21k.labels import ClassList

CLASS_IDS = ("n00000001", "n00000002", "n00000003")
NUM_PER_CLASS = 6


def photo(width: int = 48, height: int = 32, seed: int = 0) -> Image.Image:
    """A smooth picture, dark at the left and light at the right, so that JPEG and rotation leave a trace to test."""
    rows, columns = np.mgrid[:height, :width]
    colour = np.random.default_rng(seed).uniform(0.6, 1.0, 3)
    return Image.fromarray(
        (columns[..., None] / width * 240 * colour + rows[..., None] / height * 15).astype(np.uint8)
    )


def encoded(picture: Image.Image, file_format: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, file_format, **options)
    return buffer.getvalue()


def tar_of(files: dict[str, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def pictures_of(class_id: str) -> dict[str, bytes]:
    seed = CLASS_IDS.index(class_id) * 100
    return {
        f"{class_id}_{i}.JPEG": encoded(photo(seed=seed + i), quality=95)
        for i in range(NUM_PER_CLASS)
    }


@pytest.fixture
def whole_tar(tmp_path: Path) -> Path:
    """A tar of synset tars."""
    path = tmp_path / "whole.tar"
    path.write_bytes(
        tar_of({f"{class_id}.tar": tar_of(pictures_of(class_id)) for class_id in CLASS_IDS})
    )
    return path


@pytest.fixture
def class_folders(tmp_path: Path) -> Path:
    """A folder of class folders with the same pictures."""
    for class_id in CLASS_IDS:
        (tmp_path / "folders" / class_id).mkdir(parents=True)
        for name, content in pictures_of(class_id).items():
            (tmp_path / "folders" / class_id / name).write_bytes(content)
    return tmp_path / "folders"


def run(source: Path, out: Path, classes: ClassList | None = None, **options: Any) -> PackReport:
    """Pack in this process."""
    return pack(source, out, PackOptions(**options), classes, num_workers=1)


def records_of(directory: Path, split: str = "train") -> list[tuple[str, int, bytes]]:
    """Return (file name, label, JPEG) of all records in order."""
    found = []
    for path, count in zip(
        open_split(directory, split).shard_paths,
        open_split(directory, split).shard_counts,
        strict=True,
    ):
        reader = ArrayRecordReader(str(path))
        assert reader.num_records() == count
        found += [
            (file_name_of(record), decode_example(record)[1], decode_example(record)[0])
            for record in reader.read_all()
        ]
    return found


def content_of(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


# ------------------------------------------------------------------------------------------------------------------ the run


def test_every_picture_is_written_once(whole_tar: Path, tmp_path: Path) -> None:
    report = run(whole_tar, tmp_path / "out", num_shards=4)
    expected = sorted(
        (f"{c}/{name}", label) for label, c in enumerate(CLASS_IDS) for name in pictures_of(c)
    )
    found = records_of(tmp_path / "out")
    assert sorted((name, label) for name, label, _ in found) == expected
    assert [name for name, _, _ in found] == sorted(
        (name for name, _ in expected), key=lambda name: place(name, seed=0)
    )
    assert (report.num_read, report.num_written, report.num_left_out, report.num_classes) == (
        18,
        18,
        0,
        3,
    )
    assert report.splits["train"].num_pictures == 18 and report.splits["train"].num_shards == 4
    assert open_split(tmp_path / "out", "train").classes.ids == CLASS_IDS


def test_same_bytes_for_any_source_layout_and_number_of_workers(
    whole_tar: Path, class_folders: Path, tmp_path: Path
) -> None:
    def shard_hashes(source: Path, num_workers: int) -> list[shards.Shard]:
        out = tmp_path / f"{source.stem}-{num_workers}"
        pack(source, out, PackOptions(num_shards=2, short_side=16), num_workers=num_workers)
        return [
            dataclasses.replace(shard, file="")
            for shard in read_manifest(out).splits["train"].shards
        ]  # type: ignore[union-attr]

    folder_of_tars = tmp_path / "tars"
    folder_of_tars.mkdir()
    for class_id in CLASS_IDS:
        (folder_of_tars / f"{class_id}.tar.gz").write_bytes(tar_of(pictures_of(class_id), "w:gz"))
    gzipped = tmp_path / "gzipped.tar.gz"
    gzipped.write_bytes(
        tar_of({f"winter/{c}.tar": tar_of(pictures_of(c)) for c in CLASS_IDS}, "w:gz")
    )
    expected = shard_hashes(whole_tar, 1)
    assert expected == shard_hashes(whole_tar, 2)
    for source in (class_folders, folder_of_tars, gzipped):
        assert expected == shard_hashes(source, 1)


def test_seed_decides_the_order(whole_tar: Path, tmp_path: Path) -> None:
    run(whole_tar, tmp_path / "a", seed=1)
    run(whole_tar, tmp_path / "b", seed=2)
    a, b = ([name for name, _, _ in records_of(tmp_path / d)] for d in "ab")
    assert sorted(a) == sorted(b) and a != b
    assert [name.partition("/")[0] for name in a] != sorted(
        name.partition("/")[0] for name in a
    )  # classes are mixed


def test_shards_cut_the_order_evenly(whole_tar: Path, tmp_path: Path) -> None:
    order = None
    for num_shards in (1, 2, 3, 7):
        out = tmp_path / str(num_shards)
        run(whole_tar, out, num_shards=num_shards)
        names = [name for name, _, _ in records_of(out)]
        order = order or names
        assert names == order == sorted(names, key=lambda name: place(name, seed=0))
        ends = np.cumsum(open_split(out, "train").shard_counts).tolist()
        places = np.array([place(name, seed=0) for name in names], np.uint64)
        bounds = np.array([-(-(k << 64) // num_shards) for k in range(1, num_shards)], np.uint64)
        assert ends == [*np.searchsorted(places, bounds).tolist(), len(names)]


def test_split_is_added_and_reads_by_tfds_without_tensorflow(
    whole_tar: Path, class_folders: Path, tmp_path: Path
) -> None:
    subset = class_folders / CLASS_IDS[1]
    (tmp_path / "subset").mkdir()
    subset.rename(tmp_path / "subset" / CLASS_IDS[1])
    code = """if True:
        import sys
        from i21k import cli
        whole, subset, out = sys.argv[1:]
        assert cli.main(["pack", whole, "--out", out, "--workers", "1", "--json"]) == 0
        assert cli.main(["pack", subset, "--out", out, "--split", "val", "--workers", "1", "--json"]) == 0
        assert not {"jax", "tensorflow"} & set(sys.modules), "packing needs neither"
        import tensorflow_datasets as tfds
        builder = tfds.builder_from_directory(out)
        assert {name: split.num_examples for name, split in builder.info.splits.items()} == {"train": 18, "val": 6}
        assert {example["label"] for example in builder.as_data_source("val")} == {1}
        assert builder.info.features["label"].names == ["n00000001", "n00000002", "n00000003"]
        assert "tensorflow" not in sys.modules
    """
    arguments = [str(whole_tar), str(tmp_path / "subset"), str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        check=True,
        timeout=60,
        capture_output=True,
        text=True,
    )
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    assert [list(report["splits"]) for report in reports] == [["train"], ["val"]]
    assert reports[1]["num_classes"] == 3


def test_first_pictures_by_name_of_large_classes_are_validation(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for class_id, count in (("small", 2), ("large", 5)):
        (source / class_id).mkdir(parents=True)
        for i in range(count):
            (source / class_id / f"{9 - i}.jpg").write_bytes(encoded(photo(seed=i)))
    (source / "large" / "0.jpg").write_bytes(b"the least name, but no picture")
    report = run(source, tmp_path / "out", val_per_class=2, num_shards=2)
    assert sorted(name for name, _, _ in records_of(tmp_path / "out", "val")) == [
        "large/5.jpg",
        "large/6.jpg",
    ]
    assert len(records_of(tmp_path / "out")) == 5
    assert {split: made.num_pictures for split, made in report.splits.items()} == {
        "train": 5,
        "val": 2,
    }
    assert (report.num_read, report.num_written, report.left_out) == (8, 7, {"not a picture": 1})
    with pytest.raises(
        ValueError,
        match=r"val_per_class takes 7 of each class with at least 8 pictures, but the largest class has 5; .*",
    ):
        run(source, tmp_path / "other", val_per_class=7)


def test_large_enough_classes_give_to_validation(class_folders: Path, tmp_path: Path) -> None:
    for name in list(pictures_of(CLASS_IDS[0]))[:2]:
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
        match=r"takes 1 of each class with at least 7 pictures, but the largest class has 6",
    ):
        run(class_folders, tmp_path / "other", val_per_class=1, min_class_size=7)


@pytest.fixture
def copies(tmp_path: Path) -> Path:
    """Two classes of five names and five pictures: `same` three times, `twin` twice in one class."""
    same, twin = encoded(photo(seed=91)), encoded(photo(seed=92))
    files = {
        "a": {
            "1.jpg": encoded(photo(seed=1)),
            "3.jpg": same,
            "4.jpg": same,
            "5.jpg": encoded(photo(seed=2)),
        },
        "b": {
            "0.jpg": same,
            "6.jpg": twin,
            "7.jpg": twin,
            "8.jpg": b"no picture",
            "9.jpg": encoded(photo(seed=3)),
        },
    }
    path = tmp_path / "copies.tar"
    path.write_bytes(
        tar_of({f"{class_id}.tar": tar_of(of_class) for class_id, of_class in files.items()})
    )
    return path


@pytest.mark.parametrize(
    ("options", "train", "val", "dropped"),
    [
        ({}, "a1 a3 a4 a5 b0 b6 b7 b9", "", {}),
        ({"duplicates": "first"}, "a1 a3 a5 b6 b9", "", {"copy of another picture": 3}),
        ({"duplicates": "drop"}, "a1 a5 b9", "", {"copy of another picture": 5}),
        ({"val_per_class": 2}, "a5 b9", "a1 a3 b0 b6", {"copy of a validation picture": 2}),
        ({"val_per_class": 2, "keep_val_copies": True}, "a4 a5 b7 b9", "a1 a3 b0 b6", {}),
        (
            {"val_per_class": 1, "duplicates": "first"},
            "a3 a5 b9",
            "a1 b6",
            {"copy of another picture": 3},
        ),
    ],
)
def test_copies(
    copies: Path,
    tmp_path: Path,
    options: dict[str, Any],
    train: str,
    val: str,
    dropped: dict[str, int],
) -> None:
    report = run(copies, tmp_path / "out", **options)

    def names(split: str) -> str:
        return " ".join(
            sorted(
                name.replace("/", "").removesuffix(".jpg")
                for name, _, _ in records_of(tmp_path / "out", split)
            )
        )

    assert names("train") == train and (names("val") if val else "") == val
    assert report.dropped == dropped and report.left_out == {"not a picture": 1}
    assert report.num_read == 9 == report.num_written + report.num_left_out + report.num_dropped
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


def test_split_of_which_no_picture_remains_is_refused(tmp_path: Path) -> None:
    same = {f"{i}.jpg": encoded(photo()) for i in range(4)}
    (tmp_path / "whole.tar").write_bytes(tar_of({"a.tar": tar_of(same)}))
    for options, numbers in (
        ({"duplicates": "drop"}, "0 go to 'val', and 4"),
        ({"val_per_class": 1}, "1 go to 'val', and 3"),
    ):
        with pytest.raises(
            ValueError,
            match=f"no picture remains for split 'train': of 4, {numbers} are dropped as copies; change --dup",
        ):
            run(tmp_path / "whole.tar", tmp_path / "out", **options)
    assert run(tmp_path / "whole.tar", tmp_path / "out", duplicates="first").num_dropped == 3


def test_given_class_list_decides_labels_and_what_is_left_out(
    whole_tar: Path, tmp_path: Path
) -> None:
    classes = ClassList(("n00000003", "n99999999", "n00000001"))
    report = run(whole_tar, tmp_path / "out", classes)
    assert {(name.partition("/")[0], label) for name, label, _ in records_of(tmp_path / "out")} == {
        ("n00000003", 0),
        ("n00000001", 2),
    }
    assert (report.num_classes, report.left_out) == (3, {"class not in the list": NUM_PER_CLASS})


# --------------------------------------------------------------------------------------------------------- what is left out


def test_pictures_without_classes_take_them_from_a_table(tmp_path: Path) -> None:
    files = {f"ILSVRC2012_val_{n:08d}.JPEG": encoded(photo(seed=n)) for n in (1, 2, 3)} | {
        "ILSVRC2012_val_00060000.JPEG": encoded(photo())
    }
    (tmp_path / "val.tar").write_bytes(tar_of(files))
    report = run(tmp_path / "val.tar", tmp_path / "a", split="val", labels="ilsvrc2012-val")
    assert report.num_written == 3 and report.left_out == {"no label": 1}
    names = {name for name, _, _ in records_of(tmp_path / "a", "val")}
    # The first three ids of the ground truth that ILSVRC published.
    expected = {1: "n01751748", 2: "n09193705", 3: "n02105855"}
    assert names == {f"{class_id}/ILSVRC2012_val_{n:08d}.JPEG" for n, class_id in expected.items()}

    (tmp_path / "flat").mkdir()
    for name, content in files.items():
        (tmp_path / "flat" / name).write_bytes(content)
    (tmp_path / "labels.tsv").write_text(
        "".join(f"ILSVRC2012_val_{n:08d}.JPEG\t{class_id}\n" for n, class_id in expected.items())
    )
    run(tmp_path / "flat", tmp_path / "b", split="val", labels=str(tmp_path / "labels.tsv"))
    assert records_of(tmp_path / "b", "val") == records_of(tmp_path / "a", "val")

    # A table may begin with a byte order mark and name files with their folders; what it names and is not there is left out.
    (tmp_path / "flat" / "deeper").mkdir()
    (tmp_path / "flat" / "deeper" / "ILSVRC2012_val_00000001.JPEG").write_bytes(
        encoded(photo(seed=9))
    )
    (tmp_path / "flat" / "broken.JPEG").symlink_to("nowhere")
    lines = [
        "ILSVRC2012_val_00000001.JPEG\tcat",
        "deeper/ILSVRC2012_val_00000001.JPEG\tdog",
        "broken.JPEG\tcat",
    ]
    (tmp_path / "labels.tsv").write_text("\r\n".join(lines), "utf-8-sig")
    report = run(tmp_path / "flat", tmp_path / "d", labels=str(tmp_path / "labels.tsv"))
    names = {name for name, _, _ in records_of(tmp_path / "d")}
    assert names == {"cat/ILSVRC2012_val_00000001.JPEG", "dog/deeper/ILSVRC2012_val_00000001.JPEG"}
    assert report.left_out == {"no label": 3, "unreadable file": 1}

    (tmp_path / "labels.tsv").write_text("a.JPEG\tcat\n\tdog\tanimal\n")
    with pytest.raises(
        ValueError, match=r"line 2 of .*labels.tsv is '\\tdog\\tanimal'; expected FILE<TAB>CLASS"
    ):
        run(tmp_path / "flat", tmp_path / "c", labels=str(tmp_path / "labels.tsv"))
    (tmp_path / "labels.tsv").write_text("a.JPEG\tcat\tanimal\n")
    with pytest.raises(
        ValueError,
        match=r"line 1 of .*labels.tsv is 'a.JPEG\\tcat\\tanimal'; expected FILE<TAB>CLASS",
    ):
        run(tmp_path / "flat", tmp_path / "c", labels=str(tmp_path / "labels.tsv"))
    (tmp_path / "labels.tsv").write_text("a.JPEG n01751748\n")
    with pytest.raises(
        ValueError, match=r"line 1 of .*labels.tsv is 'a.JPEG n01751748'; expected FILE<TAB>CLASS"
    ):
        run(tmp_path / "flat", tmp_path / "c", labels=str(tmp_path / "labels.tsv"))
    with pytest.raises(
        ValueError,
        match=r"table of labels gone cannot be read .* expected ilsvrc2012-val or a file",
    ):
        run(tmp_path / "flat", tmp_path / "c", labels="gone")
    assert not (tmp_path / "c").exists()


def test_what_cannot_be_read_is_left_out_with_its_reason(tmp_path: Path) -> None:
    good = encoded(photo())
    damaged = bytearray(good)
    damaged[damaged.index(b"\xff\xda") + 20 :] = b"\xff\xd8" * 50
    huge = bytearray(encoded(photo(), quality=50))
    at = huge.index(b"\xff\xc0") + 5
    huge[at : at + 4] = b"\xea\x60\xea\x60"  # the header promises 60,000 x 60,000 px
    large = bytearray(huge)
    large[at : at + 4] = b"\x1f\x40\x27\x10"  # 10,000 x 8,000 px
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w") as tar:
        for name, content in {
            "good.JPEG": good,
            "cut.JPEG": good[:-20],
            "early.JPEG": good[:100],
            "damaged.JPEG": bytes(damaged),
            "empty.JPEG": b"",
            "page.JPEG": b"<html>404</html>",
            "huge.JPEG": bytes(huge),
            "large.JPEG": bytes(large),
            "/absolute.JPEG": good,
            "a/../../up.JPEG": good,
            "tab\tin name.txt": b"x",
        }.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for name, kind in (
            ("link.JPEG", tarfile.SYMTYPE),
            ("device.JPEG", tarfile.CHRTYPE),
            ("folder", tarfile.DIRTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    one = tar_of({"one.JPEG": good}).rstrip(b"\0")
    one += bytes(-len(one) % 512)
    inner_tars = [inner.getvalue(), inner.getvalue()[:1000], b"?" * 600, one, one + b"?" * 1024]
    whole = tar_of(
        {f"n0000000{i}.tar": content for i, content in enumerate(inner_tars, 1)}
        | {"notes.txt": b"hi"}
    )
    (tmp_path / "whole.tar").write_bytes(whole)
    report = run(tmp_path / "whole.tar", tmp_path / "out")
    names = sorted(name for name, _, _ in records_of(tmp_path / "out"))
    assert names == ["n00000001/good.JPEG", "n00000004/one.JPEG", "n00000005/one.JPEG"]
    rows = [
        line.split("\t")
        for line in (tmp_path / "out" / "left_out-train.tsv").read_text().splitlines()
    ]
    assert rows[0] == ["source", "member", "reason"] and all(len(row) == 3 for row in rows)
    reasons = {(source, member): reason for source, member, reason in rows[1:]}
    kinds = {
        member: reason.partition(":")[0]
        for (source, member), reason in reasons.items()
        if source == "n00000001.tar"
    }
    assert kinds == {
        "cut.JPEG": "damaged picture",
        "early.JPEG": "damaged picture",
        "damaged.JPEG": "damaged picture",
        "empty.JPEG": "empty file",
        "page.JPEG": "not a picture",
        "huge.JPEG": "too many pixels",
        "large.JPEG": "too many pixels",
        "/absolute.JPEG": "unsafe name",
        "a/../../up.JPEG": "unsafe name",
        "tab in name.txt": "not a picture",
        "link.JPEG": "not a regular file",
        "device.JPEG": "not a regular file",
    }
    assert all(reasons[(f"n0000000{i}.tar", "")].startswith("damaged tar: ") for i in (2, 3, 4, 5))
    assert reasons[("n00000001.tar", "large.JPEG")] == "too many pixels: 10000 x 8000"
    assert reasons[("whole.tar", "notes.txt")] == "not in a synset tar"
    assert report.num_read == report.num_written + report.num_left_out == 20
    assert sum(report.left_out.values()) == report.num_left_out == len(rows) - 1


def header(
    name: str, size: int, kind: bytes = tarfile.REGTYPE, pax: dict[str, str] | None = None
) -> bytes:
    """A header that promises what is not there."""
    info = tarfile.TarInfo(name)
    info.size, info.type, info.pax_headers = size, kind, pax or {}
    return info.tobuf(tarfile.PAX_FORMAT if pax else tarfile.GNU_FORMAT)


SPARSE = {
    "GNU.sparse.major": "1",
    "GNU.sparse.minor": "0",
    "GNU.sparse.name": "x",
    "GNU.sparse.realsize": "700",
}
PICTURE = {"a.JPEG": encoded(photo())}


@pytest.mark.parametrize(
    ("inner", "num_read", "reason"),
    [
        (
            header("back.JPEG", -512),
            0,
            "damaged tar: a header of type b'0' with a size of -512 bytes",
        ),
        (
            header("back.JPEG", 0, pax={"size": "-512"}),
            0,
            "damaged tar: a file with a size of -512 bytes",
        ),
        (
            header("a name of a gigabyte", 1 << 30, tarfile.GNUTYPE_LONGNAME),
            0,
            "damaged tar: a header of type b'L' with a size of 1073741824 bytes",
        ),
        (
            header("n", 1, tarfile.GNUTYPE_LONGNAME).ljust(1024, b"n") * 1000,
            0,
            "damaged tar: maximum recursion depth exceeded",
        ),
        (header("x", 700, pax=SPARSE) + b"?" * 1024, 0, "damaged tar: not enough values to unpack"),
        (
            header("x", 700, pax=SPARSE) + b"2\n0\n-99999\n0\n700\n".ljust(1024, b"x"),
            0,
            "damaged tar: data at byte -",
        ),
        (gzip.compress(tar_of(PICTURE))[:3], 0, "damaged tar: Compressed file ended before"),
        (gzip.compress(tar_of(PICTURE))[:-8] + bytes(8), 0, "damaged tar: CRC check failed"),
        (tar_of(PICTURE | {"x" * 70_000: b"x"}), 1, "name too long"),
        (
            tar_of(PICTURE) + tar_of({"b.JPEG": encoded(photo())}),
            1,
            "damaged tar: there is more behind its end mark; another tar?",
        ),
    ],
)
def test_hostile_tars_are_left_out_alone(
    tmp_path: Path, inner: bytes, num_read: int, reason: str
) -> None:
    (tmp_path / "whole.tar").write_bytes(
        tar_of({"n00000001.tar": inner, "n00000002.tar": tar_of(PICTURE)})
    )
    (tmp_path / "tars").mkdir()
    (tmp_path / "tars" / "n00000001.tar").write_bytes(inner)
    (tmp_path / "tars" / "n00000002.tar").write_bytes(tar_of(PICTURE))
    for source in ("whole.tar", "tars"):
        report = run(tmp_path / source, tmp_path / f"out-{source}")
        names = {name for name, _, _ in records_of(tmp_path / f"out-{source}")}
        assert names == {"n00000002/a.JPEG", "n00000001/a.JPEG"} - (
            set() if num_read else {"n00000001/a.JPEG"}
        )
        (row,) = (tmp_path / f"out-{source}" / "left_out-train.tsv").read_text().splitlines()[1:]
        assert row.split("\t")[2].startswith(reason)
        assert report.num_left_out == 1


def test_joined_tars_are_refused_not_halved(whole_tar: Path, tmp_path: Path) -> None:
    (tmp_path / "joined.tar").write_bytes(whole_tar.read_bytes() * 2)
    (tmp_path / "joined.tar.gz").write_bytes(gzip.compress(whole_tar.read_bytes() * 2))
    for name in ("joined.tar", "joined.tar.gz"):
        with pytest.raises(
            ValueError, match=r"joined.tar.* \(there is more behind its end mark; another tar\?\)"
        ):
            run(tmp_path / name, tmp_path / "out")


def test_tar_that_was_compressed_in_pieces(whole_tar: Path, tmp_path: Path) -> None:
    """As bgzip and pbzip2 do."""
    run(whole_tar, tmp_path / "expected")
    content = whole_tar.read_bytes()
    for name, compress in (
        ("whole.tar.gz", gzip.compress),
        ("whole.tar.bz2", bz2.compress),
        ("whole.tar.xz", lzma.compress),
    ):
        (tmp_path / name).write_bytes(compress(content[:9000]) + compress(content[9000:]))
        run(tmp_path / name, tmp_path / f"out-{name}")
        assert records_of(tmp_path / f"out-{name}") == records_of(tmp_path / "expected")


def test_headers_of_a_tar_are_not_kept(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(
        tar_of({"n1.tar": tar_of({f"{i}.JPEG": b"" for i in range(500)})})
    )
    (tmp_path / "b.tar.gz").write_bytes(gzip.compress((tmp_path / "a.tar").read_bytes()))
    for name in ("a.tar", "b.tar.gz"):
        for number, _ in enumerate(base.open_source(tmp_path / name).members()):
            if number == 499:
                assert sum(isinstance(o, tarfile.TarInfo) for o in gc.get_objects()) < 20


def test_folder_that_cannot_be_listed_is_refused(
    class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.scandir

    def scandir(path: Any) -> Any:
        if Path(path).name == CLASS_IDS[1]:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(
        ValueError,
        match=r"folders cannot be read \(\[Errno 13\] Permission denied: '.*n00000002'\)",
    ):
        run(class_folders, tmp_path / "out")


def test_folder_members_that_are_no_files_are_left_out(class_folders: Path, tmp_path: Path) -> None:
    os.mkfifo(class_folders / CLASS_IDS[0] / "pipe.JPEG")
    (class_folders / CLASS_IDS[0] / "linked_folder").symlink_to(class_folders / CLASS_IDS[1])
    (class_folders / CLASS_IDS[0] / "broken.JPEG").symlink_to("nowhere")
    (class_folders / CLASS_IDS[0] / "deeper").mkdir()
    (class_folders / CLASS_IDS[0] / "deeper" / "linked.JPEG").symlink_to(
        class_folders / CLASS_IDS[1] / f"{CLASS_IDS[1]}_0.JPEG"
    )
    (class_folders / "stray.JPEG").write_bytes(encoded(photo()))
    (class_folders / ".hidden").mkdir()
    report = run(class_folders, tmp_path / "out")
    assert report.left_out == {
        "not a regular file": 2,
        "not in a class folder or synset tar": 1,
        "unreadable file": 1,
    }
    assert "n00000001/deeper/linked.JPEG" in {name for name, _, _ in records_of(tmp_path / "out")}
    assert report.num_classes == 3


# ------------------------------------------------------------------------------------------------------------- one picture


def recoded(data: bytes, short_side_px: int = 32, quality: int = 95) -> np.ndarray:
    jpeg = recode.recode(data, short_side_px, quality)
    header = Image.open(io.BytesIO(jpeg))
    assert (
        (header.format, header.mode) == ("JPEG", "RGB")
        and not header.getexif()
        and "icc_profile" not in header.info
    )
    return simplejpeg.decode_jpeg(jpeg).astype(int)


@pytest.mark.parametrize("file_format", ["PNG", "GIF", "BMP", "WEBP"])
def test_other_formats_become_jpeg(file_format: str) -> None:
    expected = np.asarray(photo()).astype(int)
    assert np.abs(recoded(encoded(photo(), file_format), 0) - expected).mean() < 5


def test_cmyk_sixteen_bits_and_transparency_become_rgb() -> None:
    expected = np.asarray(photo()).astype(int)
    assert np.abs(recoded(encoded(photo().convert("CMYK"), quality=95), 0) - expected).mean() < 3
    grey = np.asarray(photo().convert("L"))
    deep = recoded(encoded(Image.fromarray(grey.astype(np.uint16) * 257), "PNG"), 0)
    assert np.abs(deep - grey[..., None]).mean() < 3
    clear = photo().convert("RGBA")
    clear.putalpha(0)
    assert recoded(encoded(clear, "PNG"), 0).min() > 250


def test_ycck_becomes_rgb() -> None:
    """CMYK stored as YCCK, as Photoshop does: Adobe's marker says so with a 2 where Pillow writes a 0."""
    inverted = np.asarray(Image.fromarray(255 - np.asarray(photo())).convert("YCbCr"))
    channels = np.concatenate([inverted, np.full((32, 48, 1), 255, np.uint8)], axis=2)
    data = bytearray(encoded(Image.fromarray(255 - channels, "CMYK"), quality=95, subsampling=0))
    at = data.index(b"Adobe") + 11
    assert data[at] == 0
    data[at] = 2
    assert np.abs(recoded(bytes(data), 0) - np.asarray(photo())).mean() < 3


def test_small_pictures_are_left_out_if_told() -> None:
    assert recode.recode(encoded(photo(48, 32)), 0, 90, min_side_px=32)
    for size in ((48, 31), (31, 48)):
        with pytest.raises(recode.Unreadable, match=f"too small: {size[0]} x {size[1]}"):
            recode.recode(encoded(photo(*size)), 0, 90, min_side_px=32)


def test_large_picture_is_reduced_to_the_short_side() -> None:
    for width, height, expected in (
        (100, 50, (64, 32)),
        (50, 101, (32, 65)),
        (400, 300, (43, 32)),
        (2000, 33, (1939, 32)),
    ):
        pixels = recoded(encoded(photo(width, height)))
        assert pixels.shape[1::-1] == expected
        reference = np.asarray(
            photo(width, height).resize(expected, Image.Resampling.BICUBIC)
        ).astype(int)
        assert np.abs(pixels - reference).mean() < 3


def test_reduction_is_antialiased() -> None:
    """Stripes finer than the result can show become grey, not other stripes."""
    stripes = np.zeros((200, 300, 3), np.uint8)
    stripes[:, ::2] = 255
    assert recoded(encoded(Image.fromarray(stripes), "PNG")).std() < 5


def test_bytes_stay_where_nothing_has_to_change() -> None:
    small, grey = encoded(photo(), quality=70), encoded(photo().convert("L"))
    progressive = encoded(photo(), progressive=True)
    for data in (small, grey):
        assert recode.recode(data, 32, 90) == data
        assert recode.recode(data, 31, 90) != data
    assert recode.recode(progressive, 32, 90) != progressive
    assert recode.recode(progressive, 0, 90) == progressive


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("short_side_px", [0, 16])
def test_exif_rotation_is_applied_once(orientation: int, short_side_px: int) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(photo(), quality=95, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if short_side_px:
        expected = expected.resize(
            (24, 16) if expected.width > expected.height else (16, 24), Image.Resampling.BICUBIC
        )
    pixels = simplejpeg.decode_jpeg(recode.recode(data, short_side_px, 95)).astype(int)
    assert pixels.shape == np.asarray(expected).shape
    assert np.abs(pixels - np.asarray(expected)).mean() < 4


def test_colour_profile_is_converted() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = bytearray(
        srgb.replace(b"sRGB", b"GRBs").replace(
            "sRGB".encode("utf-16-be"), "GRBs".encode("utf-16-be")
        )
    )
    red, green = swapped.index(b"rXYZ"), swapped.index(b"gXYZ")
    swapped[red + 4 : red + 12], swapped[green + 4 : green + 12] = (
        swapped[green + 4 : green + 12],
        swapped[red + 4 : red + 12],
    )
    picture = Image.new("RGB", (48, 32), (200, 30, 30))
    kept = encoded(picture, icc_profile=srgb)
    assert recode.recode(kept, 32, 95) == kept
    converted = recoded(encoded(picture, quality=95, icc_profile=bytes(swapped)))
    assert (
        converted[..., 1].mean() > 180 and converted[..., 0].mean() < 60
    )  # the profile calls red what is green
    assert (
        recoded(encoded(picture, quality=95, progressive=True, icc_profile=b"no profile"))[
            ..., 0
        ].mean()
        > 190
    )


# -------------------------------------------------------------------------------------------------------------- refusals


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
            r"has a split 'train' already, packed with short_side 256; got 16; use the same, choose another --split",
        ),
        ({"quality": 80}, r"packed with quality 90; got 80"),
        ({"seed": 1}, r"packed with seed 0; got 1"),
        ({"num_shards": 3}, r"packed with num_shards 1; got 3"),
        ({"val_per_class": 1}, r"packed with val_per_class 0; got 1"),
        (
            {"name": "other"},
            r"holds the dataset 'imagenet21k'; expected 'other'; change --name or --out",
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


def test_damaged_split_is_not_taken_for_complete(whole_tar: Path, tmp_path: Path) -> None:
    run(whole_tar, tmp_path / "out")
    next((tmp_path / "out").glob("*array_record*")).write_bytes(b"")
    with pytest.raises(ValueError, match=r"00000-of-00001 has 0 bytes; expected \d+ bytes"):
        run(whole_tar, tmp_path / "out")


def make_empty_files(source: Path) -> None:
    (source / "a").mkdir(parents=True)
    for name in ("1.jpg", "2.jpg"):
        (source / "a" / name).touch()


def make_foreign(out: Path) -> None:
    out.mkdir()
    (out / "thesis.txt").write_text("mine")


@pytest.mark.parametrize(
    ("make_source", "options", "message"),
    [
        (lambda s: None, {}, r"source .* does not exist; expected a tar of synset tars"),
        (lambda s: s.write_bytes(b""), {}, r"source .* is empty; expected"),
        (lambda s: s.mkdir(), {}, r"source .* is empty; expected"),
        (lambda s: s.write_bytes(encoded(photo())), {}, r"is no tar or not a whole one"),
        (
            lambda s: s.write_bytes(tar_of({})),
            {},
            r"holds no synset tar or class folder; expected a tar of synset tars",
        ),
        (
            lambda s: s.write_bytes(tar_of({"a/b.jpg": encoded(photo())})),
            {},
            r"holds no synset tar or class folder; expected a tar of",
        ),
        (
            lambda s: s.write_bytes(tar_of({"a.jpg": encoded(photo())})),
            {"labels": "ilsvrc2012-val"},
            r"holds no file that ilsvrc2012-val names; expected",
        ),
        (
            lambda s: s.write_bytes(tar_of({"a.jpg": encoded(photo())}, "w:gz")),
            {},
            r"holds no pictures that can be packed \(1 not in a synset tar\)",
        ),
        (
            lambda s: s.write_bytes(tar_of({}, "w:gz")),
            {},
            r"holds no pictures that can be packed \(it has no files\)",
        ),
        (lambda s: make_empty_files(s), {}, r"no pictures that can be packed \(2 empty file\)"),
        (
            lambda s: s.write_bytes(tar_of({"a.tar": tar_of({"b.txt": b"b"})})),
            {},
            r"no pictures that can be packed \(1 not a picture\)",
        ),
        (
            lambda s: s.write_bytes(tar_of({"a.tar": tar_of({"b.txt": b"b" * 9999})})[:4096]),
            {},
            r"is no tar or not a whole one",
        ),
        (
            lambda s: s.write_bytes(tar_of({"a.tar": os.urandom(9999)}, "w:gz")[:4096]),
            {},
            r"ends early or is damaged",
        ),
        (
            lambda s: s.write_bytes(tar_of({"a .tar": tar_of({"b": b"b"})})),
            {},
            r"has a class 'a '; expected a printable name",
        ),
    ],
)
def test_sources_that_do_not_do(
    tmp_path: Path, make_source: Callable[[Path], None], options: dict[str, Any], message: str
) -> None:
    make_source(tmp_path / "source")
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "source", tmp_path / "made" / "out", **options)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quality": 0}, r"quality is 0; expected 1 to 100; change --quality"),
        ({"quality": 101}, r"quality is 101; expected 1 to 100"),
        ({"short_side": -1}, r"short_side is -1; expected 0 to 65500; change --short-side"),
        ({"num_shards": 0}, r"num_shards is 0; expected 1 to 99999; change --num-shards"),
        ({"val_per_class": -1}, r"val_per_class is -1; expected at least 0"),
        ({"min_side": -1}, r"min_side is -1; expected 0 to 65500; change --min-side"),
        (
            {"val_per_class": 5, "min_class_size": 5},
            r"min_class_size is 5; expected at least 6; change --min-class-size",
        ),
        (
            {"duplicates": "some"},
            r"duplicates is 'some'; expected one of keep, first, drop; change --duplicates",
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
    with pytest.raises(ValueError, match=r"workers is 0; expected at least 1; change --workers"):
        pack(whole_tar, tmp_path / "out", PackOptions(), num_workers=0)


def test_outputs_that_do_not_do(whole_tar: Path, class_folders: Path, tmp_path: Path) -> None:
    make_foreign(tmp_path / "foreign")
    with pytest.raises(
        ValueError,
        match=r"foreign holds thesis.txt, which `i21k pack` did not put there; expected an empty directory",
    ):
        run(whole_tar, tmp_path / "foreign")
    assert content_of(tmp_path / "foreign") == {"thesis.txt": b"mine"}
    with pytest.raises(
        ValueError, match=r"whole.tar is a file; expected a directory; change --out"
    ):
        run(class_folders, whole_tar)
    with pytest.raises(ValueError, match=r"lies in the source .* expected one elsewhere"):
        run(class_folders, class_folders / "out")
    with pytest.raises(
        ValueError,
        match=r"packing into .* failed: .*Not a directory.*; make room there and give the same",
    ):
        run(class_folders, whole_tar / "below")


def test_unknown_classes(whole_tar: Path, class_folders: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"has class 'n00000001', one of 3 that are not among the 1 classes of the given list; expected some",
    ):
        run(whole_tar, tmp_path / "out", ClassList(("n99999999",)))
    run(class_folders, tmp_path / "out")
    (class_folders / "n00000004").mkdir()
    with pytest.raises(
        ValueError,
        match=r"has class 'n00000004', one of 1 that are not among the 3 classes of the dataset",
    ):
        run(class_folders, tmp_path / "out", split="val")
    gzipped = tmp_path / "more.tar.gz"
    gzipped.write_bytes(tar_of({"n00000004.tar": tar_of(pictures_of("n00000001"))}, "w:gz"))
    with pytest.raises(ValueError, match=r"has class 'n00000004'"):
        run(gzipped, tmp_path / "out", split="val")
    assert split_names(tmp_path / "out") == ("train",)


# ----------------------------------------------------------------------------------------------- failures and interruptions


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture at a time to the workers, a run of about three, slices of about two."""
    monkeypatch.setattr(stages, "BATCH_BYTES", 1)
    monkeypatch.setattr(packing, "_run_bytes", lambda *_: 3000)
    monkeypatch.setattr(plan, "SLICE_BYTES", 2000)


ALL_OPTIONS: dict[str, Any] = {"num_shards": 3, "val_per_class": 2, "duplicates": "first"}


@pytest.mark.parametrize("layout", ["tar", "gzipped tar", "folder", "folder of tars", "labelled"])
def test_run_goes_on_wherever_it_was_stopped(
    layout: str,
    whole_tar: Path,
    class_folders: Path,
    tmp_path: Path,
    small_steps: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stop after the first, the second, ... progress that is told, and between any two shards, each time going on with what is left."""
    source, options = {"tar": whole_tar}.get(layout, class_folders), dict(ALL_OPTIONS)
    if layout == "gzipped tar":
        source = tmp_path / "whole.tar.gz"
        source.write_bytes(gzip.compress(whole_tar.read_bytes()))
    elif layout == "folder of tars":
        source = tmp_path / "tars"
        source.mkdir()
        for class_id in CLASS_IDS:
            (source / f"{class_id}.tar").write_bytes(tar_of(pictures_of(class_id)))
    elif layout == "labelled":
        table = tmp_path / "table.tsv"
        table.write_text(
            "".join(
                f"{name}\t{class_id}\n" for class_id in CLASS_IDS for name in pictures_of(class_id)
            )
        )
        options["labels"] = str(table)
    run(source, tmp_path / "expected", **options)
    out = tmp_path / "out"
    read_again, num_stops, resumed = collections.Counter[str](), 0, [0]
    real_recode = recoding.recode_batch

    def recode_batch(batch: list[Any], **keywords: Any) -> list[Any]:
        read_again.update(member.file_name for member in batch)
        return real_recode(batch, **keywords)

    monkeypatch.setattr(recoding, "recode_batch", recode_batch)
    while num_stops < 60:
        left = 4 if num_stops % 2 else 6  # steps that this attempt may take: more than a run needs

        def stop(progress: packing.Progress) -> None:
            nonlocal left
            left -= progress.phase != "planning"  # which begins anew
            if left == 0:
                raise KeyboardInterrupt

        try:
            report = pack(source, out, PackOptions(**options), num_workers=1, on_progress=stop)
            break
        except KeyboardInterrupt:
            num_stops += 1
            assert read_manifest(out) is None and not list(out.glob("*array_record*"))
            resumed.append(sum(r.about.num_read for r in spill.find_runs(out / ".packing")))
    assert num_stops > 3 and resumed == sorted(resumed) and report.resumed_after == 18
    assert content_of(out) == content_of(tmp_path / "expected")
    assert max(read_again.values()) <= 4  # what lay in no complete run yet, not what did


def test_same_bytes_for_any_size_of_runs_and_slices(
    whole_tar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(whole_tar, tmp_path / "expected", **ALL_OPTIONS)
    monkeypatch.setattr(stages, "BATCH_BYTES", 1)
    for run_bytes, slice_bytes in ((1, 1), (5000, 1000), (1, 1 << 20)):
        monkeypatch.setattr(packing, "_run_bytes", lambda *_, run_bytes=run_bytes: run_bytes)
        monkeypatch.setattr(plan, "SLICE_BYTES", slice_bytes)
        run(whole_tar, tmp_path / f"{run_bytes}-{slice_bytes}", **ALL_OPTIONS)
        assert content_of(tmp_path / f"{run_bytes}-{slice_bytes}") == content_of(
            tmp_path / "expected"
        )


def interrupt_after(num_steps: int) -> Callable[[packing.Progress], None]:
    steps = iter(range(num_steps))

    def stop(progress: packing.Progress) -> None:
        if next(steps, None) is None:
            raise KeyboardInterrupt

    return stop


def test_unfinished_run_is_told_from_another(
    whole_tar: Path, class_folders: Path, tmp_path: Path, small_steps: None
) -> None:
    out = tmp_path / "out"

    def begin() -> None:
        with pytest.raises(KeyboardInterrupt):
            pack(whole_tar, out, PackOptions(), num_workers=1, on_progress=interrupt_after(10))

    begin()
    before = {path.name for path in (out / ".packing").iterdir()}
    for source, options, message in (
        (
            whole_tar,
            {"short_side": 20},
            r"unfinished packing with short_side 256; got 20; finish it with the same, or remove .*\.packing",
        ),
        (whole_tar, {"min_side": 20}, r"unfinished packing with min_side 0; got 20"),
        (class_folders, {}, r"unfinished packing with source(_bytes|_files)? "),
    ):
        with pytest.raises(ValueError, match=message):
            run(source, out, **options)
    with pytest.raises(
        ValueError, match=r"unfinished packing with classes None; got '[0-9a-f]+ given'"
    ):
        run(whole_tar, out, ClassList(CLASS_IDS))
    assert {path.name for path in (out / ".packing").iterdir()} == before
    os.utime(whole_tar)  # copied, say
    with pytest.MonkeyPatch.context() as patch:  # as long as the other, but another
        swapped = {
            f"{class_id}.tar": tar_of(pictures_of(class_id)) for class_id in reversed(CLASS_IDS)
        }
        patch.setattr(
            Path,
            "open",
            lambda path, *a, real=Path.open, **k: (
                io.BytesIO(tar_of(swapped)) if path == whole_tar else real(path, *a, **k)
            ),
        )
        with pytest.raises(
            ValueError, match=r"unfinished packing with source_files '[0-9a-f]+'; got '[0-9a-f]+'"
        ):
            run(whole_tar, out)
    # What is decided after reading may change: the pictures are not read again.
    run(whole_tar, tmp_path / "expected", num_shards=2, val_per_class=1)
    report = run(whole_tar, out, num_shards=2, val_per_class=1)
    assert 0 < report.resumed_after < 18
    assert content_of(out) == content_of(tmp_path / "expected")


def test_full_disk_is_explained_and_resumed(
    whole_tar: Path, tmp_path: Path, small_steps: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(whole_tar, tmp_path / "expected")
    for function, num_good in (("write_records", 2), ("write_whole", 4)):
        real, calls = getattr(spill, function), iter(range(num_good))

        def full(path: Path, content: Any, real: Any = real, calls: Iterator[int] = calls) -> Any:
            if next(calls, None) is None:
                path.with_name(
                    path.name + ("" if path.suffix == ".records" else ".tmp")
                ).write_bytes(b"half")
                raise OSError(28, "No space left on device")
            return real(path, content)

        with monkeypatch.context() as patch:
            patch.setattr(spill, function, full)
            with pytest.raises(
                ValueError, match=r"failed: \[Errno 28\] No space left on device; make room there"
            ):
                run(whole_tar, tmp_path / "out")
    real_write = shards.write_shard

    def full_shard(path: Path, records: Iterator[bytes]) -> shards.Shard:
        real_write(path, records)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shards, "write_shard", full_shard)
        with pytest.raises(ValueError, match=r"\[Errno 28\]"):
            run(whole_tar, tmp_path / "out")
    assert run(whole_tar, tmp_path / "out").resumed_after == 18
    assert content_of(tmp_path / "out") == content_of(tmp_path / "expected")


def test_too_little_room_is_refused_before_it_is_filled(
    whole_tar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "BATCH_BYTES", 1)
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6 - 1000, 1000)
    )
    with pytest.raises(
        ValueError,
        match=r"has 0.0 GB free; packing takes about 0.0 GB more while it runs, twice the result; make room",
    ):
        run(whole_tar, tmp_path / "new" / "out")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("num_workers", [1, 2])
def test_room_is_judged_by_what_has_a_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_workers: int
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (100, 150, 3), np.uint8)
    names = {f"{i:04d}.JPEG": encoded(Image.fromarray(noise), quality=95) for i in range(300)}
    (tmp_path / "whole.tar").write_bytes(tar_of({f"{CLASS_IDS[0]}.tar": tar_of(names)}))
    asked: list[int] = []
    monkeypatch.setattr(commit, "check_room", lambda work, num_bytes: asked.append(num_bytes))
    monkeypatch.setattr(
        stages, "BATCH_BYTES", 100_000
    )  # 16 of them are under way in two workers, a sixth of the source
    pack(
        tmp_path / "whole.tar",
        tmp_path / "out",
        PackOptions(short_side=50),
        num_workers=num_workers,
    )
    assert len(asked) == 1
    in_shards = sum(len(image) for _, _, image in records_of(tmp_path / "out", "train"))
    assert 0.9 < asked[0] / (2 * in_shards) < 1.1


def test_source_that_goes_away_is_no_fault_of_its_pictures(
    whole_tar: Path, tmp_path: Path, small_steps: None
) -> None:
    def take_away(progress: packing.Progress) -> None:
        if progress.num_pictures == 9:
            whole_tar.rename(tmp_path / "elsewhere")

    with pytest.raises(
        ValueError,
        match=r"n\d+.tar, .* can no longer be read \(No such file or directory\). Give the same command again",
    ):
        pack(whole_tar, tmp_path / "out", PackOptions(), num_workers=1, on_progress=take_away)
    (tmp_path / "elsewhere").rename(whole_tar)
    assert run(whole_tar, tmp_path / "out").resumed_after > 0
    run(whole_tar, tmp_path / "expected")
    assert content_of(tmp_path / "out") == content_of(tmp_path / "expected")


def test_failure_before_anything_is_complete_leaves_nothing(
    whole_tar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, records: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(spill, "write_records", full)
    with pytest.raises(ValueError, match=r"\[Errno 28\]"):
        run(whole_tar, tmp_path / "new" / "out")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("first_split", [True, False])
@pytest.mark.parametrize("failing", ["write_metadata", "write"])
def test_failure_at_the_very_end_is_undone(
    whole_tar: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    first_split: bool,
    failing: str,
) -> None:
    def seen(directory: Path) -> dict[str, bytes]:
        return (
            {
                path.name: path.read_bytes()
                for path in sorted(directory.iterdir())
                if path.name != ".packing"
            }
            if directory.exists()
            else {}
        )

    out = tmp_path / "out"
    if not first_split:
        run(whole_tar, out)
    before = seen(out)
    run(whole_tar, tmp_path / "expected", split="other")
    calls = iter([KeyboardInterrupt])
    real = write_metadata

    def interrupted(*arguments: Any) -> None:
        for error in calls:
            raise error
        real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(
            *((commit, "write_metadata") if failing == "write_metadata" else (Manifest, "write")),
            interrupted,
        )
        with pytest.raises(KeyboardInterrupt):
            run(whole_tar, out, split="other")
    assert seen(out) == before
    run(whole_tar, out, split="other")
    assert records_of(out, "other") == records_of(tmp_path / "expected", "other")
    assert split_names(out) == (("other",) if first_split else ("other", "train"))


@pytest.mark.parametrize("first_split", [True, False])
def test_signal_behind_the_last_step_undoes_nothing(
    whole_tar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first_split: bool
) -> None:
    out, write = tmp_path / "out", Manifest.write
    for directory in (tmp_path / "expected", out):
        if not first_split:
            run(whole_tar, directory, split="other")
    run(whole_tar, tmp_path / "expected")

    def interrupted(manifest: Manifest, directory: Path) -> None:
        write(manifest, directory)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Manifest, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(whole_tar, out)
    assert run(whole_tar, out).already_complete
    assert content_of(out) == content_of(tmp_path / "expected")


def test_what_a_split_was_made_of_stays_unless_that_is_whole(
    whole_tar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(commit, "_remove", lambda work: None)
        run(whole_tar, out)
    (shard,) = out.glob("*.array_record-*")
    shard.rename(out / ".packing" / shard.name)
    with pytest.raises(ValueError, match=re.escape(shard.name)):
        run(whole_tar, out)
    assert (out / ".packing" / shard.name).exists()


def test_directory_of_others_is_not_touched(whole_tar: Path, tmp_path: Path) -> None:
    theirs = [
        tmp_path / "out" / name / "file"
        for name in (".i21k-venv", ".i21k-abc_de12", ".packing-removed", "zoo")
    ]
    for file in theirs:
        file.parent.mkdir(parents=True)
        file.touch()
    for number in (0, 3):
        with pytest.raises(
            ValueError,
            match=f"holds {theirs[number].parent.name}, which `i21k pack` did not put there",
        ):
            run(whole_tar, tmp_path / "out")
        assert all(file.exists() for file in theirs[number:])
        shutil.rmtree(theirs[number].parent)
    run(whole_tar, tmp_path / "out")
    assert not any(file.parent.exists() for file in theirs)


def test_run_after_one_killed_while_it_moved_its_shards(
    whole_tar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(whole_tar, tmp_path / "expected", num_shards=4)
    run(whole_tar, tmp_path / "fewer", num_shards=2)
    for num_shards, expected in (
        (4, "expected"),
        (2, "fewer"),
    ):  # the same command, and one that leaves nothing of the old shards
        out = tmp_path / f"out-{num_shards}"
        with monkeypatch.context() as patch:
            patch.setattr(
                commit, "commit", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt)
            )
            with pytest.raises(KeyboardInterrupt):
                run(whole_tar, out, num_shards=4)
        for path in sorted((out / ".packing").glob("imagenet21k-*"))[:2]:
            path.rename(out / path.name)
        assert run(whole_tar, out, num_shards=num_shards).resumed_after == 18
        assert content_of(out) == content_of(tmp_path / expected)


@pytest.mark.parametrize("is_renamed", [False, True])
def test_run_after_one_killed_while_it_cleaned_up(
    whole_tar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_renamed: bool
) -> None:
    rmtree = shutil.rmtree

    def killed(path: Path, **options: Any) -> None:
        if not Path(path).name.startswith(".packing"):
            rmtree(path, **options)
        elif path.exists():
            raise KeyboardInterrupt

    out = tmp_path / "out"
    expected = run(whole_tar, tmp_path / "expected")
    with monkeypatch.context() as patch:
        patch.setattr(*((shutil, "rmtree") if is_renamed else (commit, "_remove")), killed)
        with pytest.raises(KeyboardInterrupt):
            run(whole_tar, out)
    assert (out / ".packing-removed").exists() == is_renamed
    report = run(whole_tar, out)
    assert (report.already_complete, report.splits) == (True, expected.splits)
    assert content_of(out) == content_of(tmp_path / "expected")


def test_kill_between_any_two_changes_of_the_directory(
    whole_tar: Path, tmp_path: Path, small_steps: None
) -> None:
    """A copy of the directory before each step that changes it is what a kill leaves; the same command goes on, another one too."""
    out, num_copies, seen, options = (
        tmp_path / "out",
        0,
        None,
        {"num_shards": 2, "val_per_class": 1, "split": "train"},
    )
    steps = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"}
    watched = True

    def watch(event: str, arguments: tuple[Any, ...]) -> None:  # cannot be taken away again
        nonlocal num_copies, seen, watched
        if watched and event in steps and str(out) in str(arguments[0]):
            watched = False  # not while it is copied
            there = sorted((str(path), path.lstat().st_size) for path in out.rglob("*"))
            if there and there != seen:
                shutil.copytree(out, tmp_path / f"killed-{num_copies}")
                num_copies, seen = num_copies + 1, there
            watched = True

    run(whole_tar, tmp_path / "expected", **options)
    run(whole_tar, tmp_path / "other", split="other")
    sys.addaudithook(watch)
    run(whole_tar, out, **options)
    watched = False
    for number in range(num_copies):
        killed = tmp_path / f"killed-{number}"
        if number % 2 and not (killed / "manifest.json").exists():
            shutil.copytree(killed, tmp_path / "changed")
            run(whole_tar, tmp_path / "changed", split="other")
            assert content_of(tmp_path / "changed") == content_of(tmp_path / "other")
            shutil.rmtree(tmp_path / "changed")
        run(whole_tar, killed, **options)
        assert content_of(killed) == content_of(tmp_path / "expected")
    assert num_copies > 30


def test_files_that_are_noted_as_left_out_do_not_fill_memory(
    tmp_path: Path, small_steps: None
) -> None:
    (tmp_path / "whole.tar").write_bytes(
        tar_of({"n1.tar": tar_of({f"{i}.txt": b"x" for i in range(50)} | PICTURE)})
    )
    most = 0

    def look(progress: packing.Progress) -> None:
        nonlocal most
        complete = (tmp_path / "out" / ".packing").glob("run-*.npz")
        most = max(most, *(len(spill.Run(path).left_out()) for path in complete), 0)

    report = pack(
        tmp_path / "whole.tar", tmp_path / "out", PackOptions(), num_workers=1, on_progress=look
    )
    assert report.left_out == {"not a picture": 50} and 0 < most <= 11
    assert len((tmp_path / "out" / "left_out-train.tsv").read_text().splitlines()) == 51


def test_two_writers_of_one_file_do_no_harm(tmp_path: Path) -> None:
    """As an engine does that takes a worker for dead."""
    record = spill.Record(1, 1, "n1", "a", b"jpeg")

    def slow() -> Iterator[spill.Record]:
        spill.write_records(tmp_path / "run-1.records", [record])  # the other one, in the meantime
        assert list(spill.read_records(tmp_path / "run-1.records")) == [record]
        yield record
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        spill.write_records(tmp_path / "run-1.records", slow())
    assert list(spill.read_records(tmp_path / "run-1.records")) == [record]

    def slow_shard() -> Iterator[bytes]:
        shards.write_shard(tmp_path / "shard", [b"record"])
        yield b"record"

    assert shards.write_shard(tmp_path / "shard", slow_shard()).num_records == 1
    assert {path.name for path in tmp_path.iterdir()} == {"run-1.records", "shard"}


KILLED = """if True:
    import sys
    from i21k import cli
    from i21k.data import pack
    from i21k.data.packing import stages
    stages.BATCH_BYTES, pack._run_bytes = 20_000, lambda *_: 200_000
    sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_twenty_kills_at_random_moments_change_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    source = tmp_path / "whole.tar"
    noise = [
        encoded(Image.fromarray(rng.integers(0, 256, (300, 300, 3), np.uint8)), quality=80)
        for _ in range(20)
    ]
    names = [[f"{class_id}_{i}.JPEG" for i in range(120)] for class_id in CLASS_IDS]
    source.write_bytes(
        tar_of(
            {
                f"{c}.tar": tar_of({name: noise[i % 20] for i, name in enumerate(of)})
                for c, of in zip(CLASS_IDS, names, strict=True)
            }
        )
    )
    arguments = [
        "pack",
        str(source),
        "--short-side",
        "100",
        "--num-shards",
        "6",
        "--val-per-class",
        "5",
        "--workers",
        "1",
    ]

    def attempt(out: Path, kill_after_s: float) -> bool:
        """Return whether it came to its end."""
        with subprocess.Popen(
            [sys.executable, "-c", KILLED, *arguments, "--out", str(out)],
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(kill_after_s)
            process.kill()
            _, errors = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), errors
        return process.returncode == 0

    began = time.monotonic()
    assert attempt(tmp_path / "expected", 60)
    duration_s = time.monotonic() - began
    num_kills = 0
    while num_kills < 20:
        if attempt(
            tmp_path / "out", rng.uniform(0.3, 1) * duration_s
        ):  # it got through: begin again, kills are wanted
            assert content_of(tmp_path / "out") == content_of(tmp_path / "expected")
            shutil.rmtree(tmp_path / "out")
        else:
            num_kills += 1
    assert attempt(tmp_path / "out", 60)
    assert content_of(tmp_path / "out") == content_of(tmp_path / "expected")
    report = read_manifest(tmp_path / "out").splits["train"].counts  # type: ignore[union-attr]
    assert report["read"] == 360 == report["written"] + sum(report["dropped"].values())


def test_two_runs_do_not_mix(whole_tar: Path, tmp_path: Path) -> None:
    seen = []

    def second_run(progress: object) -> None:
        if not seen:
            seen.append(progress)
            with pytest.raises(
                ValueError,
                match=r"another process packs into .*out; wait for its end or change --out",
            ):
                run(whole_tar, tmp_path / "out", split="val")

    pack(whole_tar, tmp_path / "out", PackOptions(), num_workers=1, on_progress=second_run)
    assert seen and split_names(tmp_path / "out") == ("train",)


def test_directory_that_cannot_be_locked_is_refused(
    whole_tar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(
        ValueError,
        match=r"output directory .*out cannot be locked \(No locks available\); choose an --out on a file system",
    ):
        run(whole_tar, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def die(item: int) -> int:
    os._exit(7)


def fail(item: int) -> int:
    raise ZeroDivisionError(item)


def wait_for_the_last(last: Path) -> bytes:
    """Item 0 waits until the others are done; their results are more than a pipe holds."""
    deadline = (
        time.monotonic() + 60
    )  # for the other worker to start; not reached unless it stands still
    while last.name == "0" and not (last.parent / "5").exists():
        if time.monotonic() > deadline:
            raise TimeoutError(*(path.name for path in last.parent.iterdir()))
        time.sleep(0.01)
    last.write_bytes(b"")
    return last.name.encode() + bytes(workers._PIPE_BYTES)


def test_worker_does_not_stand_still_behind_a_slow_one(tmp_path: Path) -> None:
    results = list(workers.ordered_map(wait_for_the_last, [tmp_path / str(k) for k in range(6)], 2))
    assert [result[:1] for result in results] == [b"0", b"1", b"2", b"3", b"4", b"5"]


def refuse_to_load() -> None:
    raise ImportError("not in a worker")


class NotLoadable:
    def __reduce__(self) -> tuple[Any, ...]:
        return refuse_to_load, ()


@pytest.mark.parametrize("num_good", [0, 4])
def test_item_that_cannot_be_loaded_is_an_error(num_good: int) -> None:
    with workers.Pool(2) as pool:
        results = pool.map(process_of, [*range(num_good), NotLoadable()], 2)  # type: ignore[list-item]
        assert [next(results)[0] for _ in range(num_good)] == list(range(num_good))
        with pytest.raises(ImportError, match="not in a worker"):
            next(results)


def process_of(item: int) -> tuple[int, int]:
    return item, os.getpid()


def test_workers_stay_for_the_next_function() -> None:
    with workers.Pool(3) as pool:
        first = list(pool.map(process_of, range(12), 3))
        second = list(pool.map(process_of, range(12), 2))
        assert [item for item, _ in first] == [item for item, _ in second] == list(range(12))
        processes, fewer = {process for _, process in first}, {process for _, process in second}
        assert (len(processes), len(fewer)) == (3, 2)
        assert fewer < processes
        with pytest.raises(ZeroDivisionError, match="0"):
            list(pool.map(fail, range(5), 3))
    with workers.Pool(1) as alone:
        assert list(alone.map(process_of, range(2), 1)) == [(0, os.getpid()), (1, os.getpid())]


def test_dead_worker_is_reported() -> None:
    with pytest.raises(
        ValueError, match=r"a worker process ended with exit code 7; .*use fewer workers"
    ):
        list(workers.ordered_map(die, range(5), 2))
    with pytest.raises(ZeroDivisionError, match="0"):
        list(workers.ordered_map(fail, range(5), 2))


def test_signal_while_workers_start_counts_once_and_later() -> None:
    came: list[int] = []
    reader, writer = os.pipe2(os.O_NONBLOCK)
    handler, wakeup = (
        signal.signal(signal.SIGTERM, lambda number, frame: came.append(number)),
        signal.set_wakeup_fd(writer),
    )
    try:
        with workers._signals_deferred():
            signal.raise_signal(signal.SIGTERM)
            assert came == []
        assert came == [signal.SIGTERM]
        assert os.read(reader, 10) == bytes([signal.SIGTERM])  # as a loop of asyncio is told of it
        assert signal.set_wakeup_fd(writer) == writer
    finally:
        signal.set_wakeup_fd(wakeup)
        signal.signal(signal.SIGTERM, handler)
        os.close(reader)
        os.close(writer)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """What is started hears SIGINT, even where a shell has started the tests in the background and thus switched it off."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(
    ("number", "code", "after_s"),  # while workers start, or while they work
    [
        (signal.SIGINT, 130, 0.0),
        (signal.SIGINT, 130, 0.3),
        (signal.SIGTERM, 143, 0.0),
        (signal.SIGKILL, -9, 0.7),
    ],
)
def test_signals_end_workers_and_clean_up(
    tmp_path: Path, number: int, code: int, after_s: float
) -> None:
    source, out = tmp_path / "slow.tar", tmp_path / "new" / "out"
    slow = encoded(Image.new("RGB", (6000, 6000)), "PNG")  # small, but the decoder is busy for long
    source.write_bytes(tar_of({"n00000001.tar": tar_of({f"{i}.png": slow for i in range(12)})}))
    command = [
        sys.executable,
        "-m",
        "i21k.cli",
        "pack",
        str(source),
        "--out",
        str(out),
        "--workers",
        "2",
    ]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    while not (out / ".packing").exists() and process.poll() is None:
        time.sleep(0.01)
    time.sleep(after_s)
    (process.kill if number == signal.SIGKILL else lambda: os.killpg(process.pid, number))()
    _, errors = process.communicate(
        timeout=30
    )  # returns when the last process that can write to the pipe has ended, workers too
    assert process.returncode == code, errors
    if number != signal.SIGKILL:
        assert "Traceback" not in errors, errors
        assert not out.parent.exists()


# ------------------------------------------------------------------------------------------------------------ the command


def test_command_prints_a_summary(
    whole_tar: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classes = tmp_path / "classes.txt"
    ClassList(CLASS_IDS[:2]).write(classes)
    assert (
        cli.main(
            [
                "pack",
                str(whole_tar),
                "--out",
                str(tmp_path / "out"),
                "--workers",
                "1",
                "--classes",
                str(classes),
            ]
        )
        == 0
    )
    printed = capsys.readouterr().out
    assert "split train: 12 images of 2 classes" in printed
    assert "skipped 6: class not in the list" in printed
    again = [
        "pack",
        str(whole_tar),
        "--out",
        str(tmp_path / "again"),
        "--workers",
        "1",
        "--classes",
        str(tmp_path / "out"),
    ]
    assert cli.main(again) == 0  # the classes of a dataset
    assert "split train: 12 images of 2 classes" in capsys.readouterr().out


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
    assert (
        planning[-1].num_bytes == planning[-1].total_bytes > 0 and planning[-1].num_pictures == 18
    )


def test_command_explains_errors(
    whole_tar: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["pack", str(tmp_path / "none"), "--out", str(tmp_path / "out"), "--json"]) == 2
    assert capsys.readouterr().err.startswith("error: source ")
    assert (
        cli.main(["pack", str(whole_tar), "--out", str(tmp_path / "out"), "--classes", "fall12"])
        == 2
    )
    assert "no class list is named 'fall12'; expected one of fall11" in capsys.readouterr().err


HAS_BEAM = importlib.util.find_spec("apache_beam") is not None


@pytest.mark.skipif(not HAS_BEAM, reason="needs Apache Beam: pip install 'i21k[beam]'")
def test_beam_writes_the_same_bytes(whole_tar: Path, class_folders: Path, tmp_path: Path) -> None:
    code = """if True:
        import sys
        from i21k import cli
        from i21k.data.packing import stages
        if __name__ == "__main__":
            stages.PART_BYTES = 1  # a part for every synset
            sys.exit(cli.main(sys.argv[1:]))
    """
    options = ["--num-shards", "3", "--val-per-class", "2", "--json"]
    gzipped = tmp_path / "whole.tar.gz"
    gzipped.write_bytes(gzip.compress(whole_tar.read_bytes()))
    for source in (whole_tar, class_folders, gzipped):
        for runner, behind in (("local", []), ("beam", ["--", "--runner=DirectRunner"])):
            out = tmp_path / f"{source.name}-{runner}"
            command = [
                sys.executable,
                "-c",
                code,
                "pack",
                str(source),
                "--out",
                str(out),
                "--runner",
                runner,
                *options,
                *behind,
            ]
            subprocess.run(command, check=True, timeout=120, capture_output=True)
        assert content_of(tmp_path / f"{source.name}-beam") == content_of(
            tmp_path / f"{source.name}-local"
        )
    bad = subprocess.run(
        [*command[:4], str(tmp_path / "none"), *command[5:]],
        timeout=60,
        capture_output=True,
        text=True,
    )
    assert bad.returncode == 2 and bad.stderr.startswith("error: source ")


def test_parts_of_a_source_are_read_independently(
    whole_tar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Beam does, without Beam: parts in any order, one of them twice, and a run of the first attempt left behind."""
    run(whole_tar, tmp_path / "expected", **ALL_OPTIONS)
    monkeypatch.setattr(stages, "PART_BYTES", 1)
    monkeypatch.setattr(packing, "_BEAM_RUN_BYTES", 3000)
    applied = []

    def backwards(name: str, function: Callable[[Any], Any], items: Any, beam_options: Any) -> None:
        assert beam_options == ["--some=option"]
        for item in [*items[::-1], items[0]]:
            pickle.loads(pickle.dumps(function))(item)
            applied.append(name)

    monkeypatch.setattr(beam, "run", backwards)
    report = pack(
        whole_tar,
        tmp_path / "out",
        PackOptions(**ALL_OPTIONS),
        num_workers=1,
        beam_options=["--some=option"],
    )
    assert applied.count("read") == 4 and applied.count("write") == 4 + 2
    assert report.num_read == 18 and content_of(tmp_path / "out") == content_of(
        tmp_path / "expected"
    )


@pytest.mark.parametrize("layout", ["tar", "gzipped tar", "folder", "labelled"])
def test_beam_checks_the_room_before_it_begins(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (18, 120, 120, 3), np.uint8)
    files = {
        f"{i}.jpg": encoded(Image.fromarray(pixels), quality=95) for i, pixels in enumerate(noise)
    }
    source, table = tmp_path / "source", tmp_path / "table.tsv"
    table.write_text("".join(f"{name}\ta\n" for name in files))
    options = PackOptions(short_side=60, labels=str(table) if layout == "labelled" else None)
    if "tar" in layout:
        source.write_bytes(tar_of({"a.tar": tar_of(files)}, "w:gz" if "gz" in layout else "w"))
    else:
        (source / "a").mkdir(parents=True)
        for name, content in files.items():
            (source / "a" / name).write_bytes(content)
    needed = []
    monkeypatch.setattr(stages, "BATCH_BYTES", 1)
    monkeypatch.setattr(stages, "_SAMPLES", 8)
    monkeypatch.setattr(beam, "run", lambda *arguments: pytest.fail("begun"))
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6 - 1000, 1000)
    )
    real = commit.check_room
    monkeypatch.setattr(
        commit,
        "check_room",
        lambda work, num_bytes: (needed.append(num_bytes), real(work, num_bytes)),
    )
    with pytest.raises(
        ValueError,
        match=r"has 0.0 GB free; packing takes about 0.0 GB more while it runs, twice the result; make room",
    ):
        pack(source, tmp_path / "new" / "out", options, beam_options=[])
    assert not (tmp_path / "new").exists()
    monkeypatch.undo()
    pack(source, tmp_path / "out", options, num_workers=1)
    stored = sum(len(jpeg) for _, _, jpeg in records_of(tmp_path / "out"))
    assert needed == [pytest.approx(2 * stored, rel=0.15)]  # a tenth of the tar is no picture


def test_beam_errors_are_explained(
    whole_tar: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["pack", str(whole_tar), "--out", str(tmp_path / "out")]
    assert cli.main([*arguments, "--", "--runner=DirectRunner"]) == 2
    assert (
        "--runner=DirectRunner is given after --, which is for --runner beam"
        in capsys.readouterr().err
    )
    if not HAS_BEAM:
        assert cli.main([*arguments, "--runner", "beam"]) == 2
        assert (
            "Apache Beam cannot be imported (No module named 'apache_beam'); install it with: pip install"
            in capsys.readouterr().err
        )
    assert not (tmp_path / "out").exists()
