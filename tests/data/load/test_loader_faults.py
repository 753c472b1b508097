"""What becomes of a stream of batches when data, processes or memory fail: an error that names it,
soon, and nothing left behind."""

import contextlib
import dataclasses
import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from i21k.data.format import shards
from i21k.data.format.records import encode_example
from i21k.data.format.splits import Split, open_split
from i21k.data.format.tfds import write_metadata
from i21k.data.load import builder, loader, slots
from i21k.data.load.loader import LoaderOptions
from i21k.data.load.order import GlobalOrder
from tests.helpers.batches import same, stream
from tests.helpers.datasets import CLASSES, NUM_TRAIN, make_image, write_dataset
from tests.helpers.paths import ROOT

OPTIONS = LoaderOptions(batch_size=8, image_size=32, seed=3, threads=1)
WORKERS = [{"threads": 1}, {"threads": 2}, {"workers": 1}, {"workers": 2}]
STEPS = 6  # which visit all records
BAD = {
    5: "undecodable",
    6: "label",
    20: "no picture",
    43: "undecodable",
}  # the last one's neighbour is the first record


@pytest.fixture(autouse=True)
def clean():
    """No fault leaves processes behind."""
    yield
    assert not multiprocessing.active_children()


@contextlib.contextmanager
def refused_soon(match: str):
    """Expect an error within 10 s, and within 30 if workers have to start first: two seconds on an
    idle machine."""
    start, with_workers = time.perf_counter(), not multiprocessing.active_children()
    with pytest.raises(ValueError, match=match):
        yield
    assert time.perf_counter() - start < (30 if with_workers else 10)


def write_records(directory: Path, bad: dict[int, str]) -> Split:
    """Write records with their own number as label in one shard, some of them bad."""
    records = []
    for i in range(NUM_TRAIN):
        jpeg = simplejpeg.encode_jpeg(make_image(i % 4, i), quality=90)
        kind = bad.get(i)
        encoded = (
            jpeg[:-20] if kind == "undecodable" else b"<html>" if kind == "no picture" else jpeg
        )
        records.append(encode_example(encoded, 4 if kind == "label" else i % 4, f"{i}.JPEG"))
    directory.mkdir()
    shard = shards.write_shard(directory / shards.shard_name("tiny", "train", 0, 1), records)
    write_metadata(directory, "tiny", CLASSES, {"train": (shard,)})
    return open_split(directory, "train")


@pytest.mark.parametrize("workers", WORKERS[::2], ids=str)
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            "undecodable",
            r"record 5 of .*tiny-train.array_record-00000-of-00001: "
            r".*(?i:truncated|premature|end of)",
        ),
        ("label", r"record 5 of .*-00000-of-00001: label 4; expected 0 to 3$"),
        ("no picture", r"record 5 of .*-00000-of-00001: 6 bytes that are not an image"),
    ],
)
def test_a_bad_record_stops_the_stream_and_is_named(tmp_path, kind, message, workers):
    split = write_records(tmp_path / "d", {5: kind})
    with refused_soon(message):
        stream(split, dataclasses.replace(OPTIONS, **workers), 0, STEPS)


