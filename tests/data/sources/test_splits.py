"""Sources with splits: which of them are packed, and which are refused."""

import shlex
from pathlib import Path

import pytest

from i21k import cli
from i21k.data.format.splits import open_split
from i21k.errors import UserError
from tests.data.sources.test_ambiguous import files
from tests.data.sources.test_layouts import names, write, zip_of
from tests.helpers.packing import run, tar_of


def of_kind(kind: str, path: Path, content: dict[str, bytes]) -> Path:
    if kind == "folder":
        return write(path, content)
    archive = zip_of(content) if kind == "zip" else tar_of(content)
    return write(path, {f"a.{kind}": archive}) / f"a.{kind}"


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_only_a_split_that_is_not_packed(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = of_kind(kind, tmp_path / "s", files("test/1.jpg"))
    message = r"only the split test, .*Give --splits test .*or --labels FILE --split test if"
    with pytest.raises(UserError, match=message):
        run(source, tmp_path / "out")
    (tmp_path / "labels.tsv").write_text("1.jpg\tcat\n")
    advised = f"--labels {shlex.quote(str(tmp_path / 'labels.tsv'))} --split test"
    command = ["pack", str(source), "--out", str(tmp_path / "out"), "--workers", "1"]
    assert cli.main([*command, *shlex.split(advised)]) == 0
    assert names(tmp_path / "out", "test") == {"cat/test/1.jpg"}


def test_only_a_test_split_of_synset_tars(tmp_path: Path) -> None:
    tars = {f"test/n0000000{n}.tar": tar_of(files(f"{n}.jpg")) for n in (1, 2)}
    source = write(tmp_path / "s", tars)
    with pytest.raises(UserError, match=r"only the split test, .*Give --splits test if it holds"):
        run(source, tmp_path / "out")
    assert run(source, tmp_path / "out", source_splits=("test",)).num_written == 2


def test_only_the_small_classes_of_imagenet21k_p(tmp_path: Path) -> None:
    root = "imagenet21k_small_classes"
    source = write(tmp_path / "s", files(f"{root}/n00000001/1.jpg", f"{root}/n00000002/1.jpg"))
    with pytest.raises(UserError, match=r"only the split small_classes, .*--splits small_classes"):
        run(source, tmp_path / "out")
    assert run(source, tmp_path / "out", source_splits=("small_classes",)).num_written == 2


MINI = ("train/n01440764/1.jpg", "val/n01484850/2.jpg", "test/n01494475/3.jpg")


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_splits_of_different_synsets_are_packed(kind: str, tmp_path: Path) -> None:
    """As in miniImageNet, whose splits have different classes on purpose."""
    report = run(of_kind(kind, tmp_path / "s", files(*MINI)), tmp_path / "out")
    assert report.num_written == 3
    ids = ("n01440764", "n01484850", "n01494475")
    assert open_split(tmp_path / "out", "train").classes.ids == ids


def test_splits_of_different_names_need_a_class_list(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = ("train/cat/1.jpg", "train/dog/2.jpg", "val/emu/3.jpg", "val/fox/4.jpg")
    source = write(tmp_path / "s", files(*paths))
    with pytest.raises(UserError, match=r"no class of val is in train. Give --classes FILE"):
        run(source, tmp_path / "out")
    (tmp_path / "classes.txt").write_text("cat\ndog\nemu\nfox\n")
    command = ["pack", str(source), "--out", str(tmp_path / "out"), "--workers", "1"]
    assert cli.main([*command, "--classes", str(tmp_path / "classes.txt")]) == 0
    assert names(tmp_path / "out", "val") == {"emu/3.jpg", "fox/4.jpg"}
