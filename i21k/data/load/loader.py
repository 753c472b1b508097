"""Shards to batches: pictures read, decoded and cropped by many hands, and the only use of Grain.

The position in the stream is a number. Step `s` covers the places `[sB, (s+1)B)` of an endless stream of epochs, and its batch is a
pure function of (data, options, seed, s): any number of threads, worker processes and hosts gives the same batches, and a run that
comes back after a crash needs to remember `s` alone. That holds for what stands in for a bad record too.

What is read is what ArrayRecord's hashes vouch for, as far as it is needed: of a packed JPEG the rows outside the crop are not decoded, so
damage that was packed there stays unseen. Whole shards that have changed places with equal counts are for `i21k verify` to find.
"""

import contextlib
import dataclasses
import logging
import math
import os
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int32, UInt8

from i21k.data.format.records import decode_example
from i21k.data.format.splits import RecordReader, Split, allow_open_files
from i21k.data.load import slots
from i21k.data.load.order import (
    GlobalOrder,
    Order,
    StoredOrder,
    WindowedOrder,
    epoch_end,
    run_length,
)
from i21k.data.load.windows import Source, WindowBuffer
from i21k.errors import UserError
from i21k.images.boxes import NUM_DRAWS, region_boxes, window_boxes
from i21k.images.decode import cut_into, read_size

_LOG = logging.getLogger(__name__)
MAX_TRIES = 100  # neighbours that are asked to take a bad record's place; chosen here: more are no single faults


class Batch(NamedTuple):
    """One step's pictures on the host."""

    images: UInt8[np.ndarray, "B S S 3"]  # RGB
    labels: Int32[np.ndarray, " B"]
    mirror: Bool[np.ndarray, " B"]  # whether the device shall mirror the picture
    weights: Float32[
        np.ndarray, " B"
    ]  # 1 for a picture, 0 for the padding of an evaluation's last batch


@dataclasses.dataclass(frozen=True)
class LoaderOptions:
    """What determines a batch (up to `seed`), and how many hands make it (the rest, which changes nothing)."""

    batch_size: int  # of all hosts together
    image_size: int  # px
    crop: Literal["region", "plain", "centre"] = (
        "region"  # random 8-100 % of the area; random window; central window
    )
    crop_fraction: float = (
        0.875  # side of a window over the short side of the picture: 224 of 256 px
    )
    min_area: float = 0.08  # of a region, as a fraction of the picture
    mirror: bool = True  # flag half of the pictures
    mirror_on: Literal["device", "host"] = (
        "device"  # where that is done; on the host no flag is left
    )
    order: Literal["global", "windowed", "stored"] = (
        "global"  # over all records; runs of neighbours, for slow disks; one epoch as it lies
    )
    seed: int = 0
    on_bad_record: Literal["stop", "skip"] = "stop"  # skip: the next good record takes its place
    max_bad_fraction: float = (
        0.001  # of the split's records, skipped while the stream is open; more stop it all the same
    )
    threads: int = 0  # of this process that build batches; 0: one a core
    workers: int = 0  # processes that build batches instead, each one at a time
    host: int = 0
    num_hosts: int = 1

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.batch_size % self.num_hosts:
            raise UserError(
                f"batch_size is {self.batch_size}; expected a positive multiple of the {self.num_hosts} hosts"
            )
        if self.crop not in ("region", "plain", "centre"):
            raise UserError(f"crop is {self.crop!r}; expected 'region', 'plain' or 'centre'")
        if self.mirror_on not in ("device", "host"):
            raise UserError(f"mirror_on is {self.mirror_on!r}; expected 'device' or 'host'")
        if self.order not in ("global", "windowed", "stored"):
            raise UserError(f"order is {self.order!r}; expected 'global', 'windowed' or 'stored'")
        if self.on_bad_record not in ("stop", "skip"):
            raise UserError(f"on_bad_record is {self.on_bad_record!r}; expected 'stop' or 'skip'")
        if self.on_bad_record == "skip" and self.order == "stored":
            raise UserError(
                "on_bad_record is 'skip' in stored order; expected 'stop', since an evaluation counts every picture once"
            )
        if not 0 < self.crop_fraction <= 1 or not 0 < self.min_area <= 1:
            raise UserError(
                f"crop_fraction is {self.crop_fraction}, min_area {self.min_area}; expected both in (0, 1]"
            )


