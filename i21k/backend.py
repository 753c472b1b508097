"""What has to be set before JAX is imported: a file of its own because importing it must import nothing.

`launch.py`, the command line and the tests call `prepare` first.
"""

import contextlib
import ctypes
import gc
import os
import sys
from importlib import metadata
from pathlib import Path

# XLA's YNNPACK convolutions lose to its Eigen ones on the CPU: without them a training step is 1.3 times as fast (`notebooks/LOG.md`).
# An unknown flag aborts the process, so it is set for the versions that were seen to know it.
_CPU_FLAG = "--xla_cpu_experimental_ynn_fusion_type=-individual_convolution"
_CPU_FLAG_VERSIONS = ("0.10.2", "0.11.2")
_ARENA_MAX, _MMAP_MAX, _TRIM_THRESHOLD = -8, -4, -1  # of glibc's malloc.h
_ONE_ARENA_PIXELS = (
    10**6
)  # chosen between 64 x 64 x 64, faster with many arenas, and the full network's 32 x 224 x 224, with one
_GC_THRESHOLD = 20_000  # chosen here; 100,000 saves no more


def prepare(*, cache: bool = True) -> None:
    """Set XLA's flags and the persistent compilation cache, unless the user's environment has its own, and collect garbage less often.

    Tracing makes many small objects and hardly any garbage: looking through them every 700 took 0.4 of 1.6 s (`notebooks/LOG.md`).
    Where JAX is imported already (a notebook, a test) it is too late, and nothing is changed.

    Args:
        cache: keep compiled steps in `~/.cache/i21k/xla` (or `JAX_COMPILATION_CACHE_DIR`).
    """
    if "jax" in sys.modules:
        return
    flags = os.environ.get("XLA_FLAGS", "")
    if metadata.version("jaxlib") in _CPU_FLAG_VERSIONS and "ynn_fusion_type" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_CPU_FLAG}".strip()
    if cache:
        os.environ.setdefault(
            "JAX_COMPILATION_CACHE_DIR", str(Path.home() / ".cache" / "i21k" / "xla")
        )
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "1")
    gc.set_threshold(_GC_THRESHOLD)
    os.environ.setdefault(
        "TF_CPP_MIN_LOG_LEVEL", "2"
    )  # XLA's C++ log: warnings about cached machine features fill the screen


def keep_memory(pixels: int) -> None:
    """Let glibc keep what is freed for what is allocated next, in this process; elsewhere than on glibc do nothing.

    On the CPU JAX allocates the activations of every step anew, and pages that went back to the system cost time. Resident memory stays
    at its peak. A thread's own arena holds at most 64 MiB a piece, and what is larger goes back to the system whatever was set; a single
    arena for all threads keeps it too: 1.06 times as fast for the full network. But then the threads wait for each other: the quick
    start's steps take 1.5 times as long, and compiling 1.3 times. So only large batches have a single arena (`notebooks/LOG.md`).

    Call it before NumPy or JAX are imported: a thread keeps the arena that it has.

    Args:
        pixels: of a batch.
    """
    if Path("/dev/nvidiactl").exists() or any(
        name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ
    ):
        return  # activations are in a GPU's memory, or the user has chosen
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, -1)
        if pixels >= _ONE_ARENA_PIXELS:
            mallopt(_ARENA_MAX, 1)
