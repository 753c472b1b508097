"""Shards to batches: pictures read, decoded and cropped by many hands, and the only use of Grain.

The position in the stream is a number. Step `s` covers the places `[sB, (s+1)B)` of an endless stream of epochs, and its batch is a
pure function of (data, options, seed, s): any number of threads, worker processes and hosts gives the same batches, and a run that
comes back after a crash needs to remember `s` alone.
"""

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import grain
import numpy as np
from absl import flags
from jaxtyping import Bool, Float32, Int32, UInt8

from i21k.data import pictures, shards
from i21k.data.order import SHUFFLE_ROUNDS, GlobalOrder, Order, StoredOrder, WindowedOrder, epoch_end, run_length
from i21k.data.windows import WindowBuffer


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
    order: Literal["global", "windowed", "stored"] = "global"  # over all records; runs of neighbours, for slow disks; one epoch as it lies
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
        if self.order not in ("global", "windowed", "stored"):
            raise ValueError(f"order is {self.order!r}; expected 'global', 'windowed' or 'stored'")
        if not 0 < self.crop_fraction <= 1 or not 0 < self.min_area <= 1:
            raise ValueError(f"crop_fraction is {self.crop_fraction}, min_area {self.min_area}; expected both in (0, 1]")


def permute(index: int, size: int, seed: int) -> int:
    """Return the place of `index` in a permutation of `range(size)`."""
    return grain.experimental.index_shuffle(index, max_index=size - 1, seed=seed, rounds=SHUFFLE_ROUNDS)


def make_order(split: shards.Split, options: LoaderOptions) -> Order:
    """Return which records of a split the places of the stream have."""
    if options.order == "stored":
        return StoredOrder(split.num_records)
    if options.order == "global":
        return GlobalOrder(split.num_records, options.seed, permute)
    return WindowedOrder(split.num_records, options.batch_size, options.seed, run_length(split.num_records, split.num_bytes))


def num_threads(threads: int) -> int:
    """Return the number of loader threads that 0 stands for: one a core."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return threads or cores


class BatchBuilder:
    """Build the batch of a step: find its records, draw their crops, read and decode them into one array."""

    def __init__(self, split: shards.Split, options: LoaderOptions) -> None:
        self.split, self.options = split, options
        self._order = make_order(split, options)
        shards.allow_open_files(len(split.shard_paths))
        self._source: Any = grain.sources.ArrayRecordDataSource(
            [_FileInstruction(str(p), 0, n, n) for p, n in zip(split.shard_paths, split.shard_counts, strict=True)]
        )
        self._windows = None
        if isinstance(self._order, WindowedOrder):
            self._source = self._windows = WindowBuffer(self._order, split, self._source)

    def close(self) -> None:
        """End what reads ahead."""
        if self._windows is not None:
            self._windows.close()

    def __call__(self, step: int) -> Batch:
        options = self.options
        places = step * options.batch_size + np.arange(options.batch_size)
        rng = np.random.Generator(np.random.Philox(key=np.array([options.seed, step], np.uint64)))
        mirror = rng.random(options.batch_size) < 0.5 if options.mirror else np.zeros(options.batch_size, bool)
        uniforms = rng.random((options.batch_size, pictures.NUM_DRAWS if options.crop == "region" else 2))
        mine = slice(*(options.batch_size * (options.host + end) // options.num_hosts for end in (0, 1)))
        if self._windows is not None:
            self._windows.prepare(places[mine])
        return self._build(places[mine], mirror[mine], uniforms[mine])

    def _build(self, places: np.ndarray, mirror: np.ndarray, uniforms: np.ndarray) -> Batch:
        options = self.options
        records = self._order(places)  # of an evaluation, which ends after one epoch, fewer: the rest is padding
        # A fresh array for each batch: on the CPU `device_put` aliases it, so it must never be written again.
        images = np.zeros((len(places), options.image_size, options.image_size, 3), np.uint8)
        labels = np.zeros(len(places), np.int32)
        weights = np.zeros(len(places), np.float32)
        if not records:
            return Batch(images, labels, mirror, weights)
        encoded: list[bytes] = []
        sizes = np.empty((len(records), 2), np.int64)
        for i, (number, raw) in enumerate(zip(records, self._read(records), strict=True)):
            with self._blame(number):
                picture, labels[i] = shards.decode_example(raw)
                if not 0 <= labels[i] < len(self.split.classes):
                    raise ValueError(f"label {labels[i]}; expected 0 to {len(self.split.classes) - 1}")
                sizes[i] = pictures.size(picture)
                encoded.append(picture)
        boxes = self._boxes(sizes, uniforms[: len(records)])
        for i, number in enumerate(records):
            with self._blame(number):
                pictures.crop_into(images[i], pictures.decode(encoded[i], *sizes[i].tolist()), boxes[i])
        weights[: len(records)] = 1
        return Batch(images, labels, mirror, weights)

    def _boxes(self, sizes: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
        options = self.options
        if options.crop == "region":
            return pictures.region_boxes(sizes, uniforms, options.min_area)
        return pictures.window_boxes(sizes, options.crop_fraction, uniforms if options.crop == "plain" else 0.5)

    def _read(self, records: list[int]) -> list[bytes]:
        try:
            return self._source.__getitems__(records)
        except (RuntimeError, ValueError, IndexError) as error:
            for number in records:  # one by one, to name the one that fails
                with self._blame(number):
                    try:
                        self._source[number]
                    except (RuntimeError, ValueError, IndexError) as cause:
                        raise ValueError(f"it cannot be read ({cause})") from cause
            raise ValueError(f"a batch of records of {self.split.directory} cannot be read ({error})") from error

    @contextlib.contextmanager
    def _blame(self, number: int) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            shard = int(np.searchsorted(np.cumsum(self.split.shard_counts), number, side="right"))
            place = number - sum(self.split.shard_counts[:shard])
            raise ValueError(f"record {place} of {self.split.shard_paths[shard]}: {error}") from error


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
    builder = BatchBuilder(split, options)
    dataset = grain.MapDataset.range(num_steps).map(builder)[start_step:]
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
        builder.close()


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
