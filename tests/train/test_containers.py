"""A run in a container: a user without a name and a home, and no room in shared memory."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.helpers.launching import arguments_of
from tests.helpers.paths import ROOT
from tests.helpers.runs import metrics

# The capability stands for files that are readable by all: an interpreter may be below /root.
CONTAINER = """
mount -t tmpfs -o size=4k none /dev/shm && head -c 8192 /dev/zero > /dev/shm/full
setpriv --reuid 12345 --regid 12345 --clear-groups --inh-caps +dac_override \
    --ambient-caps +dac_override env -u HOME -u USER -u LOGNAME -u JAX_COMPILATION_CACHE_DIR "$@"
"""


def can_isolate() -> bool:
    if os.getuid() != 0 or not all(map(shutil.which, ("unshare", "setpriv", "mount"))):
        return False
    command = ["unshare", "-m", "bash", "-c", CONTAINER, "bash", "true"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not can_isolate(), reason="needs root, unshare and setpriv")
def test_a_run_without_name_home_and_shared_memory(recipe, tmp_path):
    recipe.epochs, recipe.data.workers = 1, 2
    workdir = tmp_path / "w"
    command = [sys.executable, str(ROOT / "tests" / "helpers" / "few_blocks.py")]
    done = subprocess.run(
        [
            "unshare",
            "-m",
            "bash",
            "-c",
            CONTAINER,
            "bash",
            *command,
            *arguments_of(recipe, workdir),
        ],
        cwd=ROOT,
        env=os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 loader processes" in done.stdout and "done: 1 epochs" in done.stdout
    assert len(metrics(workdir)) == 1
    assert (workdir / "metrics.csv").stat().st_uid == 12345
