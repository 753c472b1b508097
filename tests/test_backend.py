import os
import platform
import subprocess
import sys

import pytest

_FAULTS = """
import resource, sys
from i21k import backend
if sys.argv[1] == "keep":
    backend.keep_memory()
import numpy as np
np.ones(2**25)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(2**25)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str, **environment: str) -> int:
    """Return how many fresh pages (4 KB to 2 MB) a second array of 256 MiB takes."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))} | {"NUMPY_MADVISE_HUGEPAGE": "0"} | environment
    return int(subprocess.run([sys.executable, "-c", _FAULTS, how], env=env, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_memory_is_kept_unless_the_user_has_chosen():
    assert faults("keep") < 50 < faults("leave")
    assert faults("keep", MALLOC_TOP_PAD_="131072") > 50
