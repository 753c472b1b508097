"""The process pool: results in order, errors and signals reach the caller."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from i21k import workers


def die(item: int) -> int:
    os._exit(7)


def fail(item: int) -> int:
    raise ZeroDivisionError(item)


def wait_for_the_last(last: Path) -> bytes:
    """Item 0 waits until the others are done. Their results do not fit into a pipe."""
    deadline = time.monotonic() + 60  # for the other worker to start; reached only if it hangs
    while last.name == "0" and not (last.parent / "5").exists():
        if time.monotonic() > deadline:
            raise TimeoutError(*(path.name for path in last.parent.iterdir()))
        time.sleep(0.01)
    last.write_bytes(b"")
    return last.name.encode() + bytes(workers._PIPE_BYTES)


def test_worker_does_not_stand_still_behind_a_slow_one(tmp_path: Path) -> None:
    results = list(workers.ordered_map(wait_for_the_last, [tmp_path / str(k) for k in range(6)], 2))
    assert [result[:1] for result in results] == [b"0", b"1", b"2", b"3", b"4", b"5"]


def refuse_to_load() -> None:
    raise ImportError("not in a worker")


class NotLoadable:
    def __reduce__(self) -> tuple[Any, ...]:
        return refuse_to_load, ()


@pytest.mark.parametrize("num_good", [0, 4])
def test_item_that_cannot_be_loaded_is_an_error(num_good: int) -> None:
    with workers.Pool(2) as pool:
        items: list[Any] = [*range(num_good), NotLoadable()]
        results = pool.map(process_of, items, 2)
        assert [next(results)[0] for _ in range(num_good)] == list(range(num_good))
        with pytest.raises(ImportError, match="not in a worker"):
            next(results)


def process_of(item: int) -> tuple[int, int]:
    return item, os.getpid()


def test_workers_stay_for_the_next_function() -> None:
    with workers.Pool(3) as pool:
        first = list(pool.map(process_of, range(12), 3))
        second = list(pool.map(process_of, range(12), 2))
        assert [item for item, _ in first] == [item for item, _ in second] == list(range(12))
        processes, fewer = {process for _, process in first}, {process for _, process in second}
        assert (len(processes), len(fewer)) == (3, 2)
        assert fewer < processes
        with pytest.raises(ZeroDivisionError, match="0"):
            list(pool.map(fail, range(5), 3))
    with workers.Pool(1) as alone:
        assert list(alone.map(process_of, range(2), 1)) == [(0, os.getpid()), (1, os.getpid())]


def test_dead_worker_is_reported() -> None:
    with pytest.raises(
        ValueError, match=r"a worker process ended with exit code 7\. .*use fewer workers"
    ):
        list(workers.ordered_map(die, range(5), 2))
    with pytest.raises(ZeroDivisionError, match="0"):
        list(workers.ordered_map(fail, range(5), 2))


def test_signal_while_workers_start_counts_once_and_later() -> None:
    came: list[int] = []
    reader, writer = os.pipe2(os.O_NONBLOCK)
    handler, wakeup = (
        signal.signal(signal.SIGTERM, lambda number, frame: came.append(number)),
        signal.set_wakeup_fd(writer),
    )
    try:
        with workers._signals_deferred():
            signal.raise_signal(signal.SIGTERM)
            assert came == []
        assert came == [signal.SIGTERM]
        assert os.read(reader, 10) == bytes([signal.SIGTERM])  # asyncio loops read signals this way
        assert signal.set_wakeup_fd(writer) == writer
    finally:
        signal.set_wakeup_fd(wakeup)
        signal.signal(signal.SIGTERM, handler)
        os.close(reader)
        os.close(writer)
