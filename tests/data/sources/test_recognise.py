"""Recognising the layout of a source."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.packing import encoded, make_empty_files, photo, run, tar_of


@pytest.mark.parametrize(
    ("make_source", "options", "message"),
    [
        (lambda s: None, {}, r"Source .* does not exist. Give a tar of synset tars"),
        (lambda s: s.write_bytes(b""), {}, r"Source .* is empty. Give"),
        (lambda s: s.mkdir(), {}, r"Source .* is empty. Give"),
        (lambda s: s.write_bytes(encoded(photo())), {}, r"is no tar or not a complete one"),
        (
            lambda s: s.write_bytes(tar_of({})),
            {},
            r"holds no synset tar or class folder. Give a tar of synset tars",
        ),
        (
            lambda s: s.write_bytes(tar_of({"a/b.jpg": encoded(photo())})),
            {},
            r"holds no synset tar or class folder. Give a tar of",
        ),
        (
            lambda s: s.write_bytes(tar_of({"a.jpg": encoded(photo())})),
            {"labels": "ilsvrc2012-val"},
            r"holds no file that ilsvrc2012-val names. Give",
        ),
        (
            lambda s: s.write_bytes(tar_of({"a.jpg": encoded(photo())}, "w:gz")),
            {},
            r"holds no images that can be packed \(1 not in a synset tar\)",
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
            r"no images that can be packed \(1 not an image\)",
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
