"""Batches and timing of the feed. Times are of sleeps, which a busy machine can only make longer."""

import dataclasses
import threading
import time

import jax
import numpy as np
import pytest

from i21k.data.format.splits import open_split
from i21k.data.load import loader
from i21k.data.load.loader import LoaderOptions
from i21k.train.devices import put_batch
from i21k.train.feed import Feeder


@pytest.fixture(scope="module")
def options():
    return LoaderOptions(batch_size=8, image_size=32, seed=3, threads=1)


@pytest.fixture(scope="module")
def batches(dataset, options):
    with loader.batches(open_split(dataset, "train"), options, 0, 6) as stream:
        return list(stream)


class Produced:
    """An iterator that counts its batches."""

    def __init__(self, batches, seconds=0.0):
        self._batches, self._seconds = iter(batches), seconds
        self.number, self.changed = 0, threading.Condition()

    def __iter__(self):
        return self

    def __next__(self):
        time.sleep(self._seconds)
        batch = next(self._batches)
        with self.changed:
            self.number += 1
            self.changed.notify_all()
        return batch

    def wait_for(self, number):
        with self.changed:
            return self.changed.wait_for(lambda: self.number >= number, timeout=10)


def test_the_next_batch_is_sent_while_nobody_asks_and_only_that_one(batches):
    produced = Produced(batches)
    with Feeder(produced, jax.local_devices()) as feeder:
        for number in (1, 2, 3):
            feeder.take()
            assert produced.wait_for(number + 1)
            time.sleep(0.05)
            assert produced.number == number + 1


def test_leaving_waits_for_the_batch_on_its_way(batches):
    produced = Produced(batches, 0.3)
    with Feeder(produced, jax.local_devices()):
        time.sleep(0.1)
    assert produced.number == 1  # or the loader would be closed under it


def test_each_device_gets_its_part_as_bytes(batches):
    devices = jax.local_devices()
    with Feeder(iter(batches), devices) as feeder:
        host, there = feeder.take()
    assert there.images.dtype == np.uint8 and there.images.shape == (4, 2, 32, 32, 3)
    parts = {shard.device: np.asarray(shard.data) for shard in there.images.addressable_shards}
    for k, device in enumerate(devices):
        assert np.array_equal(parts[device][0], host.images[2 * k : 2 * k + 2])
    assert np.array_equal(np.asarray(there.labels).ravel(), host.labels)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("order", ["global", "windowed"])
def test_what_was_handed_to_a_device_is_never_written_again(dataset, options, workers, order):
    split = open_split(dataset, "train")
    kept, before = [], []
    with loader.batches(
        split, dataclasses.replace(options, workers=workers, order=order, threads=2), 0, 12
    ) as stream:
        for batch in stream:
            kept.append(
                (batch, put_batch(batch, jax.local_devices()).images)
            )  # which aliases the batch on a CPU
            before.append(batch.images.copy())
    for (_, there), images in zip(kept, before, strict=True):
        assert np.array_equal(np.asarray(there).reshape(images.shape), images)
    assert not any(
        np.shares_memory(a[0].images, b[0].images) for i, a in enumerate(kept) for b in kept[:i]
    )


@pytest.mark.parametrize(
    ("data_s", "step_s", "least_s", "most_s"), [(0.1, 0.3, 0, 0.1), (0.3, 0.1, 0.1, 0.3)]
)
def test_only_what_a_step_does_not_hide_is_waited_for(batches, data_s, step_s, least_s, most_s):
    waits = []
    with Feeder(Produced(batches, data_s), jax.local_devices()) as feeder:
        for _ in range(5):
            start = time.perf_counter()
            feeder.take()
            waits.append(time.perf_counter() - start)
            time.sleep(step_s)
    assert waits[0] > 0.5 * data_s  # nothing hides the first
    assert least_s <= np.median(waits[1:]) < most_s
