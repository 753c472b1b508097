"""Layouts that people have and that are easily taken for others."""

import json
import struct
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from i21k import cli
from i21k.data.format.splits import open_split
from i21k.data.pack.pack import PackOptions, pack
from i21k.errors import UserError
from i21k.labels import ClassList
from tests.data.sources.test_ambiguous import CATS, DOGS, files
from tests.data.sources.test_layouts import image, write, zip_of
from tests.helpers.packing import records_of, tar_of

Files = dict[str, bytes]


def read(tmp_path: Path, found: Files, classes: ClassList | None = None, **options: Any) -> Any:
    """Pack a folder of files; return the class of each split's images, by their original file."""
    source = write(tmp_path / "source", found)
    pack(source, tmp_path / "out", PackOptions(**options), classes, num_workers=1)
    splits = [p.stem.partition("-")[2] for p in (tmp_path / "out").glob("skipped-*.tsv")]
    return {
        split: sorted(name for name, _, _ in records_of(tmp_path / "out", split))
        for split in splits
    }


def samples(*names: str, **labels: list[bytes]) -> Files:
    found: Files = {}
    for number, name in enumerate(names):
        found |= {f"{name}.jpg": image(number)}
        found |= {f"{name}.{ending}": values[number] for ending, values in labels.items()}
    return found


SPLITS = [
    ("training", "validation"),
    ("Train", "Valid"),
    ("training_set", "test_set"),
    ("train2017", "val2017"),
    ("trainset", "testset"),
    ("images_train", "images-val"),
    ("TRAIN", "dev"),
    ("train", "eval"),
]


@pytest.mark.parametrize(("train", "other"), SPLITS)
def test_folders_of_splits_have_many_names(tmp_path: Path, train: str, other: str) -> None:
    found = files(f"{train}/cat/1.jpg", f"{train}/dog/2.jpg", f"{other}/cat/3.jpg")
    of_other = "test" if "test" in other else "val"
    assert read(tmp_path, found) == {"train": ["cat/1.jpg", "dog/2.jpg"], of_other: ["cat/3.jpg"]}


def test_class_that_is_named_as_a_split(tmp_path: Path) -> None:
    found = files("train/train/1.jpg", "train/car/2.jpg", "val/train/3.jpg")
    expected = {"train": ["car/2.jpg", "train/1.jpg"], "val": ["train/3.jpg"]}
    assert read(tmp_path, found) == expected


@pytest.mark.parametrize("kind", ["folder", "tar", "zip", "one folder around"])
def test_hidden_folders_and_thumbnails_are_no_images(tmp_path: Path, kind: str) -> None:
    inside = ("cat/.thumbnails/1.jpg", "dog/@eaDir/2.jpg/SYNO.jpg", ".trash/9.jpg", "cat/.8.jpg")
    found = files("cat/1.jpg", "dog/2.jpg", *inside)
    if kind == "one folder around":
        found = {f"pets/{name}": data for name, data in found.items()}
    packed = {"tar": {"a.tar": tar_of(found)}, "zip": {"a.zip": zip_of(found)}}.get(kind, found)
    source = write(tmp_path / "source", packed)
    source = source / f"a.{kind}" if kind in ("tar", "zip") else source
    level = 2 if kind == "one folder around" else None
    report = pack(source, tmp_path / "out", PackOptions(class_level=level), num_workers=1)
    assert [name for name, _, _ in sorted(records_of(tmp_path / "out"))] == [
        "cat/1.jpg",
        "dog/2.jpg",
    ]
    assert report.skipped == {"ignored system file": 4} and report.num_classes == 2


def test_few_tars_beside_class_folders_are_no_classes(tmp_path: Path) -> None:
    found = files("cat/1.jpg", "dog/2.jpg") | {"more/backup.tar": tar_of(files("x.jpg"))}
    source = write(tmp_path, {"a.tar": tar_of(found)})
    pack(source / "a.tar", tmp_path / "out", PackOptions(), num_workers=1)
    assert open_split(tmp_path / "out", "train").classes.ids == ("cat", "dog")


def test_loop_of_links_is_skipped(tmp_path: Path) -> None:
    source = write(tmp_path / "source", files("cat/1.jpg", "dog/2.jpg"))
    (source / "cat" / "loop.jpg").symlink_to("loop.jpg")
    report = pack(source, tmp_path / "out", PackOptions(), num_workers=1)
    assert report.num_written == 2 and report.num_skipped == 1


def table(column: pyarrow.Array, images: Any = None) -> Files:
    images = [{"bytes": image(n), "path": None} for n in range(2)] if images is None else images
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.table({"image": images, "label": column}), sink)
    return {"a.parquet": sink.getvalue().to_pybytes()}


def test_parquet_with_dictionary_of_texts(tmp_path: Path) -> None:
    texts = pyarrow.array(["cat", "dog"]).dictionary_encode()
    assert list(read(tmp_path, table(texts)).values()) == [
        ["cat/a_00000_000000.jpg", "dog/a_00000_000001.jpg"]
    ]


