import os
import platform
import subprocess
import sys

import pytest

_FAULTS = """
import resource, sys, threading
from i21k import backend
how, where = sys.argv[1:]
if how != "leave":
    backend.keep_memory(int(how))
import numpy as np
def faults():
    np.ones(2**25)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(2**25)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
if where == "thread":
    thread = threading.Thread(target=faults)
    thread.start()
    thread.join()
else:
    faults()
"""
_SMALL, _LARGE = (
    32 * 64**2,
    32 * 224**2,
)  # pixels of a batch: the quick start's, and the full network's


def faults(how: str | int, where: str = "main", **environment: str) -> int:
    """Return how many fresh pages (4 KB to 2 MB) a second array of 256 MiB takes."""
    env = (
        {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
        | {"NUMPY_MADVISE_HUGEPAGE": "0"}
        | environment
    )
    command = [sys.executable, "-c", _FAULTS, str(how), where]
    return int(subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_memory_is_kept_unless_the_user_has_chosen():
    assert faults(_SMALL) < 50 < faults("leave")
    assert faults(_LARGE, MALLOC_TOP_PAD_="131072") > 50


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_large_batches_share_one_arena_so_that_what_threads_free_is_kept_too():
    assert faults(_LARGE, "thread") < 50 < faults(_SMALL, "thread")


def test_garbage_is_collected_less_often_while_steps_are_traced():
    code = """if True:
        import gc
        from i21k import backend
        before = gc.get_threshold()[0]
        backend.prepare()
        print(gc.get_threshold()[0] / before)
    """
    assert (
        float(
            subprocess.run(
                [sys.executable, "-c", code], check=True, capture_output=True, text=True
            ).stdout
        )
        >= 10
    )  # 700 before, 2,000 in newer Pythons
