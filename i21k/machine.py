"""What this process may use of the machine: CPUs and memory, also inside a container."""

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")


def num_cpus(root: Path = ROOT) -> int:
    """Return how many CPUs this process may use: its CPU affinity, and the quota of its cgroup.

    Args:
        root: of the file system with `/proc` and `/sys`; for tests.
    """
    num = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = min(_cpu_quotas(root), default=math.inf)
    return num if quota >= num else max(1, math.ceil(quota))


def available_bytes(root: Path = ROOT) -> int:
    """Return how much memory new processes may use; 0 where that is not known.

    It is the least of what the system has available and what the cgroup, and each above it, has
    left. The cache of files counts as used in a cgroup, so this errs on the safe side.

    Args:
        root: of the file system with `/proc` and `/sys`; for tests.
    """
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
    except OSError:  # not Linux
        return 0
    kib = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), "0")
    return min([int(kib) * 1024, *_left_bytes(root)])


def _cpu_quotas(root: Path) -> Iterator[float]:
    """Yield the CPU quotas of this process's cgroup and of all above it, in CPUs."""
    for folder, version in _cgroups(root, "cpu"):
        with contextlib.suppress(OSError, ValueError):  # no such file; "max" is no number
            if version == 1:
                quota = int((folder / "cpu.cfs_quota_us").read_text())
                period = int((folder / "cpu.cfs_period_us").read_text())
            else:
                quota, period = map(int, (folder / "cpu.max").read_text().split())
            if quota > 0:
                yield quota / period


def _left_bytes(root: Path) -> Iterator[int]:
    """Yield how much memory this process's cgroup, and each above it, has left."""
    for folder, version in _cgroups(root, "memory"):
        names = ("memory.max", "memory.current")
        if version == 1:
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        with contextlib.suppress(OSError, ValueError):  # no such file; "max" is no number
            most, used = (int((folder / name).read_text()) for name in names)
            yield max(0, most - used)


def _cgroups(root: Path, controller: str) -> Iterator[tuple[Path, int]]:
    """Yield the folder of this process's cgroup and of each above it, with its version (1 or 2)."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        base = root / "sys/fs/cgroup" / (controller if controllers else "")
        for folder in (base / group.lstrip("/"), *(base / group.lstrip("/")).parents):
            yield folder, 1 if controllers else 2
            if folder == base:
                break
