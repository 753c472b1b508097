"""Packing: every picture accounted for, the same bytes for any number of workers, nothing half-written left, every refusal explained."""

import dataclasses
import io
import json
import os
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

from i21k import cli
from i21k.data import shards
from i21k.data.pack import PackOptions, PackReport, pack
from i21k.data.packing import recode, workers
from i21k.data.packing.spill import Spill, place
from i21k.labels import ClassList

CLASS_IDS = ("n00000001", "n00000002", "n00000003")
NUM_PER_CLASS = 6


def photo(width: int = 48, height: int = 32, seed: int = 0) -> Image.Image:
    """A smooth picture, dark at the left and light at the right, so that JPEG and rotation leave a trace to test."""
    rows, columns = np.mgrid[:height, :width]
    colour = np.random.default_rng(seed).uniform(0.6, 1.0, 3)
    return Image.fromarray((columns[..., None] / width * 240 * colour + rows[..., None] / height * 15).astype(np.uint8))


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
    return {f"{class_id}_{i}.JPEG": encoded(photo(seed=seed + i), quality=95) for i in range(NUM_PER_CLASS)}


@pytest.fixture
def whole_tar(tmp_path: Path) -> Path:
    """A tar of synset tars."""
    path = tmp_path / "whole.tar"
    path.write_bytes(tar_of({f"{class_id}.tar": tar_of(pictures_of(class_id)) for class_id in CLASS_IDS}))
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
    for path, count in zip(shards.open_split(directory, split).shard_paths, shards.open_split(directory, split).shard_counts, strict=True):
        reader = ArrayRecordReader(str(path))
        assert reader.num_records() == count
        found += [
            (shards.file_name_of(record), shards.decode_example(record)[1], shards.decode_example(record)[0])
            for record in reader.read_all()
        ]
    return found


