"""Runs of two processes with two CPU devices each, started as users start them.

A sum over four devices depends on the order of the summands, and the work of XLA's threads on
their number. Both are the same in all runs here (Gloo's ring, `NPROC`), so that two processes must
give what one gives, bit for bit.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from i21k.checkpoints import Checkpoints
from i21k.labels import ClassList
from i21k.train import place, processes, watch, workdir
from i21k.train.devices import find_devices
from i21k.train.interruption import Interruption
from i21k.train.place import Place, find_place
from i21k.train.processes import Agreement
from i21k.train.recipe import parse
from i21k.trained import load_checkpoint
from tests.helpers.launching import arguments_of
from tests.helpers.paths import ROOT
from tests.helpers.runs import assert_same_checkpoint, metrics

STEPS = 17  # three epochs of 44 images by 8


class Process:
    """One process of a run. A thread reads its output, so that it never waits for a reader."""

    def __init__(self, arguments: list[str], env: dict[str, str]) -> None:
        command = [sys.executable, str(ROOT / "tests" / "helpers" / "few_blocks.py"), *arguments]
        shared = {
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "NPROC": "4",
        }
        env = os.environ | shared | {"PYTHONPATH": str(ROOT)} | env
        self.popen = subprocess.Popen(
            command, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=lambda: self.lines.extend(self.popen.stdout))
        self._reader.start()

    @property
    def out(self) -> str:
        return "".join(self.lines)

    def wait_for(self, part: str) -> None:
        while part not in self.out:
            assert self.popen.poll() is None, f"ended without {part!r}: {self.out}"
            time.sleep(0.02)

    def end(self, timeout_s: float = 90) -> int:
        """Wait for the end and return the exit code."""
        self.popen.wait(timeout_s)
        self._reader.join()
        self.popen.stdout.close()
        return self.popen.returncode


@pytest.fixture
def start():
    """Return a function that starts processes, and kill those that still run."""
    started: list[Process] = []

    def start(arguments: list[str], env: dict[str, str] | None = None) -> Process:
        started.append(Process(arguments, env or {}))
        return started[-1]

    yield start
    for process in started:
        process.popen.kill()
        process.end()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def start_two(start, recipe, directory: Path, changes: tuple[str, ...] = ()) -> list[Process]:
    """Start both processes of a run; `changes` are flags of the second alone."""
    return start_both(start, arguments_of(recipe, directory), changes)


def start_both(start, how: list[str], changes: tuple[str, ...] = ()) -> list[Process]:
    """Start both processes with the arguments `how`; `changes` are flags of the second alone."""
    place = ["--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", "2"]
    own = [["--process-id", "0"], ["--process-id=1", *changes]]
    return [start([*how, *place, *own[i]], {"JAX_NUM_CPU_DEVICES": "2"}) for i in (0, 1)]


@pytest.fixture(scope="module")
def of_three_epochs(dataset):
    """A recipe with every evaluation: new statistics, the validation split, a second dataset."""
    from tests.conftest import recipe
    from tests.helpers.datasets import write_dataset

    config = recipe.__wrapped__(dataset)
    config.epochs, config.log.every_steps = 3, 1
    config.evaluation.recalibrate_bn = 20
    other = ClassList(("n01440764", "n01443537", "n01484850", "n01494475"))
    second = write_dataset(dataset.parent / "second", {"val": 13}, classes=other)
    config.evaluation.sets = f"val=val, second={second}:val"
    return config


@pytest.fixture(scope="module")
def alone(of_three_epochs, tmp_path_factory):
    """The run of one process with four devices."""
    directory = tmp_path_factory.mktemp("runs") / "alone"
    process = Process(arguments_of(of_three_epochs, directory), {"ALONE_ON_PORT": str(free_port())})
    assert process.end() == 0, process.out
    return directory


@pytest.mark.slow
def test_two_processes_of_a_slurm_step_are_one_run(of_three_epochs, alone, tmp_path, start):
    port = free_port()
    step = {
        "SLURM_JOB_ID": "4711",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
        "SLURM_STEP_NUM_TASKS": "2",
    }
    step |= {
        "SLURM_STEP_TASKS_PER_NODE": "2",
        "SLURM_NODEID": "0",
        "JAX_COORDINATOR_PORT": str(port),
        "JAX_NUM_CPU_DEVICES": "2",
    }
    both = [
        start(
            arguments_of(of_three_epochs, tmp_path / "w"),
            step | {"SLURM_PROCID": i, "SLURM_LOCALID": i},
        )
        for i in "01"
    ]
    assert [process.end() for process in both] == [0, 0], both[0].out + both[1].out
    assert "4 x cpu in 2 processes" in both[0].out and "done: 3 epochs" in both[0].out
    assert "first batch uint8 [4, 32, 32, 3]" in both[0].out  # of eight images
    assert both[1].out == ""
    assert metrics(tmp_path / "w") == metrics(alone) != []
    assert {"val_top1", "second_top1", "second_over_top1"} <= {
        key for key, value in metrics(alone)[-1].items() if value
    }
    assert_same_checkpoint(tmp_path / "w", alone)
    kinds = [
        json.loads(line)["kind"]
        for line in (tmp_path / "w" / "metrics.jsonl").read_text().splitlines()
    ]
    assert kinds.count("step") == STEPS and kinds.count("epoch") == 3  # each was written once
    assert len(list((tmp_path / "w" / "tensorboard").iterdir())) == 1


@pytest.mark.slow
def test_a_signal_to_one_and_kill_9_to_both_lose_nothing(of_three_epochs, alone, tmp_path, start):
    both = start_two(start, of_three_epochs, tmp_path / "w")
    both[0].wait_for(f"step 8/{STEPS}")
    both[1].popen.send_signal(signal.SIGTERM)
    assert [process.end() for process in both] == [143, 143], both[0].out + both[1].out
    assert "SIGTERM at process 1: all processes save and end" in both[0].out
    saved = Checkpoints(tmp_path / "w" / "checkpoints").steps()[-1]
    assert 8 <= saved < STEPS

    both = start_two(start, of_three_epochs, tmp_path / "w")
    both[0].wait_for(f"step {saved + 2}/{STEPS}")
    for process in both:
        process.popen.kill()
        process.end()
    assert f"resuming at step {saved} of {STEPS}" in both[0].out
    saved = Checkpoints(tmp_path / "w" / "checkpoints").steps()[
        -1
    ]  # perhaps of the end of an epoch, in between

    both = start_both(start, ["--resume", str(tmp_path / "w")])
    assert [process.end() for process in both] == [0, 0], both[0].out + both[1].out
    assert f"resuming at step {saved}" in both[0].out
    assert metrics(tmp_path / "w") == metrics(alone)
    assert_same_checkpoint(tmp_path / "w", alone)


@pytest.mark.slow
def test_two_processes_branch_from_a_run_of_one(alone, tmp_path, start):
    first = Checkpoints(alone / "checkpoints").steps()[0]
    both = start_both(
        start, [f"--branch-from={alone}@{first}", "--workdir", str(tmp_path / "branch")]
    )
    assert [process.end() for process in both] == [0, 0], both[0].out + both[1].out
    assert f"branching from {alone} at step {first}" in both[0].out and both[1].out == ""
    assert metrics(tmp_path / "branch")[-1] == metrics(alone)[-1]
    assert_same_checkpoint(tmp_path / "branch", alone)
    assert Checkpoints(tmp_path / "branch" / "checkpoints").newest().meta["parent"]["step"] == first


def test_processes_that_differ_are_refused_and_those_that_do_not_meet(
    of_three_epochs, tmp_path, start
):
    differing = start_two(
        start, of_three_epochs, tmp_path / "w", ("--config.seed=7", "--config.data.threads=1")
    )
    lonely = [
        ["--coordinator", f"127.0.0.1:{free_port()}", "--num_processes=2", "--start_s=4"]
        for _ in range(2)
    ]
    waiting = [
        start([*arguments_of(of_three_epochs, tmp_path / "x"), *place, f"--process_id={i}"])
        for i, place in enumerate(lonely)
    ]
    for process in waiting:
        assert process.end(60) == 1
        assert (
            "not all processes connected within 4 s. Check that process 0 can be reached at"
            in process.out
        )
        assert process.lines[-1].startswith("error: process") and "Traceback" not in process.out
    assert [process.end(60) for process in differing] == [2, 2]
    assert (
        "process 1 on" in differing[0].out
        and "config.seed is 7, not 0. Start all with the same" in differing[0].out
    )
    assert "threads" not in differing[0].out and differing[1].out == ""  # said once
    assert not (tmp_path / "w").exists() and not (tmp_path / "x").exists()


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, pytest.param(1, marks=pytest.mark.long)])
def test_all_end_when_one_dies_and_the_rest_is_done_by_the_next_start(
    of_three_epochs, alone, tmp_path, start, killed
):
    both = start_two(start, of_three_epochs, tmp_path / "w")
    both[0].wait_for(f"step 8/{STEPS}")
    both[killed].popen.kill()
    left = both[1 - killed]
    started = time.monotonic()
    assert left.end(60) == 1
    assert time.monotonic() - started < 60
    assert (
        left.lines[-1].startswith(f"error: process {1 - killed} of 2 on ")
        and "the last checkpoint stays" in left.lines[-1].lower()
    )
    both = start_two(start, of_three_epochs, tmp_path / "w")
    assert [process.end() for process in both] == [0, 0]
    assert metrics(tmp_path / "w") == metrics(alone)
    assert_same_checkpoint(tmp_path / "w", alone)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_all_and_is_said_once(of_three_epochs, tmp_path, start):
    recipe = of_three_epochs.copy_and_resolve_references()
    recipe.optimizer.learning_rate = recipe.optimizer.weight_decay = 1e3
    both = start_two(start, recipe, tmp_path / "w")
    assert [process.end() for process in both] == [2, 2]
    assert re.search(
        r"(the loss is (nan|inf)|batch_stats/\w+/moving_\w+ is not finite) at step \d+,"
        r" learning rate 1000; the last good checkpoint is",
        both[0].out,
    )
    assert both[1].out == ""
    for step in Checkpoints(tmp_path / "w" / "checkpoints").steps():
        tree = load_checkpoint(tmp_path / "w").checkpoint.tree
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(tree["batch_stats"])), step


@pytest.mark.slow
def test_an_error_in_one_process_ends_the_other(of_three_epochs, tmp_path, start):
    both = start_two(
        start, of_three_epochs, tmp_path / "w", ("--workdir", str(tmp_path / "elsewhere"))
    )
    assert [process.end() for process in both] == [1, 2]
    assert re.search(
        r"working directory .*elsewhere is not the one that process 0 \(process \d+ on"
        r" .*\) holds under this name",
        both[1].out,
    )
    assert "process 1 of 2 on" in both[0].out and "has stopped: working directory" in both[0].out


@pytest.mark.slow
@pytest.mark.long
def test_open_mpi_starts_a_run(of_three_epochs, tmp_path, start):
    recipe = of_three_epochs.copy_and_resolve_references()
    recipe.epochs = 1
    world = {
        "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://127.0.0.1:34911",
        "JAX_COORDINATOR_PORT": str(free_port()),
    }
    world |= {
        "OMPI_COMM_WORLD_SIZE": "2",
        "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
        "JAX_NUM_CPU_DEVICES": "2",
    }
    both = [
        start(
            arguments_of(recipe, tmp_path / "w"),
            world | {"OMPI_COMM_WORLD_RANK": i, "OMPI_COMM_WORLD_LOCAL_RANK": i},
        )
        for i in "01"
    ]
    assert [process.end() for process in both] == [0, 0]
    assert "4 x cpu in 2 processes" in both[0].out


SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "n[1-2]",
    "SLURM_NTASKS": "8",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
}
FOUR_GPUS = {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}
MPI = {
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {
            "SLURM_JOB_ID": "7",
            "SLURM_NTASKS": "8",
            "SLURM_PROCID": "0",
            "SLURM_LOCALID": "0",
        },  # sbatch's script, or ssh into a job
        SLURM | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"},
        SLURM
        | {
            "SLURM_STEP_NUM_TASKS": "1"
        },  # the shell of salloc, a step of its own in a job of eight tasks
        {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"},
        {"KUBERNETES_SERVICE_HOST": "10.0.0.1"},
    ],
)
def test_the_only_task_of_a_launcher_waits_for_nobody(environ):
    assert find_place(environ, None, None, None) is None
    assert find_place(SLURM, None, 1, None) is None  # and --num_processes=1 overrides everything


@pytest.mark.parametrize(
    ("environ", "devices"),
    [
        (
            SLURM | FOUR_GPUS | {"SLURM_STEP_TASKS_PER_NODE": "4(x2)"},
            "1",
        ),  # a task for each GPU, which sees all
        (SLURM | FOUR_GPUS | {"SLURM_STEP_TASKS_PER_NODE": "2(x4)"}, "2,3"),
        (
            SLURM | FOUR_GPUS | {"SLURM_STEP_TASKS_PER_NODE": "1(x8)", "SLURM_LOCALID": "0"},
            "all",
        ),  # JAX alone would take GPU 0
        (
            SLURM
            | FOUR_GPUS
            | {"SLURM_STEP_TASKS_PER_NODE": "7,1", "SLURM_NODEID": "1", "SLURM_LOCALID": "0"},
            "all",
        ),
        (
            SLURM | {"CUDA_VISIBLE_DEVICES": "1", "SLURM_STEP_TASKS_PER_NODE": "4(x2)"},
            "all",
        ),  # bound to its GPU: JAX would look for a second
        (
            SLURM
            | {
                "CUDA_VISIBLE_DEVICES": "0,1",
                "SLURM_GPUS_PER_TASK": "2",
                "SLURM_TASKS_PER_NODE": "4(x2)",
            },
            "all",
        ),
        (SLURM | {"SLURM_TASKS_PER_NODE": "4(x2)"}, "1"),
        (SLURM | FOUR_GPUS | {"JAX_LOCAL_DEVICE_IDS": "3"}, "3"),
    ],
)
def test_the_gpus_of_a_slurm_task(environ, devices):
    assert find_place(environ, None, None, None) == Place(None, 8, 5, devices)


def test_flags_open_mpi_and_kubernetes(monkeypatch):
    assert find_place(SLURM, "a:1", 2, 1) == Place(
        "a:1", 2, 1, "all"
    )  # flags override the environment
    assert find_place(SLURM | {"SLURM_TASKS_PER_NODE": "1(x8)"}, "a:1", None, None) == Place(
        "a:1", 8, 5, "all"
    )
    assert find_place(MPI | {"OMPI_MCA_orte_hnp_uri": "x"}, None, None, None) == Place(
        None, 4, 3, "1"
    )
    assert find_place(MPI | FOUR_GPUS, "a:1", None, None) == Place("a:1", 4, 3, "2,3")
    pod = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "1"}
    assert find_place(pod, None, None, None) is None
    monkeypatch.setattr(place.importlib.util, "find_spec", lambda name: name == "kubernetes")
    assert find_place(pod, None, None, None) == Place(None, None, None, "all")


@pytest.mark.parametrize(
    ("environ", "given", "message"),
    [
        (
            {},
            (None, 2, 1),
            "--coordinator missing. Give --coordinator HOST:PORT --num_processes N"
            " --process_id I together, or none",
        ),
        ({}, ("a:1", 2, None), "--process_id missing"),
        (
            {},
            ("a:1", None, None),
            "--coordinator is given outside of Slurm and Open MPI. Add"
            " --num_processes and --process_id",
        ),
        ({}, ("a:1", 2, 2), "--process_id is 2; expected 0 to 1. Number the processes"),
        (
            {},
            ("a", 2, 1),
            "--coordinator is 'a'; expected HOST:PORT. Use a free port of the machine of process 0",
        ),
        (
            MPI,
            (None, None, None),
            "this version of Open MPI does not give the host of process 0. Add"
            " --coordinator HOST:PORT",
        ),
        (
            SLURM | FOUR_GPUS | {"SLURM_TASKS_PER_NODE": "3,5"},
            (None, None, None),
            r"3 tasks of this machine see 4 GPUs .* Start one task per machine, or",
        ),
    ],
)
def test_what_is_wrong_with_a_place_is_said(environ, given, message):
    with pytest.raises(ValueError, match=message):
        find_place(environ, *given)


def test_a_port_that_is_taken(monkeypatch):
    def taken(*_, **__):
        raise RuntimeError("UNKNOWN: Failed to start RPC server")

    monkeypatch.setattr(jax.distributed, "initialize", taken)
    with (
        pytest.raises(
            ValueError,
            match=r"process 0 of 2 on .* could not be connected .*RPC server.*port is free",
        ),
        watch.together(Place("a:1", 2, 0, "all"), 5),
    ):
        pass


class Store:
    """The coordination service's store, for the processes of one test."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def key_value_set(self, key, value, allow_overwrite=False):
        assert allow_overwrite or key not in self.values
        self.values[key] = value

    def key_value_dir_get(self, prefix):
        return [(key, value) for key, value in self.values.items() if key.startswith(prefix)]


