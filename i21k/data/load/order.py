"""Which records the batch of a step has: pure functions of numbers, without files.

The stream is an endless sequence of positions. Step `s` covers the positions `[sB, (s+1)B)`. Epoch
`e` covers `[eN, (e+1)N)`, in which each of the N records has one position. An order maps positions
to records.
"""

import dataclasses
import functools
import hashlib
import itertools
import math
import operator
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, UInt64

# A hard disk of 110 seeks/s and 170 MB/s reads a span in 1/110 s + 3 MB / (170 MB/s) = 26.7 ms.
# With 29.7 KB per image that is 3,780 images/s; spans of 2 MB give 3,220, single images 108.
SPAN_BYTES = 3_000_000
SPANS_PER_WINDOW = 8
# 8 MB for each of two epochs; 100 million images of 29.7 KB have so many. Our choice.
MAX_STORED_SPANS = 1 << 20
# Parts of a batch with windows of their own, so that 2, 4 or 8 hosts read only their records.
LANES = 8


def epoch_end(epoch: int, num_records: int, batch_size: int) -> int:
    """Return how many steps cover the epochs 0 to `epoch`."""
    return -((epoch + 1) * num_records // -batch_size)


@dataclasses.dataclass(frozen=True)
class StoredOrder:
    """The order of the shards, for one epoch. Later positions have no record."""

    num_records: int

    def __call__(self, positions: Int[np.ndarray, " n"]) -> list[int]:
        return [p for p in positions.tolist() if p < self.num_records]


@dataclasses.dataclass(frozen=True)
class GlobalOrder:
    """Each epoch is another permutation of all records. Its keys are a hash of seed and epoch."""

    num_records: int
    seed: int

    def __call__(self, positions: Int[np.ndarray, " n"]) -> list[int]:
        epochs, positions = np.divmod(positions, self.num_records)
        records = np.empty_like(positions)
        for epoch in set(epochs.tolist()):
            records[epochs == epoch] = scattered(
                positions[epochs == epoch], self.num_records, self.seed, epoch
            )
        return records.tolist()


class Window(NamedTuple):
    """The records that one lane of an epoch mixes before it starts the next window."""

    epoch: int
    lane: int
    number: int


@dataclasses.dataclass(frozen=True)
class WindowedOrder:
    """For disks that seek slowly: spans of neighbouring records, a few spans mixed at a time.

    An epoch treats the records as a ring, cuts it into spans of `span_length` from a start of its
    own, and shuffles the spans. A batch has `LANES` parts. Each part reads its share of the spans
    in windows of `SPANS_PER_WINDOW` spans, and mixes the records of a window. So adjacent records
    stay near each other in every epoch. That is harmless because packing has shuffled the records.
    """

    num_records: int
    batch_size: int
    seed: int
    span_length: int  # records

    def __call__(self, positions: Int[np.ndarray, " n"]) -> list[int]:
        found: list[int] = []
        for window, group in itertools.groupby(self._find(positions), operator.itemgetter(0)):
            found += self.records(window)[[at for _, at in group]].tolist()
        return found

    def windows(self, positions: Int[np.ndarray, " n"]) -> list[Window]:
        """Return the windows that contain `positions`, sorted."""
        return sorted({window for window, _ in self._find(positions)})

    def following(self, window: Window) -> Window:
        """Return the window of the same lane after `window`."""
        if (window.number + 1) * self._window_size < self._share(window.epoch, window.lane)[1]:
            return window._replace(number=window.number + 1)
        return Window(
            window.epoch + 1,
            window.lane,
            self._share(window.epoch + 1, window.lane)[0] // self._window_size,
        )

    def spans(self, window: Window) -> list[tuple[int, int]]:
        """Return `(first, end)` of each span of adjacent records in a window, in disk order."""
        numbers = np.sort(self.records(window))
        breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
        parts = np.split(numbers, breaks)
        return [(int(part[0]), int(part[-1]) + 1) for part in parts if len(part)]

    def records(self, window: Window) -> Int[np.ndarray, " n"]:
        """Return the records of a window in the order in which its lane uses them."""
        return _records(self, window)

    @property
    def _window_size(self) -> int:
        return self.span_length * SPANS_PER_WINDOW

    def _find(self, positions: Int[np.ndarray, " n"]) -> Iterator[tuple[Window, int]]:
        """Yield the window of each position and the index in the window."""
        for position, epoch, lane in zip(
            positions.tolist(),
            (positions // self.num_records).tolist(),
            (positions % self.batch_size * LANES // self.batch_size).tolist(),
            strict=True,
        ):
            first = self._share(epoch, lane)[0]
            at = (
                first
                + self._num_before(lane, position)
                - self._num_before(lane, epoch * self.num_records)
            )
            number = at // self._window_size
            yield Window(epoch, lane, number), at - max(first, number * self._window_size)

    def _num_before(self, lane: int, position: int) -> int:
        """Count the positions of the stream before `position` that belong to `lane`."""
        first, end = (-(n * self.batch_size // -LANES) for n in (lane, lane + 1))
        whole, slots = divmod(position, self.batch_size)
        return whole * (end - first) + min(max(slots - first, 0), end - first)

    def _share(self, epoch: int, lane: int) -> tuple[int, int]:
        return _share(self, epoch, lane)


@functools.lru_cache(maxsize=4 * LANES)
def _share(order: WindowedOrder, epoch: int, lane: int) -> tuple[int, int]:
    """Return where in the shuffled spans the share of a lane begins and ends, in records."""
    ends = [0]
    for other in range(lane + 1):
        here, there = (order._num_before(other, e * order.num_records) for e in (epoch, epoch + 1))
        ends.append(ends[-1] + there - here)
    return ends[lane], ends[lane + 1]


# A batch needs one or two windows of each lane, and the next batches need the same ones.
@functools.lru_cache(maxsize=8 * LANES)
def _records(order: WindowedOrder, window: Window) -> Int[np.ndarray, " n"]:
    begin, end = order._share(window.epoch, window.lane)
    begin, end = (
        max(begin, window.number * order._window_size),
        min(end, (window.number + 1) * order._window_size),
    )
    turns, within = np.divmod(
        begin + _permutation(end - begin, order.seed, *window), order.span_length
    )
    spans = _shuffled_spans(order, window.epoch, turns)
    return (_key(order.seed, window.epoch) + spans * order.span_length + within) % order.num_records


def _shuffled_spans(
    order: WindowedOrder, epoch: int, turns: Int[np.ndarray, " n"]
) -> Int[np.ndarray, " n"]:
    """Return which spans of an epoch come at `turns`.

    The permutation of more than `MAX_STORED_SPANS` spans is computed and not stored.
    """
    num_spans = order.num_records // order.span_length
    # The rest at the end of the ring is a shorter span, and always the last.
    if num_spans <= MAX_STORED_SPANS:
        return np.append(_permutation(num_spans, order.seed, epoch), num_spans)[turns]
    spans, whole = turns.copy(), turns < num_spans
    spans[whole] = scattered(turns[whole], num_spans, order.seed, epoch)
    return spans


@functools.lru_cache(maxsize=4 * LANES)
def _permutation(size: int, *key: int) -> Int[np.ndarray, " size"]:
    """Return a permutation of `range(size)` as an array."""
    philox = np.random.Philox(key=int.from_bytes(_digest(*key)[:16], "little"))
    return np.argsort(np.random.Generator(philox).random(size), kind="stable")


Order = StoredOrder | GlobalOrder | WindowedOrder


def scattered(numbers: Int[np.ndarray, " n"], size: int, *key: int) -> UInt64[np.ndarray, " n"]:
    """Return where a permutation of `range(size)` maps `numbers`, without storing the permutation.

    A Feistel network on the rows and columns of a table of at least `size` fields (Black and
    Rogaway, "Ciphers with arbitrary finite domains", 2002). A round shifts each number along its
    row by a hash of its column, then along its column by a hash of its row. A number that lands on
    a field beyond `size` repeats the rounds. In a batch of 256 this takes 0.4 us per number;
    Grain's index_shuffle takes 3 us.
    """
    num_rows = math.isqrt(size - 1) + 1
    num_columns = -(-size // num_rows)
    found, outside = numbers.astype(np.uint64), np.ones(len(numbers), bool)
    while outside.any():
        row, column = np.divmod(found[outside], np.uint64(num_columns))
        for row_key, column_key in _round_keys(*key):
            row = (row + _hash(column ^ column_key)) % num_rows
            column = (column + _hash(row ^ row_key)) % num_columns
        found[outside] = row * num_columns + column
        outside = found >= size
    return found


def alternating(
    records: list[int], positions: Int[np.ndarray, " n"], num_records: int, seed: int
) -> Bool[np.ndarray, " n"]:
    """Return which images are mirrored: by a hash of the record, and every other epoch the others.

    In two epochs each record is seen once as it is and once mirrored (Jordan 2024, "94% on CIFAR-10
    in 3.29 seconds"). Positions without a record are not mirrored.
    """
    key = np.uint64(int.from_bytes(_digest(seed)[:8], "little"))
    hashed = _hash(np.array(records, np.uint64) ^ key)
    epochs = positions[: len(records)] // num_records
    found = np.zeros(len(positions), bool)
    found[: len(records)] = (hashed + epochs.astype(np.uint64)) % 2 == 1
    return found


@functools.lru_cache(maxsize=4)
def _round_keys(*key: int) -> UInt64[np.ndarray, "rounds 2"]:
    return np.frombuffer(hashlib.sha512(_text(*key)).digest(), "<u8").reshape(-1, 2)


def _hash(numbers: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    """Return 48 bits per number: the finalizer of SplitMix64 (Steele, Lea and Flood 2014)."""
    numbers = (numbers ^ (numbers >> 30)) * 0xBF58476D1CE4E5B9
    numbers = (numbers ^ (numbers >> 27)) * 0x94D049BB133111EB
    return numbers >> 16


def span_length(num_records: int, num_bytes: int) -> int:
    """Return how many records make a span of about `SPAN_BYTES` in a split of `num_bytes`."""
    return max(1, min(-(-SPAN_BYTES * num_records // num_bytes), num_records))


def _key(*numbers: int) -> int:
    return int.from_bytes(_digest(*numbers)[:4], "little")


def _digest(*numbers: int) -> bytes:
    return hashlib.sha256(_text(*numbers)).digest()


def _text(*numbers: int) -> bytes:
    return "/".join(map(str, numbers)).encode()
