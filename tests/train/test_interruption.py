"""Signals to runs in processes of their own: each is honoured within seconds, and nothing is
lost."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from i21k.checkpoints import Checkpoints
from i21k.data.load import stalls
from i21k.train.report import read_metrics
from tests.helpers.launching import arguments_of, wait_for_line
from tests.helpers.paths import ROOT

SECONDS = 12  # on a busy machine; all of them end within five
_STARTED: list[subprocess.Popen] = []


def start(recipe, workdir: Path, before: str = "", **options) -> subprocess.Popen:
    """Start a run with the network of `few_blocks`, after some lines of Python."""
    arguments = arguments_of(recipe, workdir)
    code = f"""if True:
        import runpy, signal, sys, time
        sys.argv = {["launch.py", *arguments]!r}
        sys.orig_argv = [sys.executable, *sys.argv]
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may ignore it,
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # and so may nohup
        {before}
        runpy.run_path({str(ROOT / "tests/helpers/few_blocks.py")!r}, run_name="__main__")
    """
    options.setdefault("stdout", subprocess.PIPE)
    running = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "PYTHONPATH": str(ROOT)},
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )
    _STARTED.append(running)
    return running


@pytest.fixture(autouse=True)
def none_is_left():
    """Kill what a failed test would leave, which would keep the processors from the next one."""
    yield
    while _STARTED:
        running = _STARTED.pop()
        running.kill()
        running.wait()


@pytest.fixture
def slow(recipe):
    """A recipe of more steps than a test waits for."""
    recipe.epochs, recipe.log.every_steps = 500, 1
    return recipe


def ends(running: subprocess.Popen, signum: int) -> str:
    """Send a signal; return what is printed until the process has ended."""
    running.send_signal(signum)
    sent = time.monotonic()
    out, _ = running.communicate(timeout=60)
    assert time.monotonic() - sent < SECONDS, out
    assert running.returncode == 128 + signum, out
    return out


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_each_signal_saves_and_the_last_line_says_how_to_resume(slow, tmp_path, signum):
    running = start(slow, tmp_path / "w")
    wait_for_line(running, "step 8/")
    lines = ends(running, signum).splitlines()
    assert lines[-1].startswith(f"resume with: {sys.executable} "), lines
    assert lines[-1].endswith(f"launch.py {' '.join(arguments_of(slow, tmp_path / 'w'))}")
    assert max(Checkpoints(tmp_path / "w" / "checkpoints").steps()) >= 8
    logged = (tmp_path / "w" / "log.txt").read_text()
    assert "saving a checkpoint" in logged
    assert logged.splitlines()[-1].endswith(lines[-1])  # also if the terminal is gone


def test_nohup_stays_in_effect(slow, tmp_path):
    running = start(slow, tmp_path / "w", "signal.signal(signal.SIGHUP, signal.SIG_IGN)")
    wait_for_line(running, "step 2/")
    running.send_signal(signal.SIGHUP)
    wait_for_line(running, f"step {2 + 5}/")
    ends(running, signal.SIGTERM)


def test_a_second_sighup_does_not_count(slow, tmp_path):
    running = start(slow, tmp_path / "w")
    wait_for_line(running, "step 2/")
    running.send_signal(signal.SIGHUP)
    time.sleep(0.4)
    assert "second signal:" not in ends(running, signal.SIGHUP)
    assert Checkpoints(tmp_path / "w" / "checkpoints").steps()


@pytest.mark.parametrize(
    "before",
    [
        "import i21k.train.feed as f; f.open_data = lambda cfg: time.sleep(60)",
        "import i21k.train.steps as s; s.make_train_step = lambda *a, **k: time.sleep(60)",
        # Like XLA's compiler: no Python code runs in the main thread, and nothing interrupts it.
        "import ctypes, i21k.train.loop as l;"
        " l._first_step = lambda *a: [print('compiling', flush=True),"
        " [ctypes.CDLL(None).sleep(9) for _ in range(6)]]",
    ],
    ids=["data", "state", "compiling"],
)
def test_a_signal_before_the_first_step_ends_the_run_at_once(slow, tmp_path, before):
    before = f"import i21k.backend; i21k.backend.prepare(); {before}"
    running = start(slow, tmp_path / "w", before)
    if "ctypes" in before:
        wait_for_line(running, "compiling")
    else:
        while not (tmp_path / "w" / "lock").exists():
            time.sleep(0.05)
        time.sleep(3)
    out = ends(running, signal.SIGTERM)
    assert "nothing to save" in out and "resume with: " in out
    assert not Checkpoints(tmp_path / "w" / "checkpoints").steps()


def workers_of(running: subprocess.Popen) -> list[int]:
    path = Path(f"/proc/{running.pid}/task/{running.pid}/children")
    pids = [int(pid) for pid in path.read_text().split()]
    return [pid for pid in pids if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()]


@contextlib.contextmanager
def stopping_workers(running: subprocess.Popen):
    """Stop each worker of the run, also the next epoch's: this one's may have built all it had."""
    ended = threading.Event()

    def stop() -> None:
        while not ended.wait(0.02) and running.poll() is None:
            with contextlib.suppress(OSError):  # one that ends at this moment
                for pid in workers_of(running):
                    os.kill(pid, signal.SIGSTOP)

    stopper = threading.Thread(target=stop)
    stopper.start()
    try:
        yield
    finally:
        ended.set()
        stopper.join()


def test_a_stopped_worker_does_not_keep_a_signal_from_ending_the_run(slow, tmp_path):
    slow.data.workers = 2
    running = start(slow, tmp_path / "w")
    wait_for_line(running, "step 8/")
    for pid in workers_of(running):
        os.kill(pid, signal.SIGSTOP)
    time.sleep(1)
    ends(running, signal.SIGTERM)
    assert max(Checkpoints(tmp_path / "w" / "checkpoints").steps()) >= 8


def test_a_thread_that_waits_for_a_disk_does_not_either(slow, tmp_path):
    running = start(
        slow,
        tmp_path / "w",
        "import i21k.backend; i21k.backend.prepare(); import i21k.data.load.builder as b;"
        " call = b.BatchBuilder.__call__;"
        " b.BatchBuilder.__call__ = lambda self, step:"
        " time.sleep(999) if step > 9 else call(self, step)",
    )
    wait_for_line(running, "step 8/")
    time.sleep(2)
    ends(running, signal.SIGTERM)
    assert max(Checkpoints(tmp_path / "w" / "checkpoints").steps()) >= 8


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_a_wait_for_data_is_said_and_ends(slow, tmp_path, workers):
    slow.data.workers, slow.data.max_wait_s = workers, 20
    slow.batch_size = 4  # 11 batches an epoch: some are not built yet when the workers stop
    running = start(
        slow,
        tmp_path / "w",
        "import i21k.backend; i21k.backend.prepare(); import i21k.data.load.stalls as s;"
        " s.SAY_S = 1; import i21k.data.load.builder as b; call = b.BatchBuilder.__call__;"
        " b.BatchBuilder.__call__ = lambda self, step:"
        f" time.sleep(999) if step > 9 and not {workers} else call(self, step)",
    )
    wait_for_line(running, "step 2/")
    with stopping_workers(running):
        out, _ = running.communicate(timeout=100)
    assert running.returncode == 2, out
    who = "(stopped by a signal)" if workers else "2 threads that read it"
    assert "warning: no batch of" in out and who in out
    assert "--config.data.max_wait_s" in out.splitlines()[-1] and "Traceback" not in out
    assert stalls.SAY_S == 30


def test_a_reader_that_ends_does_not_end_the_run(recipe, tmp_path):
    running = start(recipe, tmp_path / "w")
    running.stdout.readline()
    running.stdout.close()
    assert running.wait(timeout=100) == 0
    assert [row["epoch"] for row in read_metrics(tmp_path / "w")] == ["1", "2"]
    assert "done: 2 epochs" in (tmp_path / "w" / "log.txt").read_text()