def content_of(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


# ------------------------------------------------------------------------------------------------------------------ the run


def test_every_picture_is_written_once(whole_tar: Path, tmp_path: Path) -> None:
    report = run(whole_tar, tmp_path / "out", num_shards=4)
    expected = sorted((f"{c}/{name}", label) for label, c in enumerate(CLASS_IDS) for name in pictures_of(c))
    found = records_of(tmp_path / "out")
    assert sorted((name, label) for name, label, _ in found) == expected
    assert [name for name, _, _ in found] == sorted((name for name, _ in expected), key=lambda name: place(name, seed=0))
    assert (report.num_read, report.num_written, report.num_left_out, report.num_classes) == (18, 18, 0, 3)
    assert report.splits["train"].num_pictures == 18 and report.splits["train"].num_shards == 4
    assert shards.open_split(tmp_path / "out", "train").classes.ids == CLASS_IDS


def test_same_bytes_for_any_source_layout_and_number_of_workers(whole_tar: Path, class_folders: Path, tmp_path: Path) -> None:
    def shard_hashes(source: Path, num_workers: int) -> list[shards.Shard]:
        out = tmp_path / f"{source.stem}-{num_workers}"
        pack(source, out, PackOptions(num_shards=2, short_side=16), num_workers=num_workers)
        return [dataclasses.replace(shard, file="") for shard in shards.read_manifest(out).splits["train"].shards]  # type: ignore[union-attr]

    folder_of_tars = tmp_path / "tars"
    folder_of_tars.mkdir()
    for class_id in CLASS_IDS:
        (folder_of_tars / f"{class_id}.tar.gz").write_bytes(tar_of(pictures_of(class_id), "w:gz"))
    gzipped = tmp_path / "gzipped.tar.gz"
    gzipped.write_bytes(tar_of({f"winter/{c}.tar": tar_of(pictures_of(c)) for c in CLASS_IDS}, "w:gz"))
    expected = shard_hashes(whole_tar, 1)
    assert expected == shard_hashes(whole_tar, 2)
    for source in (class_folders, folder_of_tars, gzipped):
        assert expected == shard_hashes(source, 1)


def test_seed_decides_the_order(whole_tar: Path, tmp_path: Path) -> None:
    run(whole_tar, tmp_path / "a", seed=1)
    run(whole_tar, tmp_path / "b", seed=2)
    a, b = ([name for name, _, _ in records_of(tmp_path / d)] for d in "ab")
    assert sorted(a) == sorted(b) and a != b
    assert [name.partition("/")[0] for name in a] != sorted(name.partition("/")[0] for name in a)  # classes are mixed


def test_spill_cuts_any_number_of_shards(tmp_path: Path) -> None:
    spill = Spill(tmp_path, num_buckets=3, seed=5)
    names = [f"c/{i}" for i in range(200)]
    for i, name in enumerate(names):
        spill.add(i, name, name.encode())
    spill.flush()
    expected = sorted(names, key=lambda name: place(name, 5))
    for num_shards in (1, 2, 3, 5, 7, 64):
        got = [[record.file_name for record in spill.shard(k, num_shards)] for k in range(num_shards)]
        assert [name for shard in got for name in shard] == expected
        assert max(map(len, got)) < 200 / num_shards + 6 * (200 / num_shards) ** 0.5


def test_split_is_added_and_reads_by_tfds_without_tensorflow(whole_tar: Path, class_folders: Path, tmp_path: Path) -> None:
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
    done = subprocess.run([sys.executable, "-c", code, *arguments], check=True, timeout=60, capture_output=True, text=True)
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
    assert sorted(name for name, _, _ in records_of(tmp_path / "out", "val")) == ["large/5.jpg", "large/6.jpg"]
    assert len(records_of(tmp_path / "out")) == 5
    assert {split: made.num_pictures for split, made in report.splits.items()} == {"train": 5, "val": 2}
    assert (report.num_read, report.num_written, report.left_out) == (8, 7, {"not a picture": 1})
    with pytest.raises(ValueError, match=r"val_per_class is 7, but the largest class of the source has 5 pictures"):
        run(source, tmp_path / "other", val_per_class=7)


def test_given_class_list_decides_labels_and_what_is_left_out(whole_tar: Path, tmp_path: Path) -> None:
    classes = ClassList(("n00000003", "n99999999", "n00000001"))
    report = run(whole_tar, tmp_path / "out", classes)
    assert {(name.partition("/")[0], label) for name, label, _ in records_of(tmp_path / "out")} == {("n00000003", 0), ("n00000001", 2)}
    assert (report.num_classes, report.left_out) == (3, {"class not in the list": NUM_PER_CLASS})


# --------------------------------------------------------------------------------------------------------- what is left out


def test_pictures_without_classes_take_them_from_a_table(tmp_path: Path) -> None:
    files = {f"ILSVRC2012_val_{n:08d}.JPEG": encoded(photo(seed=n)) for n in (1, 2, 3)} | {"ILSVRC2012_val_00060000.JPEG": encoded(photo())}
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
    (tmp_path / "labels.tsv").write_text("".join(f"ILSVRC2012_val_{n:08d}.JPEG\t{class_id}\n" for n, class_id in expected.items()))
    run(tmp_path / "flat", tmp_path / "b", split="val", labels=str(tmp_path / "labels.tsv"))
    assert records_of(tmp_path / "b", "val") == records_of(tmp_path / "a", "val")

    (tmp_path / "labels.tsv").write_text("a.JPEG n01751748\n")
    with pytest.raises(ValueError, match=r"line 1 of .*labels.tsv is 'a.JPEG n01751748'; expected FILE<TAB>CLASS"):
        run(tmp_path / "flat", tmp_path / "c", labels=str(tmp_path / "labels.tsv"))
    with pytest.raises(ValueError, match=r"table of labels gone cannot be read .* expected ilsvrc2012-val or a file"):
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
        for name, kind in (("link.JPEG", tarfile.SYMTYPE), ("device.JPEG", tarfile.CHRTYPE), ("folder", tarfile.DIRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    one = tar_of({"one.JPEG": good}).rstrip(b"\0")
    one += bytes(-len(one) % 512)
    inner_tars = [inner.getvalue(), inner.getvalue()[:1000], b"?" * 600, one, one + b"?" * 1024]
    whole = tar_of({f"n0000000{i}.tar": content for i, content in enumerate(inner_tars, 1)} | {"notes.txt": b"hi"})
    (tmp_path / "whole.tar").write_bytes(whole)
    report = run(tmp_path / "whole.tar", tmp_path / "out")
    names = sorted(name for name, _, _ in records_of(tmp_path / "out"))
    assert names == ["n00000001/good.JPEG", "n00000004/one.JPEG", "n00000005/one.JPEG"]
    rows = [line.split("\t") for line in (tmp_path / "out" / "left_out-train.tsv").read_text().splitlines()]
    assert rows[0] == ["source", "member", "reason"] and all(len(row) == 3 for row in rows)
    reasons = {(source, member): reason for source, member, reason in rows[1:]}
    kinds = {member: reason.partition(":")[0] for (source, member), reason in reasons.items() if source == "n00000001.tar"}
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


def test_folder_members_that_are_no_files_are_left_out(class_folders: Path, tmp_path: Path) -> None:
    os.mkfifo(class_folders / CLASS_IDS[0] / "pipe.JPEG")
    (class_folders / CLASS_IDS[0] / "broken.JPEG").symlink_to("nowhere")
    (class_folders / CLASS_IDS[0] / "deeper").mkdir()
    (class_folders / CLASS_IDS[0] / "deeper" / "linked.JPEG").symlink_to(class_folders / CLASS_IDS[1] / f"{CLASS_IDS[1]}_0.JPEG")
    (class_folders / "stray.JPEG").write_bytes(encoded(photo()))
    (class_folders / ".hidden").mkdir()
    report = run(class_folders, tmp_path / "out")
    assert report.left_out == {"not a regular file": 1, "not in a class folder or synset tar": 1, "unreadable file": 1}
    assert "n00000001/deeper/linked.JPEG" in {name for name, _, _ in records_of(tmp_path / "out")}
    assert report.num_classes == 3


# ------------------------------------------------------------------------------------------------------------- one picture


def recoded(data: bytes, short_side_px: int = 32, quality: int = 95) -> np.ndarray:
    jpeg = recode.recode(data, short_side_px, quality)
    header = Image.open(io.BytesIO(jpeg))
    assert (header.format, header.mode) == ("JPEG", "RGB") and not header.getexif() and "icc_profile" not in header.info
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


def test_large_picture_is_reduced_to_the_short_side() -> None:
    for width, height, expected in ((100, 50, (64, 32)), (50, 101, (32, 65)), (400, 300, (43, 32)), (2000, 33, (1939, 32))):
        pixels = recoded(encoded(photo(width, height)))
        assert pixels.shape[1::-1] == expected
        reference = np.asarray(photo(width, height).resize(expected, Image.Resampling.BICUBIC)).astype(int)
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
        expected = expected.resize((24, 16) if expected.width > expected.height else (16, 24), Image.Resampling.BICUBIC)
    pixels = simplejpeg.decode_jpeg(recode.recode(data, short_side_px, 95)).astype(int)
    assert pixels.shape == np.asarray(expected).shape
    assert np.abs(pixels - np.asarray(expected)).mean() < 4


def test_colour_profile_is_converted() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = bytearray(srgb.replace(b"sRGB", b"GRBs").replace("sRGB".encode("utf-16-be"), "GRBs".encode("utf-16-be")))
    red, green = swapped.index(b"rXYZ"), swapped.index(b"gXYZ")
    swapped[red + 4 : red + 12], swapped[green + 4 : green + 12] = swapped[green + 4 : green + 12], swapped[red + 4 : red + 12]
    picture = Image.new("RGB", (48, 32), (200, 30, 30))
    kept = encoded(picture, icc_profile=srgb)
    assert recode.recode(kept, 32, 95) == kept
    converted = recoded(encoded(picture, quality=95, icc_profile=bytes(swapped)))
    assert converted[..., 1].mean() > 180 and converted[..., 0].mean() < 60  # the profile calls red what is green
    assert recoded(encoded(picture, quality=95, progressive=True, icc_profile=b"no profile"))[..., 0].mean() > 190


# -------------------------------------------------------------------------------------------------------------- refusals


def test_complete_split_is_left_alone(whole_tar: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = run(whole_tar, tmp_path / "out")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    again = run(whole_tar, tmp_path / "out")
    assert again == dataclasses.replace(first, already_complete=True, seconds=again.seconds)
    assert cli.main(["pack", str(whole_tar), "--out", str(tmp_path / "out")]) == 0
    assert "is complete with these options; nothing to do" in capsys.readouterr().out
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"short_side": 16}, r"has a split 'train' already, packed with short_side 256; got 16; use the same, choose another --split"),
        ({"quality": 80}, r"packed with quality 90; got 80"),
        ({"seed": 1}, r"packed with seed 0; got 1"),
        ({"num_shards": 3}, r"packed with num_shards 1; got 3"),
        ({"val_per_class": 1}, r"packed with val_per_class 0; got 1"),
        ({"name": "other"}, r"holds the dataset 'imagenet21k'; expected 'other'; change --name or --out"),
        ({"classes": ClassList(CLASS_IDS[:2])}, r"has another class list than the one given \(3 against 2 classes"),
    ],
)
def test_other_options_for_a_split_that_is_there(whole_tar: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
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
        (lambda s: s.write_bytes(tar_of({})), {}, r"holds no pictures that can be packed \(it has no files\)"),
        (
            lambda s: s.write_bytes(tar_of({"a.jpg": encoded(photo())})),
            {},
            r"holds no pictures that can be packed \(1 not in a synset tar\)",
        ),
        (lambda s: s.write_bytes(tar_of({"a.tar": tar_of({"b.txt": b"b"})})), {}, r"no pictures that can be packed \(1 not a picture\)"),
        (lambda s: s.write_bytes(tar_of({"a.tar": tar_of({"b.txt": b"b" * 9999})})[:4096]), {}, r"is no tar or not a whole one"),
        (lambda s: s.write_bytes(tar_of({"a.tar": os.urandom(9999)}, "w:gz")[:4096]), {}, r"ends early or is damaged"),
        (lambda s: s.write_bytes(tar_of({"a .tar": tar_of({"b": b"b"})})), {}, r"has a class 'a '; expected a printable name"),
    ],
)
def test_sources_that_do_not_do(tmp_path: Path, make_source: Callable[[Path], None], options: dict[str, Any], message: str) -> None:
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
        ({"val_per_class": 1, "split": "val"}, r"val_per_class fills the split 'val', and split is 'val' too"),
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
    with pytest.raises(ValueError, match=r"foreign holds thesis.txt, which `i21k pack` did not put there; expected an empty directory"):
        run(whole_tar, tmp_path / "foreign")
    assert content_of(tmp_path / "foreign") == {"thesis.txt": b"mine"}
    with pytest.raises(ValueError, match=r"whole.tar is a file; expected a directory; change --out"):
        run(class_folders, whole_tar)
    with pytest.raises(ValueError, match=r"lies in the source .* expected one elsewhere"):
        run(class_folders, class_folders / "out")
    with pytest.raises(ValueError, match=r"packing into .* failed: .*Not a directory.*; nothing of it is left behind"):
        run(class_folders, whole_tar / "below")


