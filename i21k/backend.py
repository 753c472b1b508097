"""Settings of JAX, XLA and malloc that must be made before JAX is imported.

So this file imports nothing but the standard library. `launch.py` and `i21k` call it first.
"""

import contextlib
import ctypes
import gc
import os
import sys
from importlib import metadata
from pathlib import Path

# On the CPU, XLA's YNNPACK convolutions are slower than its Eigen ones. Without them a training
# step is 1.3 times as fast (`notebooks/LOG.md`). An unknown flag aborts the process, so the flag
# is set only for versions that are known to have it.
_CPU_FLAG = "--xla_cpu_experimental_ynn_fusion_type=-individual_convolution"
_CPU_FLAG_VERSIONS = ("0.10.2", "0.11.2")
_ARENA_MAX, _MMAP_MAX, _TRIM_THRESHOLD = -8, -4, -1  # of glibc's malloc.h
# Our choice. 64 x 64 x 64 pixels are faster with many arenas, 32 x 224 x 224 with a single one.
_ONE_ARENA_PIXELS = 10**6
_GC_THRESHOLD = 20_000  # our choice; 100,000 saves no more


def prepare(*, cache: bool = True) -> None:
    """Set XLA's flags and the persistent compilation cache, and collect garbage less often.

    Variables that the user has set stay. If JAX is already imported, nothing is changed.

    Tracing makes many small objects and hardly any garbage. A collection every 700 objects took a
    quarter of the time to trace (`notebooks/LOG.md`).

    Args:
        cache: keep compiled steps in `~/.cache/i21k/xla` (or `JAX_COMPILATION_CACHE_DIR`).
    """
    if "jax" in sys.modules:
        return
    flags = os.environ.get("XLA_FLAGS", "")
    if metadata.version("jaxlib") in _CPU_FLAG_VERSIONS and "ynn_fusion_type" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_CPU_FLAG}".strip()
    if cache:
        if (directory := _cache_directory()) is not None:
            os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(directory))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "1")
    gc.set_threshold(_GC_THRESHOLD)
    # XLA's C++ log is full of warnings about cached machine features.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def _cache_directory() -> Path | None:
    """Return where compiled steps are kept; None if there is no place for them.

    A container may run as a user without a home, or with one that cannot be written.
    """
    try:
        directory = Path.home() / ".cache" / "i21k" / "xla"
        directory.mkdir(parents=True, exist_ok=True)
    except (RuntimeError, OSError):
        return None
    return directory if os.access(directory, os.W_OK) else None


def keep_memory(pixels: int) -> None:
    """Make glibc keep freed memory for later allocations of this process; without glibc do nothing.

    On the CPU, JAX allocates the activations of every step again, and pages that were returned to
    the system cost time. In exchange, resident memory stays at its peak. With one arena, a step's
    block may be placed behind the freed block of the step before, and both stay resident: 5.8
    instead of 3.6 GiB for the full network at batch 32 (`notebooks/LOG.md`).

    A thread's own arena returns pieces above 64 MiB to the system whatever is set. A single arena
    for all threads keeps them too, but the threads wait for each other: large batches become
    faster, small ones and compiling slower (`notebooks/LOG.md`). So only large batches use one.

    Call it before NumPy or JAX are imported, because a thread keeps its arena.

    Args:
        pixels: number of pixels of a batch.
    """
    if Path("/dev/nvidiactl").exists() or any(
        name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ
    ):
        return  # activations are in a GPU's memory, or the user has set it
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, -1)
        if pixels >= _ONE_ARENA_PIXELS:
            mallopt(_ARENA_MAX, 1)
