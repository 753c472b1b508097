"""Shards that are replaced or written while a run reads them are never read as if they were old."""

import os
import shutil

import numpy as np
import pytest

from i21k.data.format.splits import ShardChangedError, open_split
from i21k.data.load import loader
from i21k.errors import UserError
from tests.helpers.datasets import write_dataset


@pytest.fixture
def data(tmp_path):
    return write_dataset(tmp_path / "data", {"train": 44})


def options(**changes):
    return loader.LoaderOptions(batch_size=4, image_size=32, seed=1, **changes)


def read(split, **changes):
    with loader.batches(split, options(**changes)) as batches:
        return [batch.images.copy() for batch in batches]


def replace(path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "in place":
        with path.open("r+b") as file:
            file.seek(1000)
            file.write(b"x")
        return
    other = path.with_name("other")
    other.write_bytes(content if how == "by an equal file" else bytes(reversed(content)))
    if how == "with the old time":
        shutil.copystat(path, other)
    if how == "removed":
        path.unlink()
        other.unlink()
    else:
        other.replace(path)


HOW = ("by another file", "in place", "with the old time", "removed")


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("changes", [{}, {"workers": 1}, {"order": "windowed"}], ids=str)
def test_a_shard_that_was_replaced_between_epochs_is_named(data, how, changes):
    split = open_split(data, "train")
    replace(split.shard_paths[1], how)
    with pytest.raises(UserError, match=f"{split.shard_paths[1].name} was changed, replaced or"):
        read(split, **changes)


@pytest.mark.parametrize("how", HOW[:1])
@pytest.mark.parametrize("on_bad_record", ["stop", "skip"])
@pytest.mark.parametrize("changes", [{}, {"workers": 1}, {"order": "windowed"}], ids=str)
def test_a_shard_that_is_opened_late_is_checked_again(
    data, how, on_bad_record, changes, monkeypatch
):
    split = open_split(data, "train")
    monkeypatch.setattr(type(split), "check_unchanged", lambda self: replace(path, how))
    path = split.shard_paths[1]
    with pytest.raises(UserError, match="was changed, replaced or removed"):
        read(split, on_bad_record=on_bad_record, max_bad_fraction=0.9, **changes)


def test_an_equal_file_is_the_same_data(data):
    split = open_split(data, "train")
    before = read(split)
    replace(split.shard_paths[1], "by an equal file")
    os.utime(split.shard_paths[0])
    assert np.array_equal(read(split), before)


def test_without_a_manifest_any_change_counts(data):
    for path in data.glob("*manifest*"):
        path.unlink()
    split = open_split(data, "train")
    os.utime(split.shard_paths[0])
    with pytest.raises(ShardChangedError):
        split.check_unchanged()
