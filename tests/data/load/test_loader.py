import dataclasses
import io
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from i21k.data.format import readers
from i21k.data.format.readers import (
    SPARE_FILES,
    RecordReader,
    SpanReader,
    allow_open_files,
)
from i21k.data.format.records import decode_example, file_name_of
from i21k.data.format.splits import open_split
from i21k.data.load import builder, loader, order
from i21k.data.load.loader import LoaderOptions
from i21k.data.load.windows import WindowBuffer
from tests.helpers.batches import same, stream
from tests.helpers.datasets import NUM_TRAIN, NUM_VAL, write_dataset
from tests.helpers.paths import ROOT


@pytest.fixture(scope="module")
def split(dataset):
    return open_split(dataset, "train")


@pytest.fixture(scope="module", params=["global", "windowed"])
def options(request, split):
    """Either order; runs of three pictures."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(order, "SPAN_BYTES", 3 * split.num_bytes // NUM_TRAIN)
        yield LoaderOptions(batch_size=8, image_size=32, order=request.param, seed=3, threads=1)


@pytest.fixture(scope="module")
def expected(split, options):
    return stream(split, options, 0, 7)


def test_a_batch_is_uint8_pictures_with_their_labels(expected):
    batch = expected[0]
    assert batch.images.shape == (8, 32, 32, 3) and batch.images.dtype == np.uint8
    assert batch.weights.tolist() == [1] * 8
    assert 0 < sum(b.mirror.sum() for b in expected) < 56
    colours = batch.images.mean(axis=(1, 2)).argmax(axis=1)
    assert [c for c, y in zip(colours, batch.labels, strict=True) if y < 3] == [
        y for y in batch.labels if y < 3
    ]


@pytest.mark.parametrize("threads", [2, 4])
def test_threads_change_nothing(split, options, expected, threads):
    assert same(stream(split, dataclasses.replace(options, threads=threads), 0, 7), expected)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_worker_processes_change_nothing(split, options, expected, workers):
    assert same(stream(split, dataclasses.replace(options, workers=workers), 2, 7), expected[2:])


# What users type where no `if __name__ == "__main__":` stands before it, after JAX has started.
CELL = """
import sys, jax
from i21k.data.format.splits import open_split
from i21k.data.load import loader
jax.block_until_ready(jax.jit(lambda x: x + 1)(1))
split = open_split({directory!r}, "train")
with loader.batches(split, loader.LoaderOptions(8, 32, seed=3, workers=2), 0, 4) as batches:
    print("sums:", *(int(batch.images.sum()) for batch in batches))