def test_fraction_is_no_label(tmp_path: Path) -> None:
    found = read(tmp_path, table(pyarrow.array([0.0, 1.7])), ClassList(("cat", "dog")))
    assert found == {"train": ["cat/a_00000_000000.jpg"]}


def record(flag: int, label: float, labels: tuple[float, ...], number: int) -> bytes:
    data = struct.pack("<IfQQ", flag, label, number, 0) + struct.pack(f"<{len(labels)}f", *labels)
    data += image(number)
    return struct.pack("<II", 0xCED7230A, len(data)) + data + bytes(-len(data) % 4)


def test_record_with_boxes_has_no_label(tmp_path: Path) -> None:
    found = {"a.rec": record(0, 1.0, (), 0) + record(6, 0.0, (2, 5, 0, 0.1, 0.2, 0.3), 1)}
    assert read(tmp_path, found, ClassList(("cat", "dog"))) == {"train": ["dog/00000000.jpg"]}


def test_one_folder_of_several_labels_is_no_class(tmp_path: Path) -> None:
    found = {"a.rec": record(0, 0.0, (), 0) + record(0, 1.0, (), 1)}
    found["a.lst"] = b"0\t0\timages/1.jpg\n1\t1\timages/2.jpg\n"
    with pytest.raises(UserError, match="integer labels"):
        read(tmp_path, found)
    assert read(tmp_path, found, ClassList(("cat", "dog"))) == {
        "train": ["cat/images/1.jpg", "dog/images/2.jpg"]
    }


def test_mask_before_the_image_is_not_packed(tmp_path: Path) -> None:
    inside = {"0.mask.png": image(9), "0.boxes.json": b"{}"} | samples("0", "1", cls=[b"a", b"b"])
    assert read(tmp_path, {"a.tar": tar_of(inside)}) == {"train": ["a/0.jpg", "b/1.jpg"]}


def test_numbers_with_a_point(tmp_path: Path) -> None:
    about = [json.dumps({"label": float(k)}).encode() for k in range(2)]
    found = {"a.tar": tar_of(samples("0", "1", json=about))}
    assert read(tmp_path, found, ClassList(("a", "b"))) == {"train": ["a/0.jpg", "b/1.jpg"]}


TABLES = [
    b"class id,filepaths,labels,data set\n0,1.jpg,cat,train\n1,2.jpg,dog,train\n",
    b'file\tlabel\n"1.jpg"\t"cat"\n"2.jpg"\t"dog"\n',
    "file,label\r\n1.jpg,cat\r\n2.jpg,dog\r\n".encode("utf-16"),
    b"1.jpg\tcat\t0\t0\t62\t62\n2.jpg\tdog\t1\t2\t3\t4\n",
]


@pytest.mark.parametrize("text", TABLES)
def test_tables_of_the_field(tmp_path: Path, text: bytes) -> None:
    source = write(tmp_path / "source", files("1.jpg", "2.jpg") | {"t.csv": text})
    pack(source / "t.csv", tmp_path / "out", PackOptions(), num_workers=1)
    assert [n for n, _, _ in sorted(records_of(tmp_path / "out"))] == ["cat/1.jpg", "dog/2.jpg"]


def test_table_of_windows(tmp_path: Path) -> None:
    source = write(tmp_path / "source", files("a/1.jpg", "a/2.jpg"))
    (source / "t.csv").write_bytes(b"a\\1.jpg,cat\na\\2.jpg,dog\n")
    assert pack(source / "t.csv", tmp_path / "out", PackOptions(), num_workers=1).num_written == 2


TINY = files(f"train/{CATS}/images/1.jpg", f"train/{DOGS}/images/2.jpg", "val/images/3.jpg")


def test_tiny_imagenet_by_the_advised_commands(tmp_path: Path) -> None:
    source = write(tmp_path / "source", TINY)
    notes = source / "val" / "val_annotations.txt"
    notes.write_text(f"3.jpg\t{DOGS}\t0\t0\t9\t9\n")
    with pytest.raises(UserError, match=r"class 'images' in val, .*--splits train"):
        pack(source, tmp_path / "out", PackOptions(), num_workers=1)
    pack(source, tmp_path / "out", PackOptions(source_splits=("train",)), num_workers=1)
    options = PackOptions(labels=str(notes), split="val")
    pack(source / "val", tmp_path / "out", options, num_workers=1)
    ((_, label, _),) = records_of(tmp_path / "out", "val")
    assert open_split(tmp_path / "out", "val").classes.ids[label] == DOGS


