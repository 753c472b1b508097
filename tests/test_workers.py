"""The process pool: results in order, errors and signals reach the caller."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from i21k import workers
from tests.helpers.paths import ROOT


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


def test_only_the_cpus_that_a_process_may_use_are_counted(tmp_path: Path) -> None:
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
    code += " from i21k.workers import num_cpus; print(num_cpus())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    assert done.stdout.split() == [b"1"]


@pytest.mark.parametrize(
    ("group", "files"),
    [
        ("0::/job/step", {"job/cpu.max": "150000 100000", "job/step/cpu.max": "max 100000"}),
        ("0::/job", {"cpu.max": "100000 100000", "job/cpu.max": "50000 100000"}),
        ("4:cpu,cpuacct:/job", {"cpu/job/cpu.cfs_quota_us": "30000"}),
    ],
    ids=["parent's quota", "half a CPU", "version 1"],
)
def test_the_quota_of_a_container_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: str, files: dict[str, str]
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert workers.num_cpus(tmp_path) == 8
    files |= {
        name.replace("quota", "period"): "100000" for name in files if name.endswith("quota_us")
    }
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(f"9:memory:/elsewhere\n{group}\n")
    assert workers.num_cpus(tmp_path) == (2 if "step" in group else 1)


def test_nothing_counts_the_cpus_of_the_machine() -> None:
    counting = [
        str(path)
        for path in sorted((ROOT / "i21k").rglob("*.py"))
        if "cpu_count(" in path.read_text() and path.name != "workers.py"
    ]
    assert not counting, f"use workers.num_cpus in {counting}"


@pytest.mark.parametrize(
    ("group", "folder", "names"),
    [
        ("0::/job/step", "job", ("memory.max", "memory.current")),
        ("7:memory:/job", "memory/job", ("memory.limit_in_bytes", "memory.usage_in_bytes")),
    ],
    ids=["version 2", "version 1"],
)
def test_the_memory_that_a_container_has_left(
    tmp_path: Path, group: str, folder: str, names: tuple[str, str]
) -> None:
    assert list(workers.cgroup_bytes(tmp_path)) == []
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(f"{group}\n")
    (tmp_path / "sys/fs/cgroup" / folder).mkdir(parents=True)
    for name, text in zip(names, ("1000", "400"), strict=True):
        (tmp_path / "sys/fs/cgroup" / folder / name).write_text(f"{text}\n")
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("max\n")
    assert list(workers.cgroup_bytes(tmp_path)) == [600]
