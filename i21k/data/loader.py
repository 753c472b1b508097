"""Shards to batches: which record is at which place of the stream, and the only use of Grain.

The position in the stream is a number. Step `s` covers the places `[sB, (s+1)B)` of an endless stream of epochs, and its batch is a
pure function of (data, options, seed, s): any number of threads, worker processes and hosts gives the same batches, and a run that
comes back after a crash needs to remember `s` alone.
"""

import contextlib
import dataclasses
import hashlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from typing import Literal, NamedTuple

import grain
import numpy as np
from absl import flags
from jaxtyping import Bool, Float32, Int, Int32, UInt8

from i21k.data import pictures, shards

SHUFFLE_ROUNDS = 8  # Grain's own shuffle hard-codes 4, which leaves batches of 14 M records over-dispersed


class Batch(NamedTuple):
    """One step's pictures on the host."""

    images: UInt8[np.ndarray, "B S S 3"]  # RGB
    labels: Int32[np.ndarray, " B"]
    mirror: Bool[np.ndarray, " B"]  # whether the device shall mirror the picture
    weights: Float32[np.ndarray, " B"]  # 1 for a picture, 0 for the padding of an evaluation's last batch


@dataclasses.dataclass(frozen=True)
class LoaderOptions:
    """What determines a batch (up to `seed`), and how many hands make it (the rest, which changes nothing)."""

    batch_size: int  # of all hosts together
    image_size: int  # px
    crop: Literal["region", "plain", "centre"] = "region"  # random 8-100 % of the area; random window; central window
    crop_fraction: float = 0.875  # side of a window over the short side of the picture: 224 of 256 px
    min_area: float = 0.08  # of a region, as a fraction of the picture
    mirror: bool = True  # flag half of the pictures
    mirror_on: Literal["device", "host"] = "device"  # where that is done; on the host no flag is left
    shuffle: bool = True
    seed: int = 0
    threads: int = 0  # that build batches, in each process; 0: one per core
    workers: int = 0  # processes; 0: threads of this process
    host: int = 0
    num_hosts: int = 1

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.batch_size % self.num_hosts:
            raise ValueError(f"batch_size is {self.batch_size}; expected a positive multiple of the {self.num_hosts} hosts")
        if self.crop not in ("region", "plain", "centre"):
            raise ValueError(f"crop is {self.crop!r}; expected 'region', 'plain' or 'centre'")
        if self.mirror_on not in ("device", "host"):
            raise ValueError(f"mirror_on is {self.mirror_on!r}; expected 'device' or 'host'")
        if not 0 < self.crop_fraction <= 1 or not 0 < self.min_area <= 1:
            raise ValueError(f"crop_fraction is {self.crop_fraction}, min_area {self.min_area}; expected both in (0, 1]")