def make_order(split: Split, options: LoaderOptions) -> Order:
    """Return which records of a split the places of the stream have."""
    if options.order == "stored":
        return StoredOrder(split.num_records)
    if options.order == "global":
        return GlobalOrder(split.num_records, options.seed)
    return WindowedOrder(
        split.num_records,
        options.batch_size,
        options.seed,
        run_length(split.num_records, split.num_bytes),
    )


def describe_hands(options: LoaderOptions) -> str:
    """Return who builds the batches, and the most memory that these take, whatever the length of the run."""
    bytes_per_batch = math.prod(batch_shape(options))
    if options.workers:
        hands, num_bytes = (
            f"{options.workers} loader processes",
            slots.memory_bytes(options.workers, batch_shape(options)),
        )
    else:
        threads = num_threads(options.threads)
        hands, num_bytes = f"{threads} loader threads", (threads + 2 + slots.HELD) * bytes_per_batch
    return f"{hands}, batches of {bytes_per_batch / 2**20:,.1f} MiB: at most {num_bytes / 2**20:,.0f} MiB"


def num_threads(threads: int) -> int:
    """Return the number of loader threads that 0 stands for: one a core."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return threads or cores


class Built(NamedTuple):
    """What comes of a step: its batch, and of each record that another one stands in for, what is wrong with it."""

    batch: Batch
    bad: tuple[str, ...]


class BatchBuilder:
    """Build the batch of a step: find its records, draw their crops, read and decode them into one array."""

    def __init__(self, split: Split, options: LoaderOptions) -> None:
        self.split, self.options = split, options
        self._order = make_order(split, options)
        allow_open_files(len(split.shard_paths))
        self._records = RecordReader(split)
        self._windows = (
            WindowBuffer(self._order, split, self._records)
            if isinstance(self._order, WindowedOrder)
            else None
        )
        self._source: Source = self._windows or self._records

    def close(self) -> None:
        """End what reads ahead."""
        if self._windows is not None:
            self._windows.close()

    def __call__(self, step: int, images: np.ndarray | None = None) -> Built:
        """Build the batch of `step`, its pictures in `images` if that is given."""
        options = self.options
        places = step * options.batch_size + np.arange(options.batch_size)
        rng = np.random.Generator(np.random.Philox(key=np.array([options.seed, step], np.uint64)))
        mirror = (
            rng.random(options.batch_size) < 0.5
            if options.mirror
            else np.zeros(options.batch_size, bool)
        )
        uniforms = rng.random((options.batch_size, NUM_DRAWS if options.crop == "region" else 2))
        mine = slice(
            *(options.batch_size * (options.host + end) // options.num_hosts for end in (0, 1))
        )
        if self._windows is not None:
            self._windows.prepare(places[mine])
        # A fresh array for each batch: on the CPU `device_put` aliases it, so it must never be written again.
        images = np.empty(batch_shape(options), np.uint8) if images is None else images
        return self._build(places[mine], mirror[mine], uniforms[mine], images)

    def _build(
        self, places: np.ndarray, mirror: np.ndarray, uniforms: np.ndarray, images: np.ndarray
    ) -> Built:
        options = self.options
        records = self._order(
            places
        )  # of an evaluation, which ends after one epoch, fewer: the rest is padding
        num_real = len(records)
        images[num_real:] = 0
        labels = np.zeros(len(places), np.int32)
        weights = (np.arange(len(places)) < num_real).astype(np.float32)
        here, flags = (
            (mirror, np.zeros_like(mirror))
            if options.mirror_on == "host"
            else (np.zeros_like(mirror), mirror)
        )
        bad: list[str] = []
        found = [self._fetch(number, bad) for number in records]
        boxes = self._boxes([picture.size for picture in found], uniforms[:num_real])
        for i, (picture, box, flip) in enumerate(zip(found, boxes, here.tolist(), strict=False)):
            labels[i] = picture.label
            try:
                cut_into(images[i], picture.encoded, picture.size, box, mirror=flip)
            except ValueError as error:
                labels[i] = self._cut_neighbour(
                    images[i], picture.number, error, uniforms[i], flip, bad
                )
        return Built(Batch(images, labels, flags, weights), tuple(bad))

    def _fetch(self, number: int, bad: list[str]) -> "_Picture":
        """Read a record, or the next good one if it may be skipped."""
        for _ in range(MAX_TRIES):
            try:
                encoded, label = decode_example(self._source[number])
                if not 0 <= label < len(self.split.classes):
                    raise UserError(f"label {label}; expected 0 to {len(self.split.classes) - 1}")
                return _Picture(number, encoded, label, read_size(encoded))
            except ValueError as error:
                number = self._neighbour(number, error, bad)
        raise UserError(
            f"{bad[-1]}; so are the {MAX_TRIES - 1} records before it: this is more than single bad records"
        )

    def _cut_neighbour(
        self,
        out: np.ndarray,
        number: int,
        error: ValueError,
        uniforms: np.ndarray,
        flip: bool,
        bad: list[str],
    ) -> int:
        """Put another picture in the place of one that does not decode, and return its label."""
        for _ in range(MAX_TRIES):
            picture = self._fetch(self._neighbour(number, error, bad), bad)
            try:
                cut_into(
                    out,
                    picture.encoded,
                    picture.size,
                    self._boxes([picture.size], uniforms[None])[0],
                    mirror=flip,
                )
                return picture.label
            except ValueError as another:
                number, error = picture.number, another
        raise UserError(
            f"{bad[-1]}; so are the {MAX_TRIES - 1} records before it: this is more than single bad records"
        )

    def _neighbour(self, number: int, error: ValueError, bad: list[str]) -> int:
        """Note a bad record and return the one after it, or stop here, as the options say."""
        shard, place = self._records.find(number)
        text = f"record {place} of {self.split.shard_paths[shard]}: {error}"
        if self.options.on_bad_record == "stop":
            raise UserError(text) from error
        bad.append(text)
        return (number + 1) % self.split.num_records

    def _boxes(
        self, sizes: list[tuple[int, int]], uniforms: np.ndarray
    ) -> list[tuple[int, int, int, int]]:
        options, array = self.options, np.array(sizes).reshape(-1, 2)
        if options.crop == "region":
            return region_boxes(array, uniforms, options.min_area).tolist()
        return window_boxes(
            array, options.crop_fraction, uniforms if options.crop == "plain" else 0.5
        ).tolist()


class _Picture(NamedTuple):
    """A record, not decoded yet."""

    number: int
    encoded: bytes
    label: int
    size: tuple[int, int]


def batch_shape(options: LoaderOptions) -> tuple[int, int, int, int]:
    """Return the shape of one host's part of the pictures of a batch."""
    return options.batch_size // options.num_hosts, options.image_size, options.image_size, 3


