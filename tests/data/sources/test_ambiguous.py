"""Sources that can be taken for several things: each is refused with advice, or read rightly."""

import io
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from i21k import cli
from i21k.data.format.splits import open_split
from i21k.data.pack.pack import PackOptions, pack
from i21k.errors import UserError
from i21k.labels import ClassList
from tests.data.sources.test_layouts import image, names, write, zip_of
from tests.helpers.packing import run, tar_of

CATS, DOGS = "n02121808", "n02084071"


def files(*paths: str) -> dict[str, bytes]:
    return {path: image(number) for number, path in enumerate(paths)}


def tars(**content: dict[str, bytes]) -> dict[str, bytes]:
    return {f"{name}.tar": tar_of(inside) for name, inside in content.items()}


REFUSED: dict[str, tuple[dict[str, bytes], str]] = {
    "one class": (files("cat/1.jpg", "cat/2.jpg"), r"one class 'cat'. .*--class-level N"),
    "one class of YOLO": (
        files("train/images/1.jpg", "val/images/2.jpg") | {"train/labels/1.txt": b"0"},
        r"one class 'images'",
    ),
    "few synsets": (
        files(f"a/{CATS}/1.jpg", "a/other/2.jpg", "dogs/3.jpg"),
        r"1 folders in folders named by synset ids and 2 others, such as a/other. Give --as synset",
    ),
    "splits beside another dataset": (
        files(f"data/im/train/{CATS}/1.jpg", f"data/im/val/{CATS}/2.jpg", "data/other/3.jpg"),
        r"splits train, val in data/im and also data/other. Give .*source/data/im, or give --as",
    ),
    "splits of names beside": (
        files("photos/train/cat/1.jpg", "photos/val/cat/2.jpg", "misc/3.jpg"),
        r"splits train, val in photos and also misc",
    ),
    "splits in classes": (
        files("cat/train/1.jpg", "cat/val/2.jpg", "dog/train/3.jpg", "dog/val/4.jpg"),
        r"splits in several folders, such as cat and dog. Move them to the top \(train/cat\)",
    ),
    "flat": (files("1.jpg", "2.jpg"), r"without class folders, such as 1.jpg. Give --labels FILE"),
    "flat val of ILSVRC": (files("ILSVRC2012_val_00000001.JPEG"), r"Give --labels ilsvrc2012-val"),
    "test of ILSVRC": (files("ILSVRC2012_test_00000001.JPEG"), r"labels are not published"),
    "download of image-net.org": (
        tars(
            ILSVRC2012_img_train={f"{CATS}.tar": tar_of(files("1.JPEG"))},
            ILSVRC2012_img_val=files("ILSVRC2012_val_00000001.JPEG"),
        ),
        r"ILSVRC2012_img_train.tar, which holds tars. Pack each archive by itself",
    ),
    "tars of splits": (
        tars(train=files("train/cat/1.jpg"), val=files("val/cat/2.jpg")),
        r"holds train.tar, which is named as a split. .* --split train",
    ),
    "parts of a dataset": (
        tars(a=files("p/cat/1.jpg", "p/dog/2.jpg"), b=files("p/cat/3.jpg", "p/dog/4.jpg")),
        r"holds a.tar, which holds the folders cat, dog. Pack each archive by itself",
    ),
    "missing shard": (
        tars(**{f"x-{n:04d}": files(f"{CATS}_{n}.jpg", f"{DOGS}_{n}.jpg") for n in (0, 1, 3)}),
        r"3 of 4 numbered files, and x-0002.tar is not there",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_ambiguous_folders_are_refused(name: str, tmp_path: Path) -> None:
    content, message = REFUSED[name]
    with pytest.raises(UserError, match=message):
        run(write(tmp_path / "source", content), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("begin", [b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf\x27\x1c", b"Rar!"])
def test_archives_that_are_not_read_are_named(begin: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(begin + bytes(1000))
    with pytest.raises(UserError, match=r"which is not read. Unpack it with `"):
        run(tmp_path / "x", tmp_path / "out")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("file:///a/b", r"expected a path. Give /a/b"),
        ("pipe:curl x", r"is a command; expected files"),
        ("timm/imagenet-22k-wds", r"hf download --repo-type dataset timm/imagenet-22k-wds"),
    ],
)
def test_what_is_no_path_is_named(address: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        pack(address, tmp_path / "out", PackOptions())


KAGGLE = files(
    f"ILSVRC/Data/CLS-LOC/train/{CATS}/1.JPEG",
    f"ILSVRC/Data/CLS-LOC/train/{DOGS}/1.JPEG",
    "ILSVRC/Data/CLS-LOC/val/ILSVRC2012_val_00000001.JPEG",
    "ILSVRC/Data/CLS-LOC/test/ILSVRC2012_test_00000001.JPEG",
) | {
    "LOC_val_solution.csv": b"ImageId,PredictionString\nILSVRC2012_val_00000001,n02084071 1 2\n",
    f"ILSVRC/Annotations/CLS-LOC/train/{CATS}/1.xml": b"<x/>",
    "ILSVRC/Annotations/CLS-LOC/val/ILSVRC2012_val_00000001.xml": b"<x/>",
}


def test_kaggle_as_it_is_downloaded(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(zip_of(KAGGLE))
    wrapped = write(tmp_path / "b", {f"challenge/{name}": data for name, data in KAGGLE.items()})
    for number, source in enumerate((tmp_path / "a.zip", wrapped)):
        out = tmp_path / f"out{number}"
        report = run(source, out)
        assert names(out) == {f"{CATS}/1.JPEG", f"{DOGS}/1.JPEG"}
        assert names(out, "val") == {f"{DOGS}/ILSVRC2012_val_00000001.JPEG"}
        assert report.num_skipped == 0
    # The tar has the table behind the images, so the published labels count: the first is a snake.
    (tmp_path / "c.tar").write_bytes(tar_of(KAGGLE))
    run(tmp_path / "c.tar", tmp_path / "out")
    assert names(tmp_path / "out", "val") == {"n01751748/ILSVRC2012_val_00000001.JPEG"}


def test_validation_images_in_class_folders_stay_validation_images(tmp_path: Path) -> None:
    content = files(*(f"ILSVRC/Data/CLS-LOC/{s}/{CATS}/{s}.JPEG" for s in ("train", "val")))
    source = write(tmp_path / "s", content | {"ILSVRC/ImageSets/x.txt": b"", "ILSVRC/a.jpg": b""})
    run(source, tmp_path / "out")
    assert names(tmp_path / "out") == {f"{CATS}/train.JPEG"}
    assert names(tmp_path / "out", "val") == {f"{CATS}/val.JPEG"}


READ: dict[str, tuple[dict[str, bytes], dict[str, Any], dict[str, set[str]]]] = {
    "synsets and other classes": (
        files(f"{CATS}/1.jpg", f"{DOGS}/2.jpg", "cat/3.jpg"),
        {},
        {"train": {f"{CATS}/1.jpg", f"{DOGS}/2.jpg", "cat/3.jpg"}},
    ),
    "folder of tables": (
        files("cat/1.jpg", "dog/2.jpg") | {"notes/a.xml": b"", "notes/b.txt": b"x"},
        {},
        {"train": {"cat/1.jpg", "dog/2.jpg"}},
    ),
    "folder of tables in splits": (
        files("train/cat/1.jpg", "train/dog/2.jpg", "val/cat/3.jpg") | {"val/notes/a.xml": b"x"},
        {},
        {"train": {"cat/1.jpg", "dog/2.jpg"}, "val": {"cat/3.jpg"}},
    ),
    "level inside of splits": (
        files("train/a/cat/1.jpg", "train/b/dog/2.jpg", "val/a/cat/3.jpg"),
        {"class_level": 2},
        {"train": {"cat/1.jpg", "dog/2.jpg"}, "val": {"cat/3.jpg"}},
    ),
    "synset tars in a folder": (
        {f"fall11/{c}.tar": tar_of(files("1.jpg")) for c in (CATS, DOGS)},
        {},
        {"train": {f"{CATS}/1.jpg", f"{DOGS}/1.jpg"}},
    ),
    "synset tars in splits": (
        {f"{s}/{CATS}.tar": tar_of(files(f"{s}.jpg")) for s in ("train", "val")},
        {},
        {"train": {f"{CATS}/train.jpg"}, "val": {f"{CATS}/val.jpg"}},
    ),
    "one class that is meant": (
        files("cat/1.jpg"),
        {"layout": "class-folders"},
        {"train": {"cat/1.jpg"}},
    ),
    "split with a name": (
        files("val/cat/1.jpg", "val/dog/2.jpg"),
        {"split": "heldout"},
        {"heldout": {"cat/1.jpg", "dog/2.jpg"}},
    ),
}


@pytest.mark.parametrize("name", READ)
def test_what_is_clear_is_read(name: str, tmp_path: Path) -> None:
    content, options, expected = READ[name]
    run(write(tmp_path / "source", content), tmp_path / "out", **options)
    assert {split: names(tmp_path / "out", split) for split in expected} == expected


def test_classes_that_only_the_validation_images_have(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = files("train/cat/1.jpg", "train/dog/2.jpg", "val/cat/3.jpg", "val/emu/4.jpg")
    (tmp_path / "s.tar.gz").write_bytes(tar_of(content, "w:gz"))
    sources = (write(tmp_path / "s", content), tmp_path / "s.tar.gz")
    for number, source in enumerate(sources):
        out = tmp_path / f"out{number}"
        assert cli.main(["pack", str(source), "--out", str(out), "--workers", "1"]) == 0
        assert "split val has 1 class that train has not, such as emu" in capsys.readouterr().err
        assert open_split(out, "train").classes.ids == ("cat", "dog", "emu")
    with pytest.raises(UserError, match=r"splits train, val, and --split x is given. Drop --split"):
        run(sources[0], tmp_path / "x", split="x")


def test_links_that_leave_the_source(tmp_path: Path) -> None:
    outside = write(tmp_path / "outside", files("1.jpg"))
    source = write(tmp_path / "s", files("cat/1.jpg", "dog/2.jpg"))
    (source / "emu").symlink_to(outside)
    (source / "bird").symlink_to("cat")
    report = run(source, tmp_path / "out")
    assert names(tmp_path / "out") == {"cat/1.jpg", "dog/2.jpg", "bird/1.jpg"}
    assert report.skipped == {"symbolic link out of the source": 1}


def test_hard_links_in_a_webdataset(tmp_path: Path) -> None:
    write(tmp_path, files("n02121808_1.jpg", "n02084071_1.jpg") | {"n02121808_1.cls": b"0"})
    for end in ("jpg", "cls"):
        os.link(tmp_path / f"{CATS}_1.{end}", tmp_path / f"{CATS}_2.{end}")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in (f"{CATS}_1.jpg", f"{CATS}_1.cls", f"{CATS}_2.jpg", f"{CATS}_2.cls"):
            tar.add(tmp_path / name, name)
    source = write(tmp_path / "s", {"a-000.tar": buffer.getvalue()})
    run(source, tmp_path / "out")
    assert names(tmp_path / "out") == {f"{CATS}/{CATS}_{n}.jpg" for n in (1, 2)}


def test_webdataset_takes_labels_from_a_table(tmp_path: Path) -> None:
    samples = {
        f"{n}.{end}": image(n) if end == "jpg" else b"a text"
        for n in (1, 2)
        for end in ("jpg", "txt")
    }
    source = write(tmp_path / "s", {"00000.tar": tar_of(samples)})
    (tmp_path / "l.tsv").write_text("1.jpg\tcat\n2.jpg\tdog\n")
    report = run(source, tmp_path / "out", labels=str(tmp_path / "l.tsv"))
    assert names(tmp_path / "out") == {"cat/1.jpg", "dog/2.jpg"}
    assert report.num_skipped == 0


TABLES = {
    "semicolons": "path;label\na/1.jpg;cat\na/2.jpg;dog\n",
    "list of Caffe": "a/1.jpg n02121808\na/2.jpg n02084071\n",
    "unknown header": "picture,thing\na/1.jpg,cat\na/2.jpg,dog\n",
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_the_field(name: str, tmp_path: Path) -> None:
    source = write(tmp_path / "s", files("a/1.jpg", "a/2.jpg"))
    (source / "t.txt").write_text(TABLES[name])
    run(source / "t.txt", tmp_path / "out")
    synset = name == "list of Caffe"
    found = {f"{CATS if synset else 'cat'}/a/1.jpg", f"{DOGS if synset else 'dog'}/a/2.jpg"}
    assert names(tmp_path / "out") == found


def test_table_with_a_column_of_splits(tmp_path: Path) -> None:
    source = write(tmp_path / "s", files("a/1.jpg", "a/2.jpg", "b/3.jpg"))
    lines = [
        "file_name,label,split",
        "a/1.jpg,cat,train",
        "a/2.jpg,dog,train",
        "b/3.jpg,cat,validation",
    ]
    (source / "t.csv").write_text("\n".join(lines))
    run(source / "t.csv", tmp_path / "out")
    assert names(tmp_path / "out") == {"cat/a/1.jpg", "dog/a/2.jpg"}
    assert names(tmp_path / "out", "val") == {"cat/b/3.jpg"}
    with pytest.raises(UserError, match=r"a column with the splits train, val. Give the table as"):
        run(source, tmp_path / "x", labels=str(source / "t.csv"))


def test_absolute_paths_do_not_enter_the_names(tmp_path: Path) -> None:
    source = write(tmp_path / "s", files("a/1.jpg", "b/2.jpg"))
    (tmp_path / "t.csv").write_text(f"{source}/a/1.jpg,cat\n{source}/b/2.jpg,dog\n")
    run(tmp_path / "t.csv", tmp_path / "out", ClassList(("cat", "dog")))
    assert names(tmp_path / "out") == {"cat/s/a/1.jpg", "dog/s/b/2.jpg"}
