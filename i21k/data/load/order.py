"""Which records the batch of a step has: pure functions of numbers, so that the order of 14 million records can be tried without a disk.

The stream is an endless row of places. Step `s` covers the places `[sB, (s+1)B)` and epoch `e` the places `[eN, (e+1)N)`, among which every
one of the N records has one place. An order maps places to records.
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
from jaxtyping import Int, UInt64

# A hard disk of 110 seeks/s and 170 MB/s reads a run in 1/110 s + 3 MB / (170 MB/s) = 26.7 ms. With 29.7 KB a picture that is
# 3,780 pictures/s; at 2 MB a run it would be 3,220, and with a seek for each picture 108.
RUN_BYTES = 3_000_000
RUNS_PER_WINDOW = 8
LANES = 8  # parts of a batch with windows of their own, so that 2, 4 or 8 hosts read what they need and no more


def epoch_end(epoch: int, num_records: int, batch_size: int) -> int:
    """Return the number of steps after which `epoch` (from 0) is over: the first that reaches `(epoch + 1) * num_records` places."""
    return -((epoch + 1) * num_records // -batch_size)


@dataclasses.dataclass(frozen=True)
class StoredOrder:
    """As the shards have them, once: what lies behind the first epoch has no record."""

    num_records: int

    def __call__(self, places: Int[np.ndarray, " n"]) -> list[int]:
        return [p for p in places.tolist() if p < self.num_records]


@dataclasses.dataclass(frozen=True)
class GlobalOrder:
    """Every epoch is a permutation of its own of all records. Neighbouring seeds share nothing: each epoch's keys are a hash."""

    num_records: int
    seed: int

    def __call__(self, places: Int[np.ndarray, " n"]) -> list[int]:
        epochs, places = np.divmod(places, self.num_records)
        records = np.empty_like(places)
        for epoch in set(epochs.tolist()):
            records[epochs == epoch] = scattered(
                places[epochs == epoch], self.num_records, self.seed, epoch
            )
        return records.tolist()


class Window(NamedTuple):
    """The records that one lane of an epoch mixes before it goes on to the next."""

    epoch: int
    lane: int
    number: int