@pytest.mark.parametrize("workers", WORKERS[::2], ids=str)
@pytest.mark.parametrize("fault", ["truncated", "empty", "missing", "swapped"])
def test_a_shard_that_fails_while_a_run_reads_is_named(tmp_path, fault, workers):
    directory = write_dataset(tmp_path / "d", {"train": NUM_TRAIN})
    split = open_split(directory, "train")
    path = split.shard_paths[0]
    if fault == "swapped":  # with the last one, which has a record less
        path.rename(tmp_path / "other")
        split.shard_paths[2].rename(path)
        (tmp_path / "other").rename(split.shard_paths[2])
    elif fault == "missing":
        path.unlink()
    else:
        os.truncate(path, 0 if fault == "empty" else path.stat().st_size // 2)
    damage = "(: it cannot be read| was changed, replaced or removed)"
    with refused_soon(rf"-00000-of-00003{damage}"):
        stream(split, dataclasses.replace(OPTIONS, **workers), 0, STEPS)


def test_the_next_good_record_replaces_a_skipped_one(tmp_path):
    whole = stream(write_records(tmp_path / "whole", {}), OPTIONS, 0, STEPS)
    split = write_records(tmp_path / "d", BAD)
    skipping = dataclasses.replace(OPTIONS, on_bad_record="skip", max_bad_fraction=0.2)
    said: list[str] = []
    with loader.batches(split, skipping, 0, STEPS, said.append) as batches:
        expected = list(batches)
    numbers = np.array(GlobalOrder(NUM_TRAIN, 3)(np.arange(8 * STEPS)))
    stands_in = np.array([{5: 7, 6: 7, 20: 21, 43: 0}.get(n, n) for n in numbers])
    assert np.array_equal(np.concatenate([b.labels for b in expected]), stands_in % 4)
    untouched = ~np.isin(numbers, list(BAD))
    images, before = (np.concatenate([b.images for b in batches]) for batches in (expected, whole))
    assert np.array_equal(images[untouched], before[untouched]) and not np.array_equal(
        images, before
    )
    assert all(weight == 1 for b in expected for weight in b.weights)
    assert said[0].startswith("skipped bad record 1: record ") and {
        line.split(": record ")[1].split(" of")[0] for line in said
    } == {str(n) for n in BAD}
    for workers in WORKERS[1:]:
        again: list[str] = []
        with loader.batches(
            split, dataclasses.replace(skipping, **workers), 0, STEPS, again.append
        ) as batches:
            assert same(list(batches), expected) and again == said
    hosts = [
        stream(split, dataclasses.replace(skipping, host=h, num_hosts=2), 0, STEPS)
        for h in range(2)
    ]
    assert all(
        np.array_equal(np.concatenate([one.images, two.images]), b.images)
        for one, two, b in zip(*hosts, expected, strict=True)
    )
    assert same(stream(split, skipping, 3, STEPS), expected[3:])


def test_too_many_bad_records_stop_the_stream_all_the_same(tmp_path, monkeypatch):
    split = write_records(tmp_path / "d", BAD)
    with pytest.raises(
        ValueError,
        match=r"bad records of .* were skipped, the last one record \d+ of .*at most 0.02 of "
        r"44 records\. Find",
    ):
        stream(
            split,
            dataclasses.replace(OPTIONS, on_bad_record="skip", max_bad_fraction=0.02),
            0,
            STEPS,
        )
    monkeypatch.setattr(builder, "MAX_TRIES", 2)
    for kind in ("undecodable", "no picture"):
        split = write_records(tmp_path / kind, dict.fromkeys(range(10, 30), kind))
        with pytest.raises(
            ValueError,
            match=r"record \d+ of .*; so are the 1 records before it: this is more than single",
        ):
            stream(
                split,
                dataclasses.replace(OPTIONS, on_bad_record="skip", max_bad_fraction=0.9),
                0,
                STEPS,
            )


def test_a_host_counts_bad_records_as_if_all_had_as_many(tmp_path):
    split = write_records(tmp_path / "d", BAD)
    options = dataclasses.replace(
        OPTIONS, on_bad_record="skip", max_bad_fraction=0.1, num_hosts=2
    )  # four of 44
    stream(split, dataclasses.replace(options, host=0), 0, STEPS)  # meets two
    with pytest.raises(ValueError, match=r"\d bad records of .* were skipped"):
        stream(split, dataclasses.replace(options, host=1), 0, STEPS)  # meets four


def test_an_evaluation_skips_nothing():
    with pytest.raises(
        ValueError, match="on_bad_record is 'skip' in stored order; expected 'stop'"
    ):
        LoaderOptions(8, 32, order="stored", on_bad_record="skip")
    with pytest.raises(ValueError, match="on_bad_record is 'ignore'; expected 'stop' or 'skip'"):
        LoaderOptions(8, 32, on_bad_record="ignore")  # type: ignore[arg-type]


def test_a_killed_worker_ends_the_stream(dataset):
    split = open_split(dataset, "train")
    with loader.batches(split, dataclasses.replace(OPTIONS, workers=2), 0, 10**6) as batches:
        next(batches)
        victim = multiprocessing.active_children()[0]
        for pid in (
            os.getpid(),
            victim.pid,
        ):  # batches have no name there, so none can be left or find it full
            maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
            assert not [
                line for line in maps if "/dev/shm" in line and not line.endswith("(deleted)")
            ]
        os.kill(victim.pid, signal.SIGKILL)
        with refused_soon(
            "a worker process ended with exit code -9. -9 usually means out of memory"
        ):
            for _ in batches:
                pass


def test_no_memory_for_batches_is_said_before_anything_starts(dataset, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(
        ValueError,
        match=r"no 0 MiB of memory for batches \(.*No space left.*\)\. Use fewer workers or a "
        r"smaller",
    ):
        stream(open_split(dataset, "train"), dataclasses.replace(OPTIONS, workers=1), 0, 2)


def test_a_slot_is_not_written_again_while_an_array_shows_it(dataset):
    split, options = open_split(dataset, "train"), dataclasses.replace(OPTIONS, workers=1)
    expected = stream(split, OPTIONS, 0, 30)
    with loader.batches(split, options, 0, 30) as batches:
        kept = [
            next(batches).images[3:5] for _ in range(30)
        ]  # views, more of them than there are slots
        assert all(
            np.array_equal(view, b.images[3:5]) for view, b in zip(kept, expected, strict=True)
        )
    with loader.batches(split, options, 0, 30) as batches:  # those that nobody keeps go round
        addresses = {next(batches).images.ctypes.data for _ in range(30)}
    assert len(addresses) <= 3 + slots.HELD
    assert all(np.array_equal(view, b.images[3:5]) for view, b in zip(kept, expected, strict=True))


SCRIPT = """
import multiprocessing, sys, time
from i21k.data.format.splits import open_split
from i21k.data.load import loader
split = open_split(sys.argv[1], "train")
with loader.batches(split, loader.LoaderOptions(8, 32, workers=2), 0, int(sys.argv[2])) as batches:
    next(batches)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    for batch in batches:
        pass
"""


def start(tmp_path: Path, dataset: Path, num_steps: int) -> subprocess.Popen:
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [
        sys.executable,
        "-W",
        "default",
        str(tmp_path / "script.py"),
        str(dataset),
        str(num_steps),
    ]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_nothing_is_left_and_nothing_warned_of_after_a_clean_end(tmp_path, dataset):
    running = start(tmp_path, dataset, 9)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 0 and "leaked" not in errors and "Traceback" not in errors


def test_workers_end_with_a_parent_that_is_killed(tmp_path, dataset):
    running = start(tmp_path, dataset, 10**9)
    assert running.stdout is not None
    pids = [int(pid) for pid in running.stdout.readline().split()]
    assert len(pids) == 2
    running.kill()
    running.communicate(timeout=10)  # ends when the workers, which hold the pipes too, have ended
    assert not any(
        Path(f"/proc/{pid}").exists()
        and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]
        for pid in pids
    )