def test_unknown_classes(whole_tar: Path, class_folders: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"has class 'n00000001', one of 3 that are not among the 1 classes of the given list; expected some"
    ):
        run(whole_tar, tmp_path / "out", ClassList(("n99999999",)))
    run(class_folders, tmp_path / "out")
    (class_folders / "n00000004").mkdir()
    with pytest.raises(ValueError, match=r"has class 'n00000004', one of 1 that are not among the 3 classes of the dataset"):
        run(class_folders, tmp_path / "out", split="val")
    gzipped = tmp_path / "more.tar.gz"
    gzipped.write_bytes(tar_of({"n00000004.tar": tar_of(pictures_of("n00000001"))}, "w:gz"))
    with pytest.raises(ValueError, match=r"has class 'n00000004'"):
        run(gzipped, tmp_path / "out", split="val")
    assert shards.splits(tmp_path / "out") == ("train",)


# ----------------------------------------------------------------------------------------------- failures and interruptions


def test_failure_leaves_nothing(whole_tar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, records: Iterator[bytes]) -> shards.Shard:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shards, "write_shard", full)
    with pytest.raises(ValueError, match=r"failed: \[Errno 28\] No space left on device; nothing of it is left behind"):
        run(whole_tar, tmp_path / "new" / "out")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("first_split", [True, False])
