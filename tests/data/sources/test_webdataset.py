"""WebDataset as a source: what is skipped, and how it is named."""

from pathlib import Path

from i21k.data.sources.base import MAX_NAME_BYTES
from i21k.data.sources.webdataset import WebDataset
from tests.data.sources.test_layouts import image, write
from tests.helpers.packing import tar_of


def test_skipped_files_have_the_name_of_the_shard_and_their_own(tmp_path: Path) -> None:
    inside = {
        "0.jpg": image(0),
        "0.cls": b"cat",
        "1.npy": b"x",
        "2.features.npy": b"x",
        "3.cls": b"dog",
        "4.jpg": image(4),
        "5.jpg": image(5),
        "5.png": image(6),
        "5.cls": b"cat",
        "._6.jpg": b"",
    }
    source = WebDataset(tmp_path, [write(tmp_path, {"a.tar": tar_of(inside)}) / "a.tar"], None)
    members = list(source.members())
    assert {member.container for member in members} == {"a.tar"}
    skipped = {member.name: member.skipped for member in members if member.skipped}
    assert skipped == {
        "1.npy": "no image beside it",
        "2.features.npy": "no image beside it",
        "3.cls": "no image beside it",
        "4.jpg": "no label",
        "5.png": "second image of a sample",
        "._6.jpg": "ignored system file",
    }


def test_name_that_is_too_long_is_cut_off(tmp_path: Path) -> None:
    name = "a/" * MAX_NAME_BYTES + "1.jpg"
    inside = {"0.jpg": image(0), "0.cls": b"cat", name: image(1), "x/" * MAX_NAME_BYTES + "1": b""}
    source = WebDataset(tmp_path, [write(tmp_path, {"a.tar": tar_of(inside)}) / "a.tar"], None)
    assert max(len(member.name) for member in source.members()) == MAX_NAME_BYTES
