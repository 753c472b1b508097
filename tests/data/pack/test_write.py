"""Writing: every image once, the same bytes for any layout, workers and sizes."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from i21k.data.format import shards
from i21k.data.format.manifest import read_manifest
from i21k.data.format.splits import open_split
from i21k.data.pack import plan, read
from i21k.data.pack.engine import LocalEngine
from i21k.data.pack.pack import PackOptions, pack
from i21k.data.pack.spill import place
from tests.helpers.packing import (
    ALL_OPTIONS,
    CLASS_IDS,
    content_of,
    images_of,
    records_of,
    run,
    tar_of,
)


def test_every_image_is_written_once(whole_tar: Path, tmp_path: Path) -> None:
    report = run(whole_tar, tmp_path / "out", num_shards=4)
    expected = sorted(
        (f"{c}/{name}", label) for label, c in enumerate(CLASS_IDS) for name in images_of(c)
    )
    found = records_of(tmp_path / "out")
    assert sorted((name, label) for name, label, _ in found) == expected
    assert [name for name, _, _ in found] == sorted(
        (name for name, _ in expected), key=lambda name: place(name, seed=0)
    )
    assert (report.num_read, report.num_written, report.num_skipped, report.num_classes) == (
        18,
        18,
        0,
        3,
    )
    assert report.splits["train"].num_images == 18 and report.splits["train"].num_shards == 4
    assert open_split(tmp_path / "out", "train").classes.ids == CLASS_IDS


def test_same_bytes_for_any_source_layout_and_number_of_workers(
    whole_tar: Path, class_folders: Path, tmp_path: Path
) -> None:
    def shard_hashes(source: Path, num_workers: int) -> list[shards.Shard]:
        out = tmp_path / f"{source.stem}-{num_workers}"
        pack(source, out, PackOptions(num_shards=2, short_side=16), num_workers=num_workers)
        return [
            dataclasses.replace(shard, file="")
            for shard in read_manifest(out).splits["train"].shards
        ]  # type: ignore[union-attr]

    folder_of_tars = tmp_path / "tars"
    folder_of_tars.mkdir()
    for class_id in CLASS_IDS:
        (folder_of_tars / f"{class_id}.tar.gz").write_bytes(tar_of(images_of(class_id), "w:gz"))
    gzipped = tmp_path / "gzipped.tar.gz"
    gzipped.write_bytes(
        tar_of({f"winter/{c}.tar": tar_of(images_of(c)) for c in CLASS_IDS}, "w:gz")
    )
    expected = shard_hashes(whole_tar, 1)
    assert expected == shard_hashes(whole_tar, 2)
    for source in (class_folders, folder_of_tars, gzipped):
        assert expected == shard_hashes(source, 1)


def test_seed_decides_the_order(whole_tar: Path, tmp_path: Path) -> None:
    run(whole_tar, tmp_path / "a", seed=1)
    run(whole_tar, tmp_path / "b", seed=2)
    a, b = ([name for name, _, _ in records_of(tmp_path / d)] for d in "ab")
    assert sorted(a) == sorted(b) and a != b
    assert [name.partition("/")[0] for name in a] != sorted(
        name.partition("/")[0] for name in a
    )  # classes are mixed


def test_shards_cut_the_order_evenly(whole_tar: Path, tmp_path: Path) -> None:
    order = None
    for num_shards in (1, 2, 3, 7):
        out = tmp_path / str(num_shards)
        run(whole_tar, out, num_shards=num_shards)
        names = [name for name, _, _ in records_of(out)]
        order = order or names
        assert names == order == sorted(names, key=lambda name: place(name, seed=0))
        ends = np.cumsum(open_split(out, "train").shard_counts).tolist()
        places = np.array([place(name, seed=0) for name in names], np.uint64)
        bounds = np.array([-(-(k << 64) // num_shards) for k in range(1, num_shards)], np.uint64)
        assert ends == [*np.searchsorted(places, bounds).tolist(), len(names)]


@pytest.mark.slow
def test_same_bytes_for_any_size_of_spill_files_and_slices(
    whole_tar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(whole_tar, tmp_path / "expected", **ALL_OPTIONS)
    monkeypatch.setattr(read, "BATCH_BYTES", 1)
    for spill_bytes, slice_bytes in ((1, 1), (5000, 1000), (1, 1 << 20)):
        monkeypatch.setattr(
            LocalEngine, "_spill_bytes", lambda *_, spill_bytes=spill_bytes: spill_bytes
        )
        monkeypatch.setattr(plan, "SLICE_BYTES", slice_bytes)
        run(whole_tar, tmp_path / f"{spill_bytes}-{slice_bytes}", **ALL_OPTIONS)
        assert content_of(tmp_path / f"{spill_bytes}-{slice_bytes}") == content_of(
            tmp_path / "expected"
        )
