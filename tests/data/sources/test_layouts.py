"""Layouts of the field: each is recognised, and its classes and splits are right."""

import csv
import gzip
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from i21k import cli
from i21k.data.format.splits import open_split
from i21k.errors import UserError
from i21k.labels import ClassList
from tests.helpers.packing import encoded, photo, records_of, run, tar_of

CATS, DOGS = "n02121808", "n02084071"


def image(seed: int, file_format: str = "JPEG") -> bytes:
    return encoded(photo(seed=seed), file_format)


def write(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def zip_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def names(out: Path, split: str = "train") -> set[str]:
    """Return the names of the records; each label fits its name."""
    classes = open_split(out, split).classes
    found = records_of(out, split)
    assert all(name.split("/")[0] == classes.ids[label] for name, label, _ in found)
    return {name for name, _, _ in found}


CLASS_FOLDERS = {f"{c}/{i}.jpg": image(i) for i, c in enumerate(("cat", "cat", "dog", "dog"))}
SPLITS = {
    "train/cat/1.jpg": image(1),
    "train/dog/2.jpg": image(2),
    "val/cat/3.jpg": image(3),
    "__MACOSX/train/._x.jpg": b"x",
}


@pytest.mark.parametrize(
    "make", [write, lambda p, f: p.write_bytes(tar_of(f)), lambda p, f: p.write_bytes(zip_of(f))]
)
def test_folders_of_splits(tmp_path: Path, make: Callable[..., Any]) -> None:
    make(tmp_path / "source", SPLITS)
    report = run(tmp_path / "source", tmp_path / "out")
    assert names(tmp_path / "out") == {"cat/1.jpg", "dog/2.jpg"}
    assert names(tmp_path / "out", "val") == {"cat/3.jpg"}
    assert list(report.splits) == ["train", "val"] and report.num_classes == 2
    assert run(tmp_path / "source", tmp_path / "out").already_complete


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tar.xz", "zip"])
def test_archives_of_class_folders(tmp_path: Path, suffix: str) -> None:
    files = {f"flowers/{name}": data for name, data in CLASS_FOLDERS.items()}
    mode = {"tar.gz": "w:gz", "tar.xz": "w:xz"}.get(suffix, "w")
    content = zip_of(files) if suffix == "zip" else tar_of(files, mode)
    source = tmp_path / f"flowers.{suffix}"
    source.write_bytes(content)
    for options in ({}, {"class_level": 2}):
        out = tmp_path / f"out{len(options)}"
        run(source, out, **options)
        assert names(out) == set(CLASS_FOLDERS)


def test_the_three_trees_of_imagenet21k_p(tmp_path: Path) -> None:
    files = {
        f"imagenet21k_resized/imagenet21k_{split}/{c}/{c}_{i}.JPEG": image(i)
        for i, (split, c) in enumerate(
            [("train", CATS), ("train", DOGS), ("small_classes", "n00000001"), ("val", CATS)]
        )
    }
    (tmp_path / "imagenet21k_resized.tar.gz").write_bytes(tar_of(files, "w:gz"))
    report = run(tmp_path / "imagenet21k_resized.tar.gz", tmp_path / "out")
    assert list(report.splits) == ["train", "val"]
    assert open_split(tmp_path / "out", "val").classes.ids == (DOGS, CATS)
    assert names(tmp_path / "out", "val") == {f"{CATS}/{CATS}_3.JPEG"}
    run(
        tmp_path / "imagenet21k_resized.tar.gz",
        tmp_path / "small",
        source_splits=("small_classes",),
    )
    assert names(tmp_path / "small", "small_classes") == {"n00000001/n00000001_2.JPEG"}


@pytest.mark.parametrize("below", ["", "ILSVRC", "ILSVRC/Data/CLS-LOC"])
@pytest.mark.parametrize("has_table", [True, False])
def test_kaggle(tmp_path: Path, below: str, has_table: bool) -> None:
    root = "ILSVRC/Data/CLS-LOC"
    published = {1: "n01751748", 2: "n09193705"}
    files = {f"{root}/train/{c}/{c}_1.JPEG": image(i) for i, c in published.items()}
    files |= {f"{root}/val/ILSVRC2012_val_{n:08d}.JPEG": image(9 + n) for n in published}
    files |= {f"{root}/test/ILSVRC2012_test_00000001.JPEG": image(20)}
    expected = published
    if has_table:
        expected = {1: published[2], 2: published[1]}
        rows = "".join(
            f"ILSVRC2012_val_{n:08d},{c} 1 2 3 4 {c} 5 6 7 8\n" for n, c in expected.items()
        )
        files["LOC_val_solution.csv"] = f"ImageId,PredictionString\n{rows}".encode()
    source = write(tmp_path / "kaggle", files)
    report = run(source / below, tmp_path / "out")
    assert list(report.splits) == ["train", "val"] and report.num_classes == 2
    assert names(tmp_path / "out", "val") == {
        f"{c}/ILSVRC2012_val_{n:08d}.JPEG" for n, c in expected.items()
    }
    with pytest.raises(UserError, match=r"test images .* have no labels. Give --splits train,val"):
        run(source, tmp_path / "out2", source_splits=("train", "test"))


def test_synset_folders_are_classes_wherever_they_are(tmp_path: Path) -> None:
    files = {f"animal/{c}/sub/{c}_1.JPEG": image(i) for i, c in enumerate((CATS, DOGS))}
    source = write(tmp_path / "nested", files | {"animal/readme.txt": b"x"})
    report = run(source, tmp_path / "out")
    assert names(tmp_path / "out") == {f"{c}/sub/{c}_1.JPEG" for c in (CATS, DOGS)}
    assert report.skipped == {"no image by its name": 1}


def test_one_class_is_asked_about(tmp_path: Path) -> None:
    source = write(tmp_path / "s", {f"pets/{name}": data for name, data in CLASS_FOLDERS.items()})
    with pytest.raises(
        UserError,
        match=r"one class 'pets' by its top folders. Give --class-level 2 to make classes",
    ):
        run(source, tmp_path / "out")
    run(source, tmp_path / "one", class_level=1)
    assert open_split(tmp_path / "one", "train").classes.ids == ("pets",)
    run(source, tmp_path / "two", class_level=2)
    assert names(tmp_path / "two") == set(CLASS_FOLDERS)


def test_splits_beside_other_folders_are_asked_about(tmp_path: Path) -> None:
    source = write(tmp_path / "s", SPLITS | {"extra/cat/4.jpg": image(4)})
    with pytest.raises(UserError, match=r"has the splits train, val and also extra. Remove extra"):
        run(source, tmp_path / "out")
    run(source, tmp_path / "out", layout="class-folders")
    assert open_split(tmp_path / "out", "train").classes.ids == ("extra", "train", "val")


def test_images_at_any_depth_and_empty_class_folders(tmp_path: Path) -> None:
    source = write(tmp_path / "s", CLASS_FOLDERS | {"cat/2023/a.jpg": image(7)})
    (source / "bird").mkdir()
    write(source, {"fish/.DS_Store": b"x", ".ipynb_checkpoints/a.jpg": b"x"})
    report = run(source, tmp_path / "out")
    assert open_split(tmp_path / "out", "train").classes.ids == ("cat", "dog")
    assert "cat/2023/a.jpg" in names(tmp_path / "out")
    assert report.skipped == {"ignored system file": 2}
    assert report.layout == "folder of 2 class folders and 2 class folders without images"
    run(source, tmp_path / "given", ClassList(("bird", "cat", "dog")))
    assert open_split(tmp_path / "given", "train").classes.ids == ("bird", "cat", "dog")


def wds(samples: dict[str, dict[str, bytes]]) -> bytes:
    return tar_of({f"{k}.{e}": data for k, of in samples.items() for e, data in of.items()})


def as_json(**content: Any) -> bytes:
    return json.dumps(content).encode()


@pytest.mark.parametrize(
    ("sample", "given"),
    [
        (lambda i, c: (f"{i:05d}", {"json": as_json(class_name=c, label=i)}), None),
        (lambda i, c: (f"{c}_{i}", {"cls": f"{i}".encode()}), None),
        (lambda i, c: (f"{c}_{i}", {}), None),
        (lambda i, c: (f"v_{i}", {"json": as_json(filename=f"{c}/v_{i}.JPEG", label=i)}), None),
        (lambda i, c: (f"{i:05d}", {"cls": f"{i % 2}".encode()}), ClassList((DOGS, CATS))),
        (lambda i, c: (f"{i:05d}", {"txt": c.encode()}), None),
        (lambda i, c: (f"{i:05d}", {"cls": c.encode() + b"\n"}), None),
    ],
)
@pytest.mark.parametrize("extension", ["jpg", "webp"])
def test_webdataset(
    tmp_path: Path, sample: Callable[..., Any], given: ClassList | None, extension: str
) -> None:
    (tmp_path / "wds").mkdir()
    kind = {"jpg": "JPEG", "webp": "WEBP"}[extension]
    expected: dict[str, set[str]] = {"train": set(), "val": set()}
    number = 0
    for shard in ("train-0000", "train-0001", "validation-00"):
        samples = {}
        for _ in range(4):
            class_id = (DOGS, CATS)[number % 2]
            key, labels = sample(number, class_id)
            samples[key] = {extension: image(number, kind)} | labels
            expected[{"t": "train", "v": "val"}[shard[0]]].add(f"{class_id}/{key}.{extension}")
            number += 1
        (tmp_path / "wds" / f"imagenet-{shard}.tar").write_bytes(wds(samples))
    report = run(tmp_path / "wds", tmp_path / "out", given)
    assert report.skipped == {}
    for split in expected:
        assert names(tmp_path / "out", split) == expected[split]
    pattern = tmp_path / "wds" / "imagenet-train-{0000..0001}.tar"
    run(pattern, tmp_path / "range", given)
    assert names(tmp_path / "range") == expected["train"]


def test_webdataset_numbers_need_names_and_captions_are_no_classes(tmp_path: Path) -> None:
    numbers = {f"{i}": {"jpg": image(i), "cls": b"%d" % (i % 2)} for i in range(4)}
    (tmp_path / "0000.tar").write_bytes(wds(numbers))
    with pytest.raises(UserError, match=r"integer labels, such as 0, and no names .* --classes"):
        run(tmp_path / "0000.tar", tmp_path / "out")
    captions = {f"{i}": {"jpg": image(i), "txt": f"a photo of {i}".encode()} for i in range(9)}
    (tmp_path / "0001.tar").write_bytes(wds(captions))
    with pytest.raises(UserError, match=r"WebDataset with captions"):
        run(tmp_path / "0001.tar", tmp_path / "out")


def parquet_of(path: Path, rows: list[tuple[str | None, int]], label_names: list[str]) -> None:
    import pyarrow
    import pyarrow.parquet

    images = [{"bytes": image(i), "path": path} for i, (path, _) in enumerate(rows)]
    about = {"info": {"features": {"label": {"names": label_names, "_type": "ClassLabel"}}}}
    table = pyarrow.table({"image": images, "label": [label for _, label in rows]})
    table = table.replace_schema_metadata({"huggingface": json.dumps(about)} if label_names else {})
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, path, row_group_size=2)