def test_a_process_that_is_silent_or_has_failed_is_found():
    store = Store()
    watches = [watch._Watch(store, Place("a:1", 3, i, "all"), silence_s=0.3) for i in range(3)]
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        for one in watches[:2]:
            one.beat()
            time.sleep(0.02)
    assert watches[1].find_lost().startswith("error: process 1 of 3 on")
    assert re.search(
        r"process 2 of 3 on an unknown host has been silent for \d+ s: .* Start all"
        r" processes again",
        watches[0].find_lost(),
    )
    watches[2].beat()
    watches[0].beat()
    assert watches[0].find_lost() is None
    watches[2]._failed = "no such file"
    for one in reversed(watches):
        one.beat()
    assert re.fullmatch(
        r"error: process 2 of 3 on .* has stopped: no such file\. All processes end\.",
        watches[0].find_lost(),
    )
    assert watches[1].find_lost() == ""  # it leaves too, but process 2 and process 0 have said why


@pytest.fixture
def among_two(monkeypatch):
    """Let this process be the second of two. The test sets the values of the first."""
    first = SimpleNamespace(says=None, calls=0)

    def exchange(name, value):
        first.calls += 1
        return [first.says(name, value), value]

    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "index", lambda: 1)
    monkeypatch.setattr(processes, "exchange", exchange)
    return first


