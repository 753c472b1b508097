"""Folders whose images are linked from elsewhere: each message names a command that packs them."""

import io
import re
import subprocess
from pathlib import Path

import pytest

from i21k.data.format.splits import open_split
from i21k.errors import UserError
from tests.data.sources.test_ambiguous import CATS, DOGS, files
from tests.data.sources.test_layouts import names, write
from tests.helpers.packing import run, tar_of

TAR = tar_of(files("1.jpg"))
# What is linked, the paths of the links to it, the message, and the images that are packed.
LINKED: dict[str, tuple[dict[str, bytes], tuple[str, ...], str, set[str]]] = {
    "class folders": (
        files("cat/1.jpg", "dog/2.jpg"),
        ("cat", "dog"),
        r"has 2 links to folders outside of it, such as cat, and no classes of its own",
        {"cat/1.jpg", "dog/2.jpg"},
    ),
    "class folders with folders": (
        files("cat/2023/1.jpg", "dog/2.jpg"),
        ("cat", "dog"),
        r"has 2 links to folders",
        {"cat/2023/1.jpg", "dog/2.jpg"},
    ),
    "synset tars": (
        {f"{CATS}.tar": TAR, f"{DOGS}.tar": tar_of(files("0.jpg", "2.jpg"))},
        (f"{CATS}.tar", f"{DOGS}.tar"),
        rf"has 2 links to tars outside of it, such as {DOGS}.tar, and no classes",
        {f"{CATS}/1.jpg", f"{DOGS}/0.jpg", f"{DOGS}/2.jpg"},
    ),
    "images": (
        files("cat/1.jpg", "dog/2.jpg"),
        ("cat/1.jpg", "dog/2.jpg"),
        r"no images that can be packed \(2 symbolic link out of the source\)",
        {"cat/1.jpg", "dog/2.jpg"},
    ),
    "images in folders of classes": (
        files("cat/2023/1.jpg", "dog/2.jpg"),
        ("cat/2023/1.jpg", "dog/2.jpg"),
        r"no images that can be packed \(2 symbolic link out of the source\)",
        {"cat/2023/1.jpg", "dog/2.jpg"},
    ),
    "images of nested synsets": (
        files(f"a/{CATS}/b/1.jpg", f"a/{DOGS}/2.jpg"),
        (f"a/{CATS}/b/1.jpg", f"a/{DOGS}/2.jpg"),
        r"no images that can be packed",
        {f"{CATS}/b/1.jpg", f"{DOGS}/2.jpg"},
    ),
}


def linked(tmp_path: Path, real: dict[str, bytes], links: tuple[str, ...]) -> Path:
    write(tmp_path / "real", real)
    source = tmp_path / "my source's"
    source.mkdir()
    for name in links:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).symlink_to(tmp_path / "real" / name)
    return source


@pytest.mark.parametrize("kind", LINKED)
def test_the_advised_command_packs_what_is_linked(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, links, message, expected = LINKED[kind]
    source = linked(tmp_path, real, links)
    with pytest.raises(UserError, match=message) as refused:
        run(source, tmp_path / "refused")
    (command,) = re.findall("`(.*)`", str(refused.value))
    lister, _, packer = command.partition(" | ")
    assert packer in ("i21k pack -", "")
    listed = subprocess.run(lister, shell=True, cwd=tmp_path, check=True, capture_output=True)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(listed.stdout)))
    run(Path("-") if packer else tmp_path / "NEW", tmp_path / "out")
    ids = open_split(tmp_path / "out", "train").classes.ids
    assert set(ids) == {name.split("/")[0] for name in expected}
    found = {(name.split("/")[0], name.split("/")[-1]) for name in names(tmp_path / "out")}
    assert found == {(name.split("/")[0], name.split("/")[-1]) for name in expected}


def test_links_to_nothing_are_named(tmp_path: Path) -> None:
    source = linked(tmp_path, {}, ("cat", f"{DOGS}.tar"))
    with pytest.raises(
        UserError, match=r"2 links to files .* do not exist, such as cat.*/real/cat"
    ):
        run(source, tmp_path / "out")


def test_linked_file_beside_an_empty_folder_is_no_link_to_a_folder(tmp_path: Path) -> None:
    source = linked(tmp_path, {"README.md": b"x"}, ("README.md", ".hidden"))
    (source / "cat").mkdir()
    with pytest.raises(UserError, match=r"holds no images in class folders or synset tars"):
        run(source, tmp_path / "out", layout="class-folders")