def test_failure_at_the_very_end_is_undone(whole_tar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first_split: bool) -> None:
    out = tmp_path / "out"
    if not first_split:
        run(whole_tar, out)
    before = content_of(out) if out.exists() else {}

    def interrupted(self: shards.Manifest, directory: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shards.Manifest, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(whole_tar, out, split="other")
    assert (content_of(out) if out.exists() else {}) == before


def test_run_after_a_killed_one(whole_tar: Path, tmp_path: Path) -> None:
    run(whole_tar, tmp_path / "expected")
    out = tmp_path / "out"
    (out / ".packing").mkdir(parents=True)
    (out / ".packing" / "bucket-00000").write_bytes(b"half a rec")
    (out / "imagenet21k-train.array_record-00007-of-00009").write_bytes(b"moved, but never counted")
    run(whole_tar, out)
    assert content_of(out) == content_of(tmp_path / "expected")


def test_two_runs_do_not_mix(whole_tar: Path, tmp_path: Path) -> None:
    seen = []

    def second_run(progress: object) -> None:
        if not seen:
            seen.append(progress)
            with pytest.raises(ValueError, match=r"another process packs into .*out; wait for its end or change --out"):
                run(whole_tar, tmp_path / "out", split="val")

    pack(whole_tar, tmp_path / "out", PackOptions(), num_workers=1, on_progress=second_run)
    assert seen and shards.splits(tmp_path / "out") == ("train",)


def die(item: int) -> int:
    os._exit(7)


def fail(item: int) -> int:
    raise ZeroDivisionError(item)


def test_dead_worker_is_reported() -> None:
    with pytest.raises(ValueError, match=r"a worker process ended with exit code 7; .*use fewer workers"):
        list(workers.ordered_map(die, range(5), 2))
    with pytest.raises(ZeroDivisionError, match="0"):
        list(workers.ordered_map(fail, range(5), 2))


@pytest.mark.parametrize(
    ("number", "code", "after_s"),  # while workers start, or while they work
    [(signal.SIGINT, 130, 0.0), (signal.SIGINT, 130, 0.3), (signal.SIGTERM, 143, 0.0), (signal.SIGKILL, -9, 0.7)],
)
def test_signals_end_workers_and_clean_up(tmp_path: Path, number: int, code: int, after_s: float) -> None:
    source, out = tmp_path / "slow.tar", tmp_path / "new" / "out"
    slow = encoded(Image.new("RGB", (6000, 6000)), "PNG")  # small, but the decoder is busy for long
    source.write_bytes(tar_of({"n00000001.tar": tar_of({f"{i}.png": slow for i in range(12)})}))
    command = [sys.executable, "-m", "i21k.cli", "pack", str(source), "--out", str(out), "--workers", "2"]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    while not (out / ".packing").exists() and process.poll() is None:
        time.sleep(0.01)
    time.sleep(after_s)
    (process.kill if number == signal.SIGKILL else lambda: os.killpg(process.pid, number))()
    _, errors = process.communicate(timeout=30)  # returns when the last process that can write to the pipe has ended, workers too
    assert process.returncode == code, errors
    if number != signal.SIGKILL:
        assert "Traceback" not in errors, errors
        assert not out.parent.exists()


# ------------------------------------------------------------------------------------------------------------ the command


def test_command_prints_a_summary(whole_tar: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    classes = tmp_path / "classes.txt"
    ClassList(CLASS_IDS[:2]).write(classes)
    assert cli.main(["pack", str(whole_tar), "--out", str(tmp_path / "out"), "--workers", "1", "--classes", str(classes)]) == 0
    printed = capsys.readouterr().out
    assert "split train: 12 pictures of 2 classes" in printed
    assert "left out 6: class not in the list" in printed


def test_command_explains_errors(whole_tar: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["pack", str(tmp_path / "none"), "--out", str(tmp_path / "out"), "--json"]) == 2
    assert capsys.readouterr().err.startswith("error: source ")
    assert cli.main(["pack", str(whole_tar), "--out", str(tmp_path / "out"), "--classes", "fall12"]) == 2
    assert "no class list is named 'fall12'; expected one of fall11" in capsys.readouterr().err


def test_help_is_fast() -> None:
    code = "import sys, i21k.cli; heavy = {'numpy', 'jax', 'tensorflow_datasets'} & set(sys.modules); sys.exit(str(heavy) if heavy else 0)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=20)
