"""The list of shards that timm writes beside a WebDataset."""

import json
from pathlib import Path
from typing import Any

import pytest

from i21k.errors import UserError
from tests.data.sources.test_layouts import CATS, DOGS, image, names, wds
from tests.helpers.packing import run


def split_info(lengths: dict[str, int]) -> dict[str, Any]:
    return {
        "name": "x",
        "num_samples": sum(lengths.values()),
        "filenames": list(lengths),
        "shard_lengths": list(lengths.values()),
    }


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two shards to train with and one to validate, whose names do not have the split."""
    folder = tmp_path / "wds"
    folder.mkdir()
    for shard, numbers in {"in12k-0": (0, 1), "in12k-1": (2, 3), "in12k-2": (4, 5)}.items():
        samples = {f"{(DOGS, CATS)[n % 2]}_{n}": {"jpg": image(n)} for n in numbers}
        (folder / f"{shard}.tar").write_bytes(wds(samples))
    splits = {
        "train": split_info({"in12k-0.tar": 2, "in12k-1.tar": 2}),
        "validation": split_info({"in12k-2.tar": 2}),
        "mini": split_info({"in12k-0.tar": 2}),
    }
    (folder / "_info.json").write_text(json.dumps({"splits": splits}))
    return folder


def test_the_list_says_splits_and_numbers(tmp_path: Path, source: Path) -> None:
    report = run(source, tmp_path / "out")
    assert "train (WebDataset of 2 tars with 4 images by _info.json" in report.layout
    assert names(tmp_path / "out", "train") == {
        f"{(DOGS, CATS)[n % 2]}/{(DOGS, CATS)[n % 2]}_{n}.jpg" for n in range(4)
    }
    assert len(names(tmp_path / "out", "val")) == 2 and report.skipped == {}


def test_a_shard_that_is_missing_or_too_short_is_named(tmp_path: Path, source: Path) -> None:
    (source / "in12k-1.tar").write_bytes(wds({f"{DOGS}_2": {"jpg": image(2)}}))
    report = run(source, tmp_path / "out")
    assert report.skipped == {"fewer samples than listed": 1}
    (source / "in12k-1.tar").unlink()
    with pytest.raises(UserError, match=r"has 1 of the 2 shards that _info.json lists for split"):
        run(source, tmp_path / "other")
    # As the message says: what is there, on purpose.
    run(source / "*.tar", tmp_path / "some")
    assert len(names(tmp_path / "some", "train")) == 2


@pytest.mark.parametrize(
    "content", ["", "[]", '{"splits": 3}', '{"splits": {"train": {}}}', "[" * 9999]
)
def test_a_file_of_something_else_is_ignored(tmp_path: Path, source: Path, content: str) -> None:
    (source / "_info.json").write_text(content)
    report = run(source, tmp_path / "out")
    assert report.layout.startswith("WebDataset of 3 tars, classes by")
    assert len(names(tmp_path / "out")) == 6