def test_parquet(tmp_path: Path) -> None:
    rows: list[tuple[str | None, int]] = [("a.jpg", 0), ("b.jpg", 1), ("c.jpg", 0), (None, 1)]
    texts = ["tench, Tinca tinca", "dog"]
    parquet_of(tmp_path / "s/data/train-00000-of-00002.parquet", rows, texts)
    parquet_of(tmp_path / "s/data/train-00001-of-00002.parquet", [("d.jpg", 1)], texts)
    parquet_of(tmp_path / "s/data/validation-00000-of-00001.parquet", [("e.jpg", 0)], texts)
    parquet_of(tmp_path / "s/data/test-00000-of-00001.parquet", [("f.jpg", -1)], texts)
    report = run(tmp_path / "s", tmp_path / "out")
    assert list(report.splits) == ["train", "val"]
    assert names(tmp_path / "out", "val") == {"tench, Tinca tinca/e.jpg"}
    assert len(names(tmp_path / "out")) == 5
    run(tmp_path / "s", tmp_path / "ids", ClassList((DOGS, CATS)))
    assert names(tmp_path / "ids", "val") == {f"{DOGS}/e.jpg"}

    bare = tmp_path / "bare.parquet"
    parquet_of(bare, rows, [])
    with pytest.raises(UserError, match=r"integer labels, such as 0, and no names"):
        run(bare, tmp_path / "x")
    parquet_of(bare, [(f"n1_{c}.JPEG", 0) for c in (CATS, DOGS)], [])
    run(bare, tmp_path / "paths")
    assert open_split(tmp_path / "paths", "train").classes.ids == (DOGS, CATS)


