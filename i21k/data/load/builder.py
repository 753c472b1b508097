"""Build the batch of a step: find its records, draw its crops, read and decode.

A batch is a pure function of (data, options, seed, step). That includes the record that replaces
a bad one. Worker processes import this module, so it must not import JAX.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int32, UInt8

from i21k.data.format.readers import RecordReader, allow_open_files
from i21k.data.format.records import decode_example, labels_of
from i21k.data.format.splits import ShardChangedError, Split
from i21k.data.load.options import LoaderOptions, batch_shape
from i21k.data.load.order import (
    GlobalOrder,
    Order,
    StoredOrder,
    WindowedOrder,
    alternating,
    span_length,
)
from i21k.data.load.windows import Source, WindowBuffer
from i21k.errors import UserError
from i21k.images.boxes import NUM_DRAWS, region_boxes, window_boxes
from i21k.images.decode import cut_into, read_size

# Give up after this many consecutive bad records: the shard is damaged, not a record. Our choice.
MAX_TRIES = 100
# Labels of an image beside the first. Of more, the smallest count. Our choice: images of five
# classes are too rare to make every batch larger.
MAX_OTHERS = 3


class Batch(NamedTuple):
    """The images of one step in the memory of this host."""

    images: UInt8[np.ndarray, "B S S 3"]  # RGB
    labels: Int32[np.ndarray, " B"]
    mirror: Bool[np.ndarray, " B"]  # whether the device must mirror the image
    weights: Float32[np.ndarray, " B"]  # 1 for an image, 0 for padding at an evaluation's end
    # Other labels that are right too, -1 for none. None if no image of the split has several.
    others: Int32[np.ndarray, "B M"] | None = None


class Built(NamedTuple):
    """The batch of a step, and for each record that was replaced what is wrong with it."""

    batch: Batch
    bad: tuple[str, ...]


class _Encoded(NamedTuple):
    """An image that is not decoded yet."""

    number: int  # of its record
    encoded: bytes
    label: int
    others: tuple[int, ...]  # labels that are right too
    size: tuple[int, int]  # height and width in pixels


def make_order(split: Split, options: LoaderOptions) -> Order:
    """Return the order that maps positions of the stream to records of a split."""
    if options.order == "stored":
        return StoredOrder(split.num_records)
    if options.order == "global":
        return GlobalOrder(split.num_records, options.seed)
    length = span_length(split.num_records, split.num_bytes)
    return WindowedOrder(split.num_records, options.batch_size, options.seed, length)


class BatchBuilder:
    """Call it with a step to get the batch of that step. It can be sent to other processes."""

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
        """Stop reading ahead."""
        if self._windows is not None:
            self._windows.close()

    def __call__(self, step: int, images: UInt8[np.ndarray, "b S S 3"] | None = None) -> Built:
        """Build the batch of `step`, with its images in the array `images` if that is given."""
        options = self.options
        positions = step * options.batch_size + np.arange(options.batch_size)
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
            self._windows.prepare(positions[mine])
        # A new array for each batch: on the CPU `device_put` aliases it, so it must never be
        # written again.
        images = np.empty(batch_shape(options), np.uint8) if images is None else images
        return self._build(positions[mine], mirror[mine], uniforms[mine], images)

    def _build(
        self,
        positions: Int[np.ndarray, " b"],
        mirror: Bool[np.ndarray, " b"],
        uniforms: Float[np.ndarray, "b draws"],
        images: UInt8[np.ndarray, "b S S 3"],
    ) -> Built:
        # The last batch of an evaluation has fewer records than positions; the rest is padding.
        records = self._order(positions)
        num_real = len(records)
        if self.options.mirror and self.options.mirror_order == "alternating":
            mirror = alternating(records, positions, self.split.num_records, self.options.seed)
        images[num_real:] = 0
        labels = np.zeros(len(positions), np.int32)
        shape = (len(positions), MAX_OTHERS)
        others = np.full(shape, -1, np.int32) if self.split.has_labels else None
        weights = (np.arange(len(positions)) < num_real).astype(np.float32)
        on_host, flags = mirror, np.zeros_like(mirror)
        if self.options.mirror_on == "device":
            on_host, flags = flags, on_host
        bad: list[str] = []
        found = [self._fetch(number, bad) for number in records]
        boxes = self._boxes([image.size for image in found], uniforms[:num_real])
        for i, (image, box, flip) in enumerate(zip(found, boxes, on_host.tolist(), strict=False)):
            try:
                cut_into(images[i], image.encoded, image.size, box, mirror=flip)
            except ValueError as error:
                image = self._replace(images[i], image.number, error, uniforms[i], flip, bad)
            labels[i] = image.label
            if others is not None:
                others[i, : len(image.others)] = image.others
        return Built(Batch(images, labels, flags, weights, others), tuple(bad))

    def _fetch(self, number: int, bad: list[str]) -> _Encoded:
        """Read a record, or the next good one if bad records may be skipped."""
        for _ in range(MAX_TRIES):
            try:
                record = self._source[number]
                encoded, label = decode_example(record)
                labels = labels_of(record) if self.split.has_labels else (label,)
                for each in labels:
                    if not 0 <= each < len(self.split.classes):
                        end = len(self.split.classes) - 1
                        raise UserError(f"label {each}; expected 0 to {end}")
                others = labels[1 : 1 + MAX_OTHERS]
                return _Encoded(number, encoded, label, others, read_size(encoded))
            except ValueError as error:
                number = self._next(number, error, bad)
        raise _too_many(bad)

    def _replace(
        self,
        out: UInt8[np.ndarray, "S S 3"],
        number: int,
        error: ValueError,
        uniforms: Float[np.ndarray, " draws"],
        flip: bool,
        bad: list[str],
    ) -> _Encoded:
        """Write the next good image instead of one that does not decode, and return it."""
        for _ in range(MAX_TRIES):
            image = self._fetch(self._next(number, error, bad), bad)
            box = self._boxes([image.size], uniforms[None])[0]
            try:
                cut_into(out, image.encoded, image.size, box, mirror=flip)
                return image
            except ValueError as another:
                number, error = image.number, another
        raise _too_many(bad)

    def _next(self, number: int, error: ValueError, bad: list[str]) -> int:
        """Note a bad record and return the number of the next one, or stop, by the options."""
        if isinstance(error, ShardChangedError):
            raise error
        shard, index = self._records.find(number)
        text = f"record {index} of {self.split.shard_paths[shard]}: {error}"
        if self.options.on_bad_record == "stop":
            raise UserError(text) from error
        bad.append(text)
        return (number + 1) % self.split.num_records

    def _boxes(
        self, sizes: list[tuple[int, int]], uniforms: Float[np.ndarray, "b draws"]
    ) -> list[tuple[int, int, int, int]]:
        options, array = self.options, np.array(sizes, np.int64).reshape(-1, 2)
        if options.crop == "region":
            boxes = region_boxes(array, uniforms, options.min_area)
        else:
            position = uniforms if options.crop == "plain" else 0.5
            boxes = window_boxes(array, options.crop_fraction, position)
        return list(map(tuple, boxes.tolist()))


def _too_many(bad: list[str]) -> UserError:
    return UserError(
        f"{bad[-1]}; so are the {MAX_TRIES - 1} records before it: "
        "this is more than single bad records"
    )
