"""The splits of shards by their names."""

import struct
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from i21k.data.sources.rules import SPLITS
from i21k.data.sources.shard_names import shards_by_split
from i21k.errors import UserError
from i21k.labels import ClassList
from tests.data.sources.test_layouts import image, names, write
from tests.helpers.packing import run, tar_of

NAMES = ClassList(("cat", "dog"))


@pytest.mark.parametrize("word", [*SPLITS, "Testing", "TRAIN"])
@pytest.mark.parametrize("name", ["{}-000.tar", "x_{}_000.tar", "{}.rec", "{}0.tar", "x.{}-0.tar"])
def test_every_name_of_a_split_is_known(word: str, name: str) -> None:
    shard = Path("s", name.format(word))
    assert shards_by_split([shard]) == {SPLITS[word.lower()]: [shard]}
    shard = Path(word, "000.tar")
    assert shards_by_split([shard]) == {SPLITS[word.lower()]: [shard]}


@pytest.mark.parametrize(
    ("shards", "splits"),
    [
        (["train-0.tar", "testing-0.tar"], ["train", "test"]),
        (["train-0.tar", "dev-0.tar"], ["train", "val"]),
        (["eval.rec", "train.rec"], ["val", "train"]),
        (["train2017/0.tar", "val2017/0.tar"], ["train", "val"]),
        (["training_set/0.tar", "dev/0.tar"], ["train", "val"]),
        (["train/dev-0.tar", "val/0.tar"], ["train", "val"]),
        (["dev-0.tar", "dev-1.tar"], ["", ""]),
        (["dev/0.tar", "dev/1.tar"], ["", ""]),
        (["trainer-0.tar", "contest-0.tar"], ["", ""]),
    ],
)
def test_names_that_depend_on_others(shards: list[str], splits: list[str]) -> None:
    found = shards_by_split([Path("s", shard) for shard in shards])
    split_of = {shard: split for split, of_split in found.items() for shard in of_split}
    assert [split_of[Path("s", shard)] for shard in shards] == splits


@pytest.mark.parametrize("shards", [["train-0.tar", "extra-0.tar"], ["dev/train.tar", "dev/x.tar"]])
def test_shard_in_no_split_is_refused(shards: list[str]) -> None:
    with pytest.raises(UserError, match="is in no split, and other files beside it are in the"):
        shards_by_split([Path(shard) for shard in shards])


def webdataset(number: int) -> bytes:
    return tar_of({f"{number}.jpg": image(number), f"{number}.cls": b"%d" % (number % 2)})


def parquet(number: int) -> bytes:
    sink = pyarrow.BufferOutputStream()
    images = [{"bytes": image(number), "path": f"{number}.jpg"}]
    pyarrow.parquet.write_table(pyarrow.table({"image": images, "label": [number % 2]}), sink)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def recordio(number: int) -> bytes:
    data = struct.pack("<IfQQ", 0, number % 2, number, 0) + image(number)
    return struct.pack("<II", 0xCED7230A, len(data)) + data + bytes(-len(data) % 4)


@pytest.mark.parametrize("name", ["{}-000.tar", "{}_set/000.tar", "{}-0.parquet", "{}.rec"])
def test_splits_are_packed_apart(name: str, tmp_path: Path) -> None:
    make = {"tar": webdataset, "parquet": parquet, "rec": recordio}[name.rpartition(".")[2]]
    words = ("training", "validation", "testing")
    source = write(tmp_path / "s", {name.format(w): make(n) for n, w in enumerate(words)})
    report = run(source, tmp_path / "out", NAMES)
    assert list(report.splits) == ["train", "val", "test"]
    for number, split in enumerate(report.splits):
        (found,) = names(tmp_path / "out", split)
        assert found.startswith(NAMES.ids[number % 2]) and f"{number}.jpg" in found
