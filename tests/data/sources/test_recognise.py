"""Recognising the layout of a source."""

import gzip
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from i21k.data.format.splits import open_split
from i21k.data.sources.recognise import open_source
from i21k.data.sources.tables import Labels
from i21k.errors import UserError
from tests.helpers.packing import (
    CLASS_IDS,
    PICTURE,
    encoded,
    images_of,
    make_empty_files,
    photo,
    run,
    tar_of,
)


@pytest.mark.parametrize(
    ("make_source", "options", "message"),
    [
        (lambda s: None, {}, r"Source .* does not exist. Give a tar of synset tars"),
        (lambda s: s.write_bytes(b""), {}, r"Source .* is empty. Give"),
        (lambda s: s.mkdir(), {}, r"Source .* is empty. Give"),
        (lambda s: s.write_bytes(encoded(photo())), {}, r"is one image. Give the folder"),
        (
            lambda s: s.write_bytes(tar_of({})),
            {},
            r"holds no images in class folders or synset tars. Give a tar",
        ),
        (
            lambda s: s.write_bytes(tar_of({"a.jpg": encoded(photo())})),
            {"labels": "ilsvrc2012-val"},
            r"holds no file that ilsvrc2012-val names. Give",
        ),
        (
            lambda s: s.write_bytes(tar_of({"a.jpg": encoded(photo())}, "w:gz")),
            {},
            r"is a tar of images without class folders, such as a.jpg. Give --labels FILE",
        ),
        (
            lambda s: s.write_bytes(tar_of({}, "w:gz")),
            {},
            r"holds no images that can be packed \(it has no files\)",
        ),
        (lambda s: make_empty_files(s), {}, r"no images that can be packed \(2 empty file\)"),
        (
            lambda s: s.write_bytes(tar_of({"a.tar": tar_of({"b.txt": b"b"})})),
            {},
            r"no images that can be packed \(1 no image by its name\)",
        ),
        (
            lambda s: s.write_bytes(tar_of({"a.tar": tar_of({"b.txt": b"b" * 9999})})[:4096]),
            {},
            r"is no tar or not a complete one",
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


SAMPLES = {
    f"{key}.{end}": PICTURE["a.JPEG"] for key in ("a/000", "a/001") for end in ("jpg", "cls")
}


@pytest.mark.parametrize(
    "make_source",
    [
        lambda s: s.write_bytes(tar_of({f"{k}.tar": tar_of(SAMPLES) for k in ("a", "b")})),
        lambda s: s.write_bytes(tar_of({"a.tar": tar_of(SAMPLES, "w:gz")}, "w:gz")),
    ],
)
def test_tar_of_webdataset_tars_is_refused(
    tmp_path: Path, make_source: Callable[[Path], None]
) -> None:
    make_source(tmp_path / "source")
    with pytest.raises(
        UserError, match=r"holds WebDataset tars: .* has 000.jpg beside 000.cls. Unpack the outer"
    ):
        run(tmp_path / "source", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_layout_is_said(whole_tar: Path, class_folders: Path, tmp_path: Path) -> None:
    gzipped = tmp_path / "whole.tar.gz"
    gzipped.write_bytes(gzip.compress(whole_tar.read_bytes()))
    labels = Labels("table.tsv", {f"{CLASS_IDS[0]}_0.JPEG": "cat"})
    for source, given, layout in (
        (whole_tar, None, "tar of 3 synset tars"),
        (gzipped, None, "compressed tar of synset tars"),
        (class_folders, None, "folder of 3 class folders"),
        (class_folders, labels, "folder of 18 files with labels from table.tsv, 1 class"),
    ):
        assert open_source(source, given).layout == layout


def test_system_files_are_no_classes_and_are_counted(class_folders: Path, tmp_path: Path) -> None:
    files = {f"{c}/{name}": data for c in CLASS_IDS for name, data in images_of(c).items()}
    ignored = ("__MACOSX/a/._b.jpg", ".ipynb_checkpoints/a.jpg", "n00000001/._c.jpg")
    for name in (*ignored, "n00000002/Thumbs.db", ".DS_Store"):
        (class_folders / name).parent.mkdir(parents=True, exist_ok=True)
        (class_folders / name).write_bytes(files["n00000001/n00000001_0.JPEG"])
    report = run(class_folders, tmp_path / "out")
    assert report.skipped == {"ignored system file": 5}
    assert (report.num_classes, report.num_written) == (3, 18)

    tar = tmp_path / "mac.tar"
    inner = {"a.jpg": encoded(photo()), "._a.jpg": b"x"}
    tar.write_bytes(tar_of({"._n00000001.tar": b"x" * 600, "n00000001.tar": tar_of(inner)}))
    report = run(tar, tmp_path / "from_tar")
    assert report.skipped == {"ignored system file": 2}
    assert open_split(tmp_path / "from_tar", "train").classes.ids == ("n00000001",)
