"""Readers hold a limited number of shards open, and give the same records."""

import numpy as np
import pytest

from i21k.data.format import readers
from i21k.data.format.readers import RecordReader, SpanReader, all_records
from i21k.data.format.splits import open_split
from tests.helpers.datasets import write_dataset


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    directory = tmp_path_factory.mktemp("readers") / "d"
    return open_split(write_dataset(directory, {"train": 60}, num_shards=6), "train")


@pytest.mark.parametrize(("name", "limit"), [("MAX_OPEN_SHARDS", 2), ("MAX_INDEXED_RECORDS", 25)])
@pytest.mark.parametrize("kind", ["single", "spans"])
def test_few_shards_stay_open(split, monkeypatch, name, limit, kind):
    monkeypatch.setattr(readers, name, limit)
    everything = list(all_records(split))
    reader = RecordReader(split) if kind == "single" else SpanReader(split, 1000)
    most = 0
    for number in np.random.default_rng(0).integers(0, split.num_records - 3, 300).tolist():
        if isinstance(reader, RecordReader):
            assert reader[number] == everything[number]
        else:
            assert reader.read(number, number + 3) == everything[number : number + 3]
        most = max(most, sum(one is not None for one in reader._shards._readers))
    assert most == 2  # of 6, with 10 records each


def test_all_shards_stay_open_within_the_limits(split):
    reader = RecordReader(split)
    for number in range(split.num_records):
        reader[number]
    assert all(one is not None for one in reader._shards._readers)


def test_many_shards_need_no_more_open_files_than_the_limit(monkeypatch):
    wanted = []
    monkeypatch.setattr(readers.resource, "getrlimit", lambda _: (1024, 1 << 20))
    monkeypatch.setattr(readers.resource, "setrlimit", lambda _, limits: wanted.append(limits[0]))
    readers.allow_open_files(99_999)
    assert wanted == [readers.MAX_OPEN_SHARDS + readers.SPARE_FILES]