def test_differences_are_named(among_two):
    among_two.says = lambda name, value: value | {"config.seed": 0, "jax": "1.0", "commit": "abc"}
    own = {"config.seed": 1, "jax": "1.0", "config.data.threads": 3}
    with pytest.raises(
        ValueError,
        match=(
            r"process 1 on .* differs from process 0 on .*: commit is None, not"
            r" 'abc'; config.seed is 1, not 0\."
        ),
    ):
        processes.check_same("recipe", own)
    among_two.says = lambda name, value: (
        value | {"config.data.threads": 8, "config.data.directory": "/scratch"}
    )
    processes.check_same("recipe", own)


def test_all_ask_when_process_0_says_and_get_one_answer(among_two):
    told = {"signum": None, "calls": 5}  # by process 0, with the interval of questions
    among_two.says = lambda name, value: told
    asked = Agreement(Interruption())
    assert [asked() for _ in range(11)] == [False] * 11
    assert among_two.calls == 3  # at the 1st, 6th and 11th call
    told |= {"signum": signal.SIGINT}
    assert [asked() for _ in range(5)] == [False] * 4 + [True]
    assert asked._interruption.signum == signal.SIGINT


def test_process_0_asks_every_two_seconds_of_steps(among_two, monkeypatch):
    clock, asked_at = SimpleNamespace(now=0.0), []
    monkeypatch.setattr(processes.time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(
        processes, "exchange", lambda name, value: (asked_at.append(clock.now), [value, value])[1]
    )
    ask = Agreement(Interruption())
    for _ in range(400):
        clock.now += 0.05
        assert not ask()
    assert np.allclose(np.diff(asked_at)[4:], 2, atol=0.1) and len(asked_at) < 16


def test_a_workdir_that_is_not_shared(among_two, monkeypatch, tmp_path):
    monkeypatch.setattr(workdir, "_SHARED_S", 0.3)
    monkeypatch.setattr(processes, "share", lambda name, value: "process 1 on alpha\n")
    with pytest.raises(
        ValueError,
        match=(
            r"w is not the one that process 0 \(process 1 on alpha\) holds .* that"
            r" all processes share"
        ),
    ):
        workdir.held(tmp_path / "w").__enter__()
    (tmp_path / "lock").write_text("process 1 on alpha\n")
    with workdir.held(tmp_path):
        pass


def test_a_checkpoint_that_another_process_sees_otherwise(alone, tmp_path):
    checkpoints = Checkpoints(alone / "checkpoints")
    digest = checkpoints.newest().meta["meta_digest"]
    assert checkpoints.same(STEPS, digest).step == STEPS
    with pytest.raises(
        ValueError,
        match=(
            r"checkpoint .*17 is not the one that process 0 reads \(it is another"
            r" one\). Use a --workdir on"
        ),
    ):
        checkpoints.same(STEPS, "0")
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ValueError, match=r"checkpoint .*17 is not the one that process 0 reads \("):
        Checkpoints(tmp_path / "checkpoints").same(STEPS, digest)


@pytest.mark.parametrize(
    ("devices", "of_process", "message"),
    [
        (
            3,
            (2, 2),
            r"config.devices is 3, and the 2 processes have 2, 2 cpu devices."
            r" Use equally many of each process: --config.devices=4",
        ),
        (
            8,
            (2, 2),
            r"config.devices is 8, and the 2 processes have 2, 2 cpu .*: --config.devices=4",
        ),
        (
            0,
            (4, 2),
            r"config.devices is 0 \(all\), and the 2 processes have 4, 2 cpu .*\."
            r" Use .*: --config.devices=4",
        ),
    ],
)
def test_devices_of_processes(recipe, monkeypatch, devices, of_process, message):
    device = SimpleNamespace(platform="cpu")
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(
        jax, "local_devices", lambda process_index: [device] * of_process[process_index]
    )
    recipe.devices = devices
    with pytest.raises(ValueError, match=message):
        find_devices(parse(recipe))
    recipe.devices = 4
    assert len(find_devices(parse(recipe))) == 4