@contextlib.contextmanager
def batches(
    split: Split,
    options: LoaderOptions,
    start_step: int = 0,
    num_steps: int | None = None,
    say: Callable[[str], None] = _LOG.warning,
) -> Iterator[Iterator[Batch]]:
    """Open the stream of batches from `start_step` up to `num_steps` (of the whole stream; None: one epoch).

    Args:
        split: to read.
        options: what to make of it.
        start_step: of the first batch.
        num_steps: after the last batch, counted from the first of the whole stream; None: one epoch.
        say: called with a line for every record that is skipped.

    Raises:
        ValueError: on the batch whose record cannot be read, naming shard and record; or if a worker process dies.
    """
    if num_steps is None:
        num_steps = epoch_end(0, split.num_records, options.batch_size)
    builder, steps = BatchBuilder(split, options), range(start_step, num_steps)
    stream: Any
    if options.workers:
        stream = slots.build_in_processes(builder, steps, options.workers, batch_shape(options))
    else:
        import grain  # here, since worker processes import this module: with Grain come JAX and Orbax, 146 MB

        threads = num_threads(options.threads)
        dataset = grain.MapDataset.range(num_steps).map(builder)[start_step:]
        stream = iter(
            dataset.to_iter_dataset(
                grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + 1)
            )
        )
    try:
        yield _count_bad(_own_words(stream), split, options, say)
    finally:
        stream.close()
        builder.close()


def _own_words(stream: Iterator[Built]) -> Iterator[Built]:
    """Take away what Grain adds to the text of an error: lines about its own transformations."""
    try:
        yield from stream
    except ValueError as error:
        raise UserError(str(error).partition("\n" + "-" * 20)[0]) from error


def _count_bad(
    stream: Iterator[Built], split: Split, options: LoaderOptions, say: Callable[[str], None]
) -> Iterator[Batch]:
    num_bad = 0
    for batch, bad in stream:
        for text in bad:
            num_bad += 1
            say(f"skipped, the {num_bad:,}. so far: {text}")
        if (
            num_bad * options.num_hosts > options.max_bad_fraction * split.num_records
        ):  # each host sees its part
            raise UserError(
                f"{num_bad:,} bad records of {split.directory} were skipped, the last one {bad[-1]}; expected at most"
                f" {options.max_bad_fraction:g} of {split.num_records:,} records; look with: i21k verify {split.directory} --all"
            )
        yield batch