@dataclasses.dataclass(frozen=True)
class WindowedOrder:
    """For disks that cannot seek: runs of neighbouring records, some of them at a time mixed with each other.

    An epoch sees the records as a ring, cuts it into runs of `run_length` from a place of its own on, and puts the runs into random order.
    A batch has `LANES` parts of neighbouring slots; each of them goes through its share of that row of runs, a window of
    `RUNS_PER_WINDOW` runs at a time, whose records it mixes. So neighbours on disk are near each other in every epoch, which does
    no harm where packing has shuffled them.
    """

    num_records: int
    batch_size: int
    seed: int
    run_length: int  # records

    def __call__(self, places: Int[np.ndarray, " n"]) -> list[int]:
        found: list[int] = []
        for window, group in itertools.groupby(self._find(places), operator.itemgetter(0)):
            found += self.records(window)[[at for _, at in group]].tolist()
        return found

    def windows(self, places: Int[np.ndarray, " n"]) -> list[Window]:
        """Return the windows in which `places` lie, sorted."""
        return sorted({window for window, _ in self._find(places)})

    def following(self, window: Window) -> Window:
        """Return the window that a lane comes to when it has finished `window`."""
        if (window.number + 1) * self._window_size < self._share(window.epoch, window.lane)[1]:
            return window._replace(number=window.number + 1)
        return Window(
            window.epoch + 1,
            window.lane,
            self._share(window.epoch + 1, window.lane)[0] // self._window_size,
        )

    def runs(self, window: Window) -> list[tuple[int, int]]:
        """Return the `(first, end)` of each row of consecutive records in a window, in the order of the disk."""
        numbers = np.sort(self.records(window))
        breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
        return [(int(run[0]), int(run[-1]) + 1) for run in np.split(numbers, breaks) if len(run)]

    def records(self, window: Window) -> Int[np.ndarray, " n"]:
        """Return the records of a window in the order in which its lane takes them."""
        return _records(self, window)

    @property
    def _window_size(self) -> int:
        return self.run_length * RUNS_PER_WINDOW

    def _find(self, places: Int[np.ndarray, " n"]) -> Iterator[tuple[Window, int]]:
        """Yield of each place the window and the index in it."""
        for place, epoch, lane in zip(
            places.tolist(),
            (places // self.num_records).tolist(),
            (places % self.batch_size * LANES // self.batch_size).tolist(),
            strict=True,
        ):
            first = self._share(epoch, lane)[0]
            at = (
                first
                + self._num_before(lane, place)
                - self._num_before(lane, epoch * self.num_records)
            )
            number = at // self._window_size
            yield Window(epoch, lane, number), at - max(first, number * self._window_size)

    def _num_before(self, lane: int, place: int) -> int:
        """Count the places of the stream before `place` that belong to `lane`."""
        first, end = (
            -(slot * self.batch_size // -LANES) for slot in (lane, lane + 1)
        )  # its slots of a batch
        whole, slots = divmod(place, self.batch_size)
        return whole * (end - first) + min(max(slots - first, 0), end - first)

    def _share(self, epoch: int, lane: int) -> tuple[int, int]:
        return _share(self, epoch, lane)


@functools.lru_cache(maxsize=4 * LANES)
def _share(order: WindowedOrder, epoch: int, lane: int) -> tuple[int, int]:
    """Return where on the row of runs the share of a lane begins and ends, in records."""
    ends = [0]
    for other in range(lane + 1):
        here, there = (order._num_before(other, e * order.num_records) for e in (epoch, epoch + 1))
        ends.append(ends[-1] + there - here)
    return ends[lane], ends[lane + 1]


@functools.lru_cache(
    maxsize=8 * LANES
)  # a batch needs one or two windows of each lane, the ones after it the same
def _records(order: WindowedOrder, window: Window) -> Int[np.ndarray, " n"]:
    begin, end = order._share(window.epoch, window.lane)
    begin, end = (
        max(begin, window.number * order._window_size),
        min(end, (window.number + 1) * order._window_size),
    )
    turns, within = np.divmod(
        begin + _permutation(end - begin, order.seed, *window), order.run_length
    )
    num_runs = order.num_records // order.run_length
    # What is left at the end of the ring is a run of its own, and the last.
    runs = np.append(_permutation(num_runs, order.seed, window.epoch), num_runs)[turns]
    return (_key(order.seed, window.epoch) + runs * order.run_length + within) % order.num_records


@functools.lru_cache(maxsize=4 * LANES)
def _permutation(size: int, *key: int) -> Int[np.ndarray, " size"]:
    """Return a permutation of few enough numbers to hold them all."""
    philox = np.random.Philox(key=int.from_bytes(_digest(*key)[:16], "little"))
    return np.argsort(np.random.Generator(philox).random(size), kind="stable")


Order = StoredOrder | GlobalOrder | WindowedOrder


def scattered(numbers: Int[np.ndarray, " n"], size: int, *key: int) -> UInt64[np.ndarray, " n"]:
    """Return the places that `numbers` have in a permutation of `range(size)` which is nowhere in memory.

    A Feistel network on the rows and columns of a table of at least `size` fields (Black and Rogaway, "Ciphers with arbitrary finite
    domains", 2002): a round shifts every number along its row by a hash of the row, or along its column. What lands on one of the few
    fields that are too many goes round again. Grain's index_shuffle takes 3 us a number where this takes 0.4 us in a batch of 256.
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


@functools.lru_cache(maxsize=4)
def _round_keys(*key: int) -> UInt64[np.ndarray, "rounds 2"]:
    return np.frombuffer(hashlib.sha512(_text(*key)).digest(), "<u8").reshape(-1, 2)


def _hash(numbers: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    """Return 48 bits for each number: the finalizer of SplitMix64 (Steele, Lea and Flood 2014)."""
    numbers = (numbers ^ (numbers >> 30)) * 0xBF58476D1CE4E5B9
    numbers = (numbers ^ (numbers >> 27)) * 0x94D049BB133111EB
    return numbers >> 16


def run_length(num_records: int, num_bytes: int) -> int:
    """Return how many records a run has: `RUN_BYTES` of them on average, in a split of `num_bytes`."""
    return max(1, min(-(-RUN_BYTES * num_records // num_bytes), num_records))


def _key(*numbers: int) -> int:
    return int.from_bytes(_digest(*numbers)[:4], "little")


def _digest(*numbers: int) -> bytes:
    return hashlib.sha256(_text(*numbers)).digest()


def _text(*numbers: int) -> bytes:
    return "/".join(map(str, numbers)).encode()
