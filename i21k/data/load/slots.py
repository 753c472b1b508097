"""Batches from worker processes, in shared memory.

The images of a batch are in a slot of one anonymous memory file that all workers map. Nothing is
copied, and the kernel frees the file with the last process, however it ends. A slot is reused only
when no array of it is left: JAX keeps a reference while it reads, and on the CPU it reads the very
same memory.
"""

import ctypes
import mmap
import os
import tempfile
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator
from multiprocessing import reduction
from typing import Any

import numpy as np

from i21k import workers
from i21k.errors import UserError

# Slots besides those that the workers use: a batch on the devices, one on its way there, one in
# the loop, one to spare.
HELD = 4


def memory_bytes(num_workers: int, shape: tuple[int, ...]) -> int:
    """Return how much memory all batches of the workers use; it does not grow."""
    return (workers.IN_FLIGHT * num_workers + HELD) * _slot_bytes(shape)


def build_in_processes(
    build: Callable[[int, np.ndarray], Any],
    steps: Iterable[int],
    num_workers: int,
    shape: tuple[int, ...],
) -> Generator[Any]:
    """Yield `build(step, images)` for each step, in order, built in `num_workers` processes.

    Close the generator to end the processes.

    Args:
        build: importable by name; returns a named tuple with a field `batch`, whose field `images`
            is the array that `build` was given.
        steps: to build.
        num_workers: at least one.
        shape: of `images`, uint8.

    Raises:
        UserError: if a worker dies, or there is no memory for the slots. Exceptions of `build` are
            raised here.
    """
    num_slots = workers.IN_FLIGHT * num_workers + HELD
    slots = Slots(num_slots, shape)
    free = list(range(num_slots))

    def tasks() -> Iterator[tuple[int, int]]:
        for step in steps:
            yield step, free.pop()

    for slot, built in workers.ordered_map(
        _Task(build, slots), tasks(), num_workers, always_spawn=True
    ):
        if free:
            images = slots.lend(slot, free)
        else:  # the caller keeps all batches
            images = slots.view(slot).copy()
            free.append(slot)
        yield built._replace(batch=built.batch._replace(images=images))


class _Task:
    """What a worker does with a task. The images stay in their slot and are not sent back."""

    def __init__(self, build: Callable[[int, np.ndarray], Any], slots: "Slots") -> None:
        self._build, self._slots = build, slots

    def __call__(self, task: tuple[int, int]) -> tuple[int, Any]:
        step, slot = task
        built = self._build(step, self._slots.view(slot))
        return slot, built._replace(batch=built.batch._replace(images=None))


class Slots:
    """A file in memory, divided into slots of one array each."""

    def __init__(self, num_slots: int, shape: tuple[int, ...]) -> None:
        self._shape, num_bytes = shape, num_slots * _slot_bytes(shape)
        if hasattr(os, "memfd_create"):
            self._file = os.memfd_create("i21k-batches")
        else:
            with tempfile.TemporaryFile() as file:  # it has no name either
                self._file = os.dup(file.fileno())
        try:
            os.truncate(self._file, num_bytes)
            if hasattr(os, "posix_fallocate"):
                # Or a worker is killed later, when it writes to memory that is not there.
                os.posix_fallocate(self._file, 0, num_bytes)
        except OSError as error:
            os.close(self._file)
            raise UserError(
                f"no {num_bytes / 2**20:,.0f} MiB of memory for batches ({error}). "
                "Use fewer workers or a smaller batch_size."
            ) from error
        weakref.finalize(self, os.close, self._file)
        self._map = mmap.mmap(self._file, num_bytes)

    def __reduce__(self) -> tuple[Any, ...]:
        return _attach, (reduction.DupFd(self._file), self._shape)

    def view(self, slot: int) -> np.ndarray:
        """Return a slot as an array."""
        return np.frombuffer(
            self._map, np.uint8, _size(self._shape), slot * _slot_bytes(self._shape)
        ).reshape(self._shape)

    def lend(self, slot: int, free: list[int]) -> np.ndarray:
        """Return a slot as an array; `slot` is appended to `free` when all its views are gone."""
        held = (ctypes.c_uint8 * _size(self._shape)).from_buffer(
            self._map, slot * _slot_bytes(self._shape)
        )
        weakref.finalize(held, free.append, slot).atexit = False
        return np.frombuffer(memoryview(held), np.uint8).reshape(self._shape)


def _attach(file: Any, shape: tuple[int, ...]) -> Slots:
    slots = Slots.__new__(Slots)
    slots._shape, slots._file = shape, file.detach()
    slots._map = mmap.mmap(slots._file, 0)
    return slots


def _size(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape))


def _slot_bytes(shape: tuple[int, ...]) -> int:
    return -(-_size(shape) // mmap.PAGESIZE) * mmap.PAGESIZE