def test_damaged_parquet_is_refused(tmp_path: Path) -> None:
    parquet_of(tmp_path / "a.parquet", [("a.jpg", 0)], ["cat"])
    content = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(content[:-20])
    with pytest.raises(UserError, match=r"a.parquet is no Parquet file or not a complete one"):
        run(tmp_path / "a.parquet", tmp_path / "out")


@pytest.mark.parametrize("has_header", [True, False])
@pytest.mark.parametrize("separator", [",", "\t"])
def test_tables(tmp_path: Path, has_header: bool, separator: str) -> None:
    write(tmp_path, {"val/a.JPEG": image(1), "val/b, c.JPEG": image(2)})
    text = io.StringIO()
    rows = [["./val/a.JPEG", "cat"], ["./val/b, c.JPEG", "dog"]]
    header = [["filepath", "label"]] if has_header else []
    csv.writer(text, delimiter=separator).writerows(header + rows)
    (tmp_path / "labels.csv").write_text(text.getvalue(), "utf-8-sig")
    run(tmp_path / "labels.csv", tmp_path / "out")
    assert names(tmp_path / "out") == {"cat/val/a.JPEG", "dog/val/b, c.JPEG"}
    run(tmp_path / "val", tmp_path / "b", labels=str(tmp_path / "labels.csv"))
    assert names(tmp_path / "b") == {"cat/a.JPEG", "dog/b, c.JPEG"}