NUMBERS = b"1.jpg,0.0\n2.jpg,-1\n"
REFUSED: dict[str, tuple[Files, str, str]] = {
    "train beside another": (
        files("train/cat/1.jpg", "train/dog/2.jpg", "holdout/cat/3.jpg"),
        "",
        r"folder train with folders in it, and also holdout. Rename holdout to val or test",
    ),
    "train without classes": (
        files("train/1.jpg", "train/2.jpg"),
        "",
        r"no class folders in .*train. Pack that folder by itself with --labels FILE.$",
    ),
    "packed already": ({"dataset_info.json": b"{}"}, "", r"a packed dataset already"),
    "only zips": ({"cat.zip": b"PK", "dog.zip": b"PK"}, "", r"holds no images.*Unpack cat.zip"),
    "cut off zip": (
        {"a.zip": zip_of(files("cat/1.jpg"))[:-40]}, "a.zip", r"is no complete zip. Download"
    ),
    "records of TensorFlow": ({"a.tfrecord": b"x" * 600}, "a.tfrecord", r"a .tfrecord file"),
    "lists in Parquet": (table(pyarrow.array([[0], [1]])), "", r"list<.* in column label; exp"),
    "arrays in Parquet": (
        table(pyarrow.array([0, 1]), [[[1, 2]], [[3, 4]]]), "", r"list<.* in column image; exp"
    ),
    "table of numbers": (files("1.jpg", "2.jpg") | {"t.csv": NUMBERS}, "t.csv", "integer labels"),
    "short captions": (
        {"a.tar": tar_of(samples("0", "1", txt=[b"a photo of a cat", b"a photo of two dogs"]))},
        "",
        r"with captions .*--as webdataset if each text is a class",
    ),
    "object as label": (
        {"a.tar": tar_of(samples("0", "1", json=[b'{"label": {"id": 0}}', b'{"label": [1]}']))},
        "",
        r"WebDataset without classes",
    ),
    "several samples with one key": (
        {"a.tar": tar_of(samples("im.0", "im.1", cls=[b"cat", b"dog"]))},
        "",
        r"several samples of one key, which ends at the first dot: im.0.jpg",
    ),
    "labels apart": (
        {"a.tar": tar_of(files("0.jpg", "1.jpg") | {"0.cls": b"a", "1.cls": b"b"})},
        "",
        r"in which 0.cls is not beside its image. .*--sort=name",
    ),
    "one tar of a folder": (
        {"photos.tar": tar_of(files("1.jpg", "2.jpg"))}, "", r"one class 'photos'.*--as synset-tars"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(tmp_path: Path, case: str) -> None:
    found, name, message = REFUSED[case]
    source = write(tmp_path / "source", found) / name
    with pytest.raises(UserError, match=message):
        pack(source, tmp_path / "out", PackOptions(), num_workers=1)


def test_one_class_on_standard_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, files("photos/1.jpg", "photos/2.jpg"))
    for listed, message in (
        (b"photos/1.jpg\nphotos/2.jpg\n", "in the class 'photos'"),
        (b".\n", "-type f"),
    ):
        with (tmp_path / "list").open("wb") as file:
            file.write(listed)
        with (tmp_path / "list").open() as file:
            monkeypatch.setattr("sys.stdin", file)
            monkeypatch.chdir(tmp_path)
            assert cli.main(["pack", "-", "--out", "out", "--workers", "1"]) == 2
        assert message in capsys.readouterr().err


LISTS = {
    "class\tname\ncat\tKatze\ndog\tHund\n": "line 1 .*a header",
    "cat 0\ndog 1\n": "line 1 .*Remove the numbers",
    "'cat'\n'dog'\n": "line 1 .*quotes",
    "names:\n- cat\n- dog\n": "line 1 .*YAML",
}


@pytest.mark.parametrize("text", LISTS)
def test_class_lists_of_other_formats(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, {"list.txt": text.encode()}) / "list.txt"
    with pytest.raises(UserError, match=LISTS[text]):
        ClassList.read(path)
    path.write_text("grade 1\ngrade 2\n")
    assert ClassList.read(path).ids == ("grade 1", "grade 2")


def test_texts_beside_images_are_no_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "source", files("cat/1.jpg", "dog/2.jpg") | {"cat/1.txt": b"0 1 1"})
    assert cli.main(["pack", str(source), "--out", str(tmp_path / "out"), "--workers", "1"]) == 0
    said = capsys.readouterr()
    assert "skipped 1: no image by its name" in said.out and "were skipped" not in said.err


def test_page_that_is_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info", str(tmp_path), "--html", str(tmp_path)]) == 2
    assert "is a directory; expected a file" in capsys.readouterr().err


def test_overwrite_with_a_wrong_list_loses_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "source", files("cat/1.jpg", "dog/2.jpg"))
    command = ["pack", str(source), "--out", str(tmp_path / "out"), "--workers", "1"]
    assert cli.main(command) == 0
    assert cli.main([*command, "--overwrite", "--classes", "ilsvrc2012"]) == 2
    assert "not among the 1000 classes" in capsys.readouterr().err
    assert len(records_of(tmp_path / "out")) == 2