"""


def in_a_python(arguments, cell):
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", *arguments]
    done = subprocess.run(
        command,
        input=cell,
        env=env,
        text=True,
        timeout=60,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def in_a_notebook(cell, monkeypatch):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    nbclient.NotebookClient(notebook, timeout=60).execute()
    return "".join(output.text for output in notebook.cells[0].outputs if output.name == "stdout")


@pytest.mark.parametrize("where", ["script", "standard input", "interactive", "notebook"])
def test_worker_processes_start_from_anywhere(dataset, split, tmp_path, monkeypatch, where):
    cell = CELL.format(directory=str(dataset))
    (tmp_path / "script.py").write_text(cell)
    if where == "notebook":
        said = in_a_notebook(cell, monkeypatch)
    else:
        said = in_a_python(
            {
                "script": [str(tmp_path / "script.py")],
                "standard input": ["-"],
                "interactive": ["-i", "-q"],
            }[where],
            cell,
        )
    expected = [
        int(batch.images.sum())
        for batch in stream(split, LoaderOptions(8, 32, seed=3, threads=1), 0, 4)
    ]
    assert f"sums: {' '.join(map(str, expected))}\n" in said


def test_worker_processes_hold_no_jax(split):
    """Nor what brings it, such as Grain: 146 MB each."""
    with loader.batches(split, LoaderOptions(8, 32, workers=1), 0, 9) as batches:
        next(batches)
        (worker,) = multiprocessing.active_children()
        maps = Path(f"/proc/{worker.pid}/maps").read_text()
    assert "array_record" in maps and "jaxlib" not in maps and "grain" not in maps


def test_hosts_share_the_stream_and_read_their_part(split, options, expected, monkeypatch):
    decode, decoded = decode_example, []
    monkeypatch.setattr(builder, "decode_example", lambda raw: decoded.append(raw) or decode(raw))
    parts = [
        stream(split, dataclasses.replace(options, host=h, num_hosts=4), 0, 7) for h in range(4)
    ]
    assert len(decoded) == 7 * 8
    for step, whole in enumerate(expected):
        assert whole.others is None  # no image has several labels
        for field, array in zip(whole._fields[:-1], whole[:-1], strict=True):
            assert np.array_equal(
                np.concatenate([getattr(part[step], field) for part in parts]), array
            )


def test_alternating_mirrors_show_each_record_both_ways_in_two_epochs(split, options):
    """And the crops are the same as with random mirrors."""
    alternating = dataclasses.replace(options, mirror_order="alternating")
    batches, random = (stream(split, o, 0, 11) for o in (alternating, options))
    assert all(np.array_equal(a.images, b.images) for a, b in zip(batches, random, strict=True))
    records = builder.make_order(split, options)(np.arange(88))
    flags = dict[int, list[bool]]()
    for record, flag in zip(records, np.concatenate([b.mirror for b in batches]), strict=True):
        flags.setdefault(record, []).append(bool(flag))
    assert sorted(flags) == list(range(NUM_TRAIN))
    assert all(sorted(both) == [False, True] for both in flags.values())
    assert 0 < sum(both[0] for both in flags.values()) < NUM_TRAIN
    other = dataclasses.replace(alternating, seed=4)
    first = builder.make_order(split, other)(np.arange(8))
    again = dict(zip(first, stream(split, other, 0, 1)[0].mirror.tolist(), strict=True))
    assert any(again[record] != flags[record][0] for record in again)  # another half


def test_mirroring_on_the_host_is_what_the_flags_ask_for(split, options, expected):
    for flagged, done in zip(
        expected, stream(split, dataclasses.replace(options, mirror_on="host"), 0, 7), strict=True
    ):
        assert np.array_equal(
            np.where(
                flagged.mirror[:, None, None, None], flagged.images[:, :, ::-1], flagged.images
            ),
            done.images,
        )
        assert not done.mirror.any()


def test_hands_and_their_memory_are_described(split):
    threads, workers = LoaderOptions(128, 224, threads=2), LoaderOptions(128, 224, workers=2)
    assert (
        loader.describe_workers(threads) == "2 loader threads, batches of 18.4 MiB: at most 147 MiB"
    )
    assert (
        loader.describe_workers(workers)
        == "2 loader processes, batches of 18.4 MiB: at most 184 MiB"
    )
    assert loader.describe_workers(LoaderOptions(8, 32)).startswith(
        f"{len(os.sched_getaffinity(0))} loader threads"
    )


def test_resuming_at_any_step_is_the_same_stream(split, options, expected):
    for start in (1, 4, 6):
        assert same(stream(split, options, start, 7), expected[start:])


def test_other_seeds_are_other_streams(split, options, expected):
    assert not same(stream(split, dataclasses.replace(options, seed=4), 0, 7), expected)


def test_windows_are_read_in_runs_once_and_ahead(split, monkeypatch):
    monkeypatch.setattr(order, "SPAN_BYTES", 3 * split.num_bytes // NUM_TRAIN)
    singles, rows = [], []
    one_by_one = RecordReader.__getitem__
    read = SpanReader.read
    monkeypatch.setattr(
        RecordReader, "__getitem__", lambda self, n: singles.append(n) or one_by_one(self, n)
    )
    monkeypatch.setattr(SpanReader, "read", lambda self, *row: rows.append(row) or read(self, *row))
    stream(
        split, LoaderOptions(8, 32, order="windowed", seed=3, threads=1), 0, 5
    )  # 40 of 44 pictures
    assert singles == []
    numbers = [n for first, end in rows for n in range(first, end)]
    # All of the first epoch, and the windows of the second that follow: runs of three, cut where
    # the shares of two lanes meet.
    assert (
        set(numbers) == set(range(NUM_TRAIN))
        and len(numbers) <= 2 * NUM_TRAIN
        and len(rows) < 0.6 * len(numbers)
    )


def test_windows_that_follow_are_read_before_they_are_due(split, monkeypatch):
    rows, read = [], SpanReader.read
    monkeypatch.setattr(SpanReader, "read", lambda self, *row: rows.append(row) or read(self, *row))
    windowed, places = order.WindowedOrder(NUM_TRAIN, 8, 3, 3), np.arange(8)
    ahead = {
        run
        for window in windowed.windows(places)
        for run in windowed.spans(windowed.following(window))
    }
    buffer = WindowBuffer(windowed, split, RecordReader(split))
    buffer.prepare(places)
    end = time.monotonic() + 10
    while not ahead <= set(rows) and time.monotonic() < end:
        time.sleep(0.01)
    buffer.close()
    assert ahead <= set(rows)


def test_evaluation_covers_every_picture_once_and_pads_with_weight_0(dataset):
    split = open_split(dataset, "val")
    options = LoaderOptions(8, 32, crop="centre", mirror=False, order="stored", threads=1)
    batches = stream(split, options)
    weights = np.concatenate([b.weights for b in batches])
    assert len(batches) == 3 and weights.tolist() == [1] * NUM_VAL + [0] * 3
    assert not np.concatenate([b.mirror for b in batches]).any()
    labels = np.concatenate([b.labels for b in batches])[:NUM_VAL]
    assert sorted(labels.tolist()) == sorted(i % 4 for i in range(NUM_VAL))


def test_plain_windows_are_cut_from_the_picture(split):
    batch = stream(split, LoaderOptions(8, 40, crop="plain", crop_fraction=1.0, threads=1), 0, 1)[0]
    assert batch.images.shape == (8, 40, 40, 3)


def test_datasets_that_tfds_wrote_open_too(tmp_path):
    import tensorflow_datasets as tfds

    class Colours(tfds.core.GeneratorBasedBuilder):
        """Two colours as PNG, with a feature that nobody asked for."""

        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
                "id": tfds.features.Text(),
            }
            return self.dataset_info_from_configs(
                features=tfds.features.FeaturesDict(
                    features | {"label": tfds.features.ClassLabel(names=["red", "dark blue"])}
                )
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i in range(10):
                image = np.zeros((12, 12, 3), np.uint8)
                image[..., 2 * (i % 2)] = 200
                png = io.BytesIO(cv2.imencode(".png", image[..., ::-1])[1].tobytes())
                yield i, {"image": png, "id": str(i), "label": i % 2}

    builder = Colours(data_dir=tmp_path, file_format="array_record")
    builder.download_and_prepare()
    split = open_split(builder.data_dir, "train")
    assert split.classes.ids == ("red", "dark blue")
    batch = stream(split, LoaderOptions(10, 32, threads=1))[0]
    assert sorted(batch.labels.tolist()) == [0] * 5 + [1] * 5
    assert (batch.images[..., 0].max(axis=(1, 2)) == np.where(batch.labels == 0, 200, 0)).all()


def test_a_damaged_record_is_named(tmp_path, options):
    directory = write_dataset(tmp_path / "d", {"train": NUM_TRAIN})
    path = open_split(directory, "train").shard_paths[1]
    content = bytearray(path.read_bytes())
    at = content.find(b"\xff\xd8\xff")
    content[at + 200] ^= 1
    path.write_bytes(content)
    damaged = open_split(directory, "train")
    with pytest.raises(ValueError, match=r"record \d+ of .*-00001-of-00003: it cannot be read"):
        stream(damaged, options, 0, 6)
    with pytest.raises(ValueError, match=r"records 0 to \d+ of .*-00001-of-00003 cannot be read"):
        SpanReader(damaged, 10**6).read(0, NUM_TRAIN)
    reader = SpanReader(damaged, 10**6)
    assert [file_name_of(r) for r in reader.read(damaged.num_records - 2, damaged.num_records)] == [
        "train/38.JPEG",
        "train/41.JPEG",
    ]


def test_more_shards_than_files_may_be_open(monkeypatch):
    limits = [(1024, 4096)]
    monkeypatch.setattr(readers.resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(readers.resource, "setrlimit", lambda _, new: limits.append(new))
    allow_open_files(1024)
    assert limits == [(1024, 4096), (1024 + SPARE_FILES, 4096)]
    allow_open_files(1000)
    assert len(limits) == 2
    with pytest.raises(
        ValueError,
        match=r"4,000 shards need 5,024 open files, but this process may open 4,096\. Raise "
        r"the hard limit",
    ):
        allow_open_files(4000)


def test_bad_options_are_refused(split):
    with pytest.raises(
        ValueError, match="batch_size is 6; expected a positive multiple of the 4 hosts"
    ):
        LoaderOptions(6, 32, num_hosts=4)
    with pytest.raises(
        ValueError, match="order is 'sorted'; expected 'global', 'windowed' or 'stored'"
    ):
        LoaderOptions(8, 32, order="sorted")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="crop is 'middle'"):
        LoaderOptions(8, 32, crop="middle")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="mirror_on is 'gpu'"):
        LoaderOptions(8, 32, mirror_on="gpu")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"crop_fraction is 1\.5"):
        LoaderOptions(8, 32, crop_fraction=1.5)