def test_table_of_integers_needs_names(tmp_path: Path) -> None:
    write(tmp_path, {"a.JPEG": image(1), "b.JPEG": image(2), "t.csv": b"a.JPEG,1\nb.JPEG,0\n"})
    with pytest.raises(UserError, match=r"integer labels, such as 1"):
        run(tmp_path / "t.csv", tmp_path / "out")
    run(tmp_path / "t.csv", tmp_path / "out", ClassList(("x", "y")))
    assert names(tmp_path / "out") == {"y/a.JPEG", "x/b.JPEG"}


def test_list_on_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "s", CLASS_FOLDERS)
    monkeypatch.chdir(tmp_path / "s")
    lines = [f"./{name}" for name in CLASS_FOLDERS]
    lines[-1] += "\twolf"
    give_list(monkeypatch, b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    run(Path("-"), tmp_path / "out")
    *others, last = sorted(CLASS_FOLDERS)
    assert names(tmp_path / "out") == {*others, f"wolf/{last}"}


def give_list(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_list_of_splits_and_with_odd_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {name: data for name, data in SPLITS.items() if "MACOSX" not in name})
    monkeypatch.chdir(tmp_path)
    give_list(monkeypatch, b"train/cat/1.jpg\0./train/dog/2.jpg\0val/cat/3.jpg\0val/dog/\xff.jpg")
    report = run(Path("-"), tmp_path / "out")
    assert names(tmp_path / "out") == {"cat/1.jpg", "dog/2.jpg"}
    assert names(tmp_path / "out", "val") == {"cat/3.jpg"}
    assert report.skipped == {"unreadable file": 1}
    give_list(monkeypatch, b"train/cat/1.jpg\ntrain/dog/2.jpg\ntrain/cat/1.jpg\n")
    with pytest.raises(UserError, match=r"Line 3 of standard input is there twice"):
        run(Path("-"), tmp_path / "twice")


@pytest.mark.parametrize("address", ["s3://bucket/x", "https://a.b/c.tar", "gs://a/b", "hf://a/b"])
def test_addresses_are_refused_by_name(
    tmp_path: Path, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["pack", address, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert f"Source {address} is an address" in said and "Copy it to a disk first" in said


def test_numbered_tars_without_labels_are_asked_about(tmp_path: Path) -> None:
    for number in range(2):
        write(tmp_path / "s", {f"shard-{number:04d}.tar": tar_of({"a.jpg": image(number)})})
    with pytest.raises(UserError, match=r"numbered tars without labels"):
        run(tmp_path / "s", tmp_path / "out")


def test_hard_links_in_tars(tmp_path: Path) -> None:
    import tarfile

    def linked() -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for name in ("cat/a.jpg", "dog/b.jpg"):
                info = tarfile.TarInfo(name)
                info.size = len(image(1))
                tar.addfile(info, io.BytesIO(image(1)))
            info = tarfile.TarInfo("dog/c.jpg")
            info.type, info.linkname = tarfile.LNKTYPE, "cat/a.jpg"
            tar.addfile(info)
        return buffer.getvalue()

    (tmp_path / "folders.tar").write_bytes(linked())
    run(tmp_path / "folders.tar", tmp_path / "a")
    assert names(tmp_path / "a") == {"cat/a.jpg", "dog/b.jpg", "dog/c.jpg"}
    assert len({jpeg for _, _, jpeg in records_of(tmp_path / "a")}) == 1
    (tmp_path / "folders.tar.gz").write_bytes(gzip.compress(linked()))
    run(tmp_path / "folders.tar.gz", tmp_path / "c")
    assert records_of(tmp_path / "c") == records_of(tmp_path / "a")
    (tmp_path / "synsets.tar").write_bytes(tar_of({f"{CATS}.tar": linked()}))
    run(tmp_path / "synsets.tar", tmp_path / "b")
    assert f"{CATS}/dog/c.jpg" in names(tmp_path / "b")


def test_symbolic_links_stay_in_the_source(tmp_path: Path) -> None:
    write(tmp_path, {"outside.jpg": image(9)})
    source = write(tmp_path / "s", CLASS_FOLDERS)
    (source / "dog" / "inside.jpg").symlink_to("../cat/0.jpg")
    (source / "dog" / "out.jpg").symlink_to(tmp_path / "outside.jpg")
    report = run(source, tmp_path / "out")
    assert "dog/inside.jpg" in names(tmp_path / "out")
    assert report.skipped == {"symbolic link out of the source": 1}


def test_parquet_files_that_do_not_belong_together(tmp_path: Path) -> None:
    rows = [("a.jpg", 0), ("b.jpg", 1)]
    parquet_of(tmp_path / "a" / "train-00000-of-00002.parquet", rows, ["cat", "dog"])
    with pytest.raises(UserError, match=r"1 of 2 numbered files, and train-00001-of-00002.parquet"):
        run(tmp_path / "a", tmp_path / "out")
    parquet_of(tmp_path / "a" / "train-00001-of-00002.parquet", rows, ["dog", "cat"])
    with pytest.raises(UserError, match=r"has other columns or names of labels than train-00000"):
        run(tmp_path / "a", tmp_path / "out")
    parquet_of(tmp_path / "b" / "x.parquet", rows, ["crane", "crane"])
    with pytest.raises(UserError, match=r"'crane' is there 2 times. Give --classes FILE with 2"):
        run(tmp_path / "b", tmp_path / "out")
    run(tmp_path / "b", tmp_path / "out", ClassList(("bird", "machine")))
    assert open_split(tmp_path / "out", "train").classes.ids == ("bird", "machine")
    write(tmp_path / "b", CLASS_FOLDERS)
    with pytest.raises(UserError, match=r"x.parquet and also folders of images. Give --as parquet"):
        run(tmp_path / "b", tmp_path / "beside")


def test_every_row_of_a_damaged_row_group_is_counted(tmp_path: Path) -> None:
    import pyarrow.parquet

    path = tmp_path / "x.parquet"
    parquet_of(path, [(f"{n}.jpg", n % 2) for n in range(60)], ["cat", "dog"])
    column = pyarrow.parquet.ParquetFile(path).metadata.row_group(7).column(0)
    content = bytearray(path.read_bytes())
    content[column.data_page_offset : column.data_page_offset + 16] = bytes(16)
    path.write_bytes(content)
    report = run(path, tmp_path / "out")
    assert (report.num_read, report.num_written) == (60, 58)
    assert report.skipped == {"damaged row group": 2}
