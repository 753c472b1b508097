"""What a process may use: its CPU affinity, and the quotas of its container."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from i21k import machine
from tests.helpers.paths import ROOT


def test_only_the_cpus_that_a_process_may_use_are_counted(tmp_path: Path) -> None:
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
    code += " from i21k.machine import num_cpus; print(num_cpus())"
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
    assert machine.num_cpus(tmp_path) == 8
    files |= {
        name.replace("quota", "period"): "100000" for name in files if name.endswith("quota_us")
    }
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(f"9:memory:/elsewhere\n{group}\n")
    assert machine.num_cpus(tmp_path) == (2 if "step" in group else 1)


def test_nothing_counts_the_cpus_of_the_machine() -> None:
    counting = [
        str(path)
        for path in sorted((ROOT / "i21k").rglob("*.py"))
        if "cpu_count(" in path.read_text() and path.name != "machine.py"
    ]
    assert not counting, f"use machine.num_cpus in {counting}"


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
    assert list(machine._left_bytes(tmp_path)) == []
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(f"{group}\n")
    (tmp_path / "sys/fs/cgroup" / folder).mkdir(parents=True)
    for name, text in zip(names, ("1000", "400"), strict=True):
        (tmp_path / "sys/fs/cgroup" / folder / name).write_text(f"{text}\n")
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("max\n")
    assert list(machine._left_bytes(tmp_path)) == [600]


def test_available_memory_is_the_least_of_system_and_container(tmp_path: Path) -> None:
    assert machine.available_bytes() > 1 << 20
    assert machine.available_bytes(tmp_path) == 0, "there is no /proc"
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    4096 kB\n")
    assert machine.available_bytes(tmp_path) == 4 << 20
    (tmp_path / "proc/self/cgroup").write_text("0::/\n")
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("3000\n")
    (tmp_path / "sys/fs/cgroup/memory.current").write_text("1000\n")
    assert machine.available_bytes(tmp_path) == 2000