def epoch_end(epoch: int, num_records: int, batch_size: int) -> int:
    """Return the number of steps after which `epoch` (from 0) is over: the first that reaches `(epoch + 1) * num_records` places."""
    return -((epoch + 1) * num_records // -batch_size)


def record_numbers(places: Int[np.ndarray, " n"], num_records: int, seed: int) -> list[int]:
    """Return the record at each place of the endless shuffled stream; every epoch is a permutation of its own.

    Args:
        places: from 0; place `p` lies in epoch `p // num_records`.
        num_records: of the split.
        seed: of the run. Neighbouring seeds share nothing: each epoch's key is a hash.
    """
    keys = {epoch: _epoch_key(seed, epoch) for epoch in np.unique(places // num_records).tolist()}
    return [
        grain.experimental.index_shuffle(p % num_records, max_index=num_records - 1, seed=keys[p // num_records], rounds=SHUFFLE_ROUNDS)
        for p in places.tolist()
    ]


def _epoch_key(seed: int, epoch: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{epoch}".encode()).digest()[:4], "little")


def num_threads(threads: int) -> int:
    """Return the number of loader threads that 0 stands for: one a core."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return threads or cores


class BatchBuilder:
    """Build the batch of a step: find its records, draw their crops, read and decode them into one array."""

    def __init__(self, split: shards.Split, options: LoaderOptions) -> None:
        self.split, self.options = split, options
        self._source = grain.sources.ArrayRecordDataSource(
            [_FileInstruction(str(p), 0, n, n) for p, n in zip(split.shard_paths, split.shard_counts, strict=True)]
        )

    def __call__(self, step: int) -> Batch:
        options = self.options
        places = step * options.batch_size + np.arange(options.batch_size)
        rng = np.random.Generator(np.random.Philox(key=np.array([options.seed, step], np.uint64)))
        mirror = rng.random(options.batch_size) < 0.5 if options.mirror else np.zeros(options.batch_size, bool)
        uniforms = rng.random((options.batch_size, pictures.NUM_DRAWS if options.crop == "region" else 2))
        mine = slice(*(options.batch_size * (options.host + end) // options.num_hosts for end in (0, 1)))
        return self._build(places[mine], mirror[mine], uniforms[mine])

    def _build(self, places: np.ndarray, mirror: np.ndarray, uniforms: np.ndarray) -> Batch:
        options, num_records = self.options, self.split.num_records
        # An evaluation, which does not shuffle, ends after one epoch; what lies behind it is padding.
        in_order = [p for p in places.tolist() if p < num_records]
        records = record_numbers(places, num_records, options.seed) if options.shuffle else in_order
        # A fresh array for each batch: on the CPU `device_put` aliases it, so it must never be written again.
        images = np.zeros((len(places), options.image_size, options.image_size, 3), np.uint8)
        labels = np.zeros(len(places), np.int32)
        weights = np.zeros(len(places), np.float32)
        if not records:
            return Batch(images, labels, mirror, weights)
        encoded, found, sizes = zip(*map(self._fetch, records), strict=True)
        labels[: len(records)] = found
        boxes = self._boxes(np.array(sizes), uniforms[: len(records)]).tolist()
        here, mirror = (mirror, np.zeros_like(mirror)) if options.mirror_on == "host" else (np.zeros_like(mirror), mirror)
        for number, image, flip, *picture in zip(records, images, here.tolist(), encoded, sizes, boxes, strict=False):
            try:
                pictures.cut_into(image, *picture, mirror=flip)
            except ValueError as error:
                raise self._blamed(number, error) from error
        weights[: len(records)] = 1
        return Batch(images, labels, mirror, weights)

    def _fetch(self, number: int) -> tuple[bytes, int, tuple[int, int]]:
        """Return the file, the label and the size of a record's picture, not decoded yet."""
        try:
            encoded, label = shards.decode_example(self._read(number))
            if not 0 <= label < len(self.split.classes):
                raise ValueError(f"label {label}; expected 0 to {len(self.split.classes) - 1}")
            return encoded, label, pictures.size(encoded)
        except ValueError as error:
            raise self._blamed(number, error) from error

    def _boxes(self, sizes: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
        options = self.options
        if options.crop == "region":
            return pictures.region_boxes(sizes, uniforms, options.min_area)
        return pictures.window_boxes(sizes, options.crop_fraction, uniforms if options.crop == "plain" else 0.5)

    def _read(self, number: int) -> bytes:
        try:
            return self._source[number]  # `__getitems__` makes threads for every batch: 3 to 9 times the CPU time a record
        except (RuntimeError, ValueError, IndexError) as error:
            raise ValueError(f"it cannot be read ({error})") from error

    def _blamed(self, number: int, error: ValueError) -> ValueError:
        shard = int(np.searchsorted(np.cumsum(self.split.shard_counts), number, side="right"))
        place = number - sum(self.split.shard_counts[:shard])
        return ValueError(f"record {place} of {self.split.shard_paths[shard]}: {error}")


class _FileInstruction(NamedTuple):
    """What ArrayRecord wants to know of a shard, so that it opens none before it is read."""

    filename: str
    skip: int
    take: int
    examples_in_shard: int


@contextlib.contextmanager
def batches(split: shards.Split, options: LoaderOptions, start_step: int = 0, num_steps: int | None = None) -> Iterator[Iterator[Batch]]:
    """Open the stream of batches from `start_step` up to `num_steps` (of the whole stream; None: one epoch).

    Raises:
        ValueError: on the batch whose record cannot be read, naming shard and record.
    """
    if num_steps is None:
        num_steps = epoch_end(0, split.num_records, options.batch_size)
    threads = num_threads(options.threads)
    dataset = grain.MapDataset.range(num_steps).map(BatchBuilder(split, options))[start_step:]
    stream = dataset.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + 1))
    if options.workers:
        if not flags.FLAGS.is_parsed():  # in notebooks and under pytest; Grain reads a flag of its own
            flags.FLAGS.mark_as_parsed()
        stream = stream.mp_prefetch(grain.MultiprocessingOptions(options.workers, per_worker_buffer_size=1), worker_init_fn=_init_worker)
    iterator = iter(stream)
    try:
        yield iterator
    finally:
        iterator.close()


def _init_worker(index: int, count: int) -> None:
    """Let the parent decide when to stop: a Ctrl-C or SIGTERM to the process group must not take the workers from under it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="end-with-parent", daemon=True).start()


def _end_with_parent() -> None:
    """Leave when the parent is gone; Grain's workers outlive a parent that was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
