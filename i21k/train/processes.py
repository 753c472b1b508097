"""Several processes as one run: how they find each other, what they agree on, and how all end when one does.

A room of its own so that all others can be written as if there were one process. Only a few bytes pass here, through the key-value
store of JAX's coordination service, which process 0 hosts: that needs no device, and has answers while the devices wait for one another.
With one process nothing is started, and every question is answered at once.
"""

import contextlib
import ctypes
import importlib.util
import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple, NoReturn

import jax

from i21k.errors import UserError
from i21k.train.interruption import Interrupted, Interruption
from i21k.train.recipe import keys_that_may_differ

BEAT_S = 1.0  # between two signs of life
SILENCE_S = 30.0  # after which a process counts as lost
JAX_SILENCE_S = 50  # after which JAX aborts all, if this module could not say it better before
ASK_S = 2.0  # between two questions whether some process has been asked to stop
_GRACE_S = 3.0  # for the others to say themselves what has happened
_SLURM = (
    "SLURM_JOB_ID",
    "SLURM_STEP_NODELIST",
    "SLURM_NTASKS",
    "SLURM_PROCID",
    "SLURM_LOCALID",
)  # what JAX looks at


class Place(NamedTuple):
    """What `jax.distributed.initialize` is told; None: it asks the launcher's environment."""

    coordinator: str | None
    num_processes: int | None
    process_id: int | None
    devices: str  # numbers of the GPUs that this process uses, or "all"

    def __str__(self) -> str:
        return f"process {_known(self.process_id)} of {_known(self.num_processes)} on {socket.gethostname()}"


def find_place(
    environ: Mapping[str, str],
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
) -> Place | None:
    """Return this process's place among several; None if it is the only one.

    That is so without flags outside of a launcher, and for the only task of a launcher: a shell on a login node or in an allocation
    of Slurm, of however many tasks, waits for nobody.

    Args:
        environ: of the process.
        coordinator: HOST:PORT of process 0, from the command line; so are the next two.
        num_processes: 1 switches everything off.
        process_id: from 0.

    Raises:
        ValueError: if the flags are incomplete, or contradict each other.
    """
    if num_processes == 1 and not process_id:
        return None
    given = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    if all(value is not None for value in given.values()):
        if not 0 <= _known(process_id) < _known(num_processes):
            raise UserError(
                f"--process_id is {process_id}; expected 0 to {_known(num_processes) - 1}, below --num_processes"
            )
        if (
            not str(coordinator).rpartition(":")[0]
            or not str(coordinator).rpartition(":")[2].isdecimal()
        ):
            raise UserError(
                f"--coordinator is {coordinator!r}; expected HOST:PORT, a free port of the machine of process 0"
            )
        return Place(
            coordinator, num_processes, process_id, environ.get("JAX_LOCAL_DEVICE_IDS") or "all"
        )
    if num_processes is not None or process_id is not None:
        missing = " and ".join(f"--{name}" for name, value in given.items() if value is None)
        raise UserError(
            f"{missing} missing; expected --coordinator HOST:PORT --num_processes N --process_id I together, or none of them"
        )
    if int(environ.get("OMPI_COMM_WORLD_SIZE", 1)) > 1:
        num_processes, process_id = (
            int(environ["OMPI_COMM_WORLD_SIZE"]),
            int(environ["OMPI_COMM_WORLD_RANK"]),
        )
        if coordinator is None and "OMPI_MCA_orte_hnp_uri" not in environ:
            raise UserError(
                "this version of Open MPI does not say where process 0 runs; add --coordinator HOST:PORT, a port of its machine"
            )
        local = (
            int(environ["OMPI_COMM_WORLD_LOCAL_RANK"]),
            int(environ["OMPI_COMM_WORLD_LOCAL_SIZE"]),
        )
        return Place(coordinator, num_processes, process_id, _devices(environ, *local))
    if (
        all(name in environ for name in _SLURM)
        and int(environ.get("SLURM_STEP_NUM_TASKS", environ["SLURM_NTASKS"])) > 1
    ):
        local = int(environ["SLURM_LOCALID"]), _slurm_tasks_here(environ)
        return Place(
            coordinator,
            int(environ["SLURM_NTASKS"]),
            int(environ["SLURM_PROCID"]),
            _devices(environ, *local),
        )
    if {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= set(
        environ
    ) and importlib.util.find_spec("kubernetes"):
        return Place(coordinator, None, None, environ.get("JAX_LOCAL_DEVICE_IDS") or "all")
    if coordinator is not None:
        raise UserError(
            "--coordinator is given outside of Slurm and Open MPI; add --num_processes and --process_id"
        )
    return None


def _devices(environ: Mapping[str, str], rank: int, tasks: int) -> str:
    """Return which of the GPUs that it can see a task of a machine uses: its equal share.

    JAX alone would give a task the GPU of its rank: one of four to the only task of a machine, none to tasks that see only their own.
    """
    if own := environ.get("JAX_LOCAL_DEVICE_IDS"):
        return own
    seen = environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    if tasks == 1 or "SLURM_GPUS_PER_TASK" in environ:
        return "all"
    if seen == [""]:
        return str(rank)
    if len(seen) == 1:
        return "all"
    if len(seen) % tasks:
        raise UserError(
            f"{tasks} tasks of this machine see {len(seen)} GPUs (CUDA_VISIBLE_DEVICES); start one task, or one for each GPU"
        )
    share = len(seen) // tasks
    return ",".join(str(k) for k in range(rank * share, (rank + 1) * share))


def _slurm_tasks_here(environ: Mapping[str, str]) -> int:
    """Read `2(x3),1`: two tasks on each of three nodes, one on the fourth."""
    counts: list[int] = []
    for part in (
        environ.get("SLURM_STEP_TASKS_PER_NODE") or environ.get("SLURM_TASKS_PER_NODE") or "1"
    ).split(","):
        number, _, times = part.rstrip(")").partition("(x")
        counts += [int(number)] * int(times or 1)
    return counts[min(int(environ.get("SLURM_NODEID", 0)), len(counts) - 1)]


def _known(number: int | None) -> Any:
    return "?" if number is None else number


@contextlib.contextmanager
def together(place: Place | None, start_s: int) -> Iterator[None]:
    """Meet the other processes, and end with them: an error in one, or its death, ends all of them within a minute.

    Args:
        place: of `find_place`; None: there are no others.
        start_s: seconds that they have to appear.

    Raises:
        ValueError: if process 0 cannot listen at the coordinator's address. When they do not meet JAX aborts, and it is said why.
    """
    if place is None:
        yield
        return
    with _last_words() as last_words:
        last_words.text = (
            f"error: {place}: not all processes met within {start_s} s; expected process 0 at the coordinator's address"
            f" ({place.coordinator or 'as the launcher says'}), reachable from here, and all others started with the same number of them"
        )
        place = _join(place, start_s)
        last_words.text = (
            f"error: {place}: JAX has aborted, as it does when process 0 ({place.coordinator}) or another one is lost, see above;"
            " the last checkpoint stays, start all processes again to go on from it"
        )
        watch = _Watch(jax._src.distributed.global_state.client, place)
        watch.start()
        try:
            yield
        except Interrupted:
            watch.close()
            raise
        except Exception as error:
            watch.leave_with(error)
        else:
            watch.close()


def _join(place: Place, start_s: int) -> Place:
    """Start JAX's part and return the place with what the launcher's environment has added to it."""
    try:
        jax.distributed.initialize(
            place.coordinator,
            place.num_processes,
            place.process_id,
            cluster_detection_method="deactivate" if None not in place[:3] else None,
            initialization_timeout=start_s,
            heartbeat_timeout_seconds=JAX_SILENCE_S,
            shutdown_timeout_seconds=round(SILENCE_S),
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"{place}: the processes could not be joined: {error}; is the coordinator's port free?"
        ) from error
    jax.config.update(
        "jax_cuda_visible_devices", place.devices
    )  # whatever JAX has made of the launcher's ranks
    signal.signal(
        signal.SIGTERM, signal.getsignal(signal.SIGTERM)
    )  # JAX's own handler does not end anything
    state = jax._src.distributed.global_state
    return place._replace(
        num_processes=state.num_processes,
        process_id=state.process_id,
        coordinator=state.coordinator_address,
    )


@contextlib.contextmanager
def _last_words() -> Iterator[SimpleNamespace]:
    """Print a `text` when JAX aborts the process, which it does without an exception: the log then ends with what happened."""
    words, libc = SimpleNamespace(text=""), ctypes.CDLL(None)

    @ctypes.CFUNCTYPE(
        None, ctypes.c_int
    )  # a handler of Python's own would run only after the abort
    def say(_: int) -> None:
        _leave(words.text, 1)

    libc.signal(signal.SIGABRT, say)
    try:
        yield words
    finally:
        libc.signal(signal.SIGABRT, None)  # the default


class _Watch(threading.Thread):
    """Gives signs of life and looks for those of the others; ends this process when one of them has failed or is silent."""

    def __init__(
        self, client: Any, place: Place, beat_s: float = BEAT_S, silence_s: float = SILENCE_S
    ) -> None:
        super().__init__(name="watch", daemon=True)
        self._client, self._place, self._beat_s, self._silence_s = client, place, beat_s, silence_s
        self._closed, self._failed = threading.Event(), ""
        self._num_beats = 0
        self._heard: dict[int, tuple[str, float]] = {
            p: ("", time.monotonic()) for p in range(_known(place.num_processes))
        }

    def run(self) -> None:
        while not self._closed.wait(self._beat_s):
            self.beat()
            if (lost := self.find_lost()) is not None:
                # The main thread may be about to say the same, or more; and what process 0 keeps the others have to read.
                self._closed.wait(_GRACE_S + 2 * self._beat_s * (self._place.process_id == 0))
                if not self._closed.is_set():
                    _leave(lost, 1)

    def beat(self) -> None:
        """Give a sign of life and collect those of the others."""
        self._num_beats += 1
        life = {"beat": self._num_beats, "host": socket.gethostname(), "failed": self._failed}
        with contextlib.suppress(
            jax.errors.JaxRuntimeError
        ):  # process 0 does not answer, which is silence
            self._client.key_value_set(
                f"i21k/life/{self._place.process_id}", json.dumps(life), allow_overwrite=True
            )
            for key, text in self._client.key_value_dir_get("i21k/life/"):
                process = int(key.rpartition("/")[2])
                if text != self._heard[process][0]:
                    self._heard[process] = text, time.monotonic()

    def find_lost(self) -> str | None:
        """Return what to say if another process has failed or is silent; empty if that one has said it."""
        for process, (text, at) in self._heard.items():
            life = json.loads(text) if text else {"host": "an unknown host", "failed": ""}
            who = f"process {process} of {self._place.num_processes} on {life['host']}"
            if process == self._place.process_id:
                continue
            if life["failed"]:
                return (
                    f"error: {who} has stopped: {life['failed']}; all leave"
                    if self._place.process_id == 0 and process
                    else ""
                )
            if (silence := time.monotonic() - at) > self._silence_s:
                return (
                    f"error: {self._place}: {who} has not been heard of for {silence:.0f} s: it, its machine or the network is gone;"
                    " all leave, the last checkpoint stays, start all processes again to go on from it"
                )
        return None

    def close(self) -> None:
        """End when all have come here."""
        exchange("end", None)
        self._closed.set()
        self.join()
        jax.distributed.shutdown()

    def leave_with(self, error: Exception) -> NoReturn:
        """Tell the others of an error and end; where process 0 has met the same error, it alone prints it."""
        mendable = isinstance(error, (ValueError, OSError))
        text = str(error)
        if isinstance(error, jax.errors.JaxRuntimeError):
            text = f"JAX: {text.splitlines()[0]} (if this is about a connection, another process has ended before)"
        elif not mendable:
            traceback.print_exc()
            text = f"{type(error).__name__}: {text}"
        self._closed.set()  # from here on this thread gives the signs of life
        self.join()
        self._failed = text
        self.beat()
        until = time.monotonic() + _GRACE_S
        first = self._place.process_id == 0
        while not first and time.monotonic() < until:
            if self._heard[0][0] and json.loads(self._heard[0][0])["failed"] == text:
                _leave("", 2 if mendable else 1)
            time.sleep(0.2)
            self.beat()
        print(f"error: {self._place}: {text}", file=sys.stderr, flush=True)
        if first:
            time.sleep(
                _GRACE_S + 2 * self._beat_s
            )  # what was told is kept here, and the others have to read it
        _leave("", 2 if mendable else 1)


def _leave(text: str, exit_code: int) -> NoReturn:
    """End at once: an orderly end would wait for processes that no longer answer."""
    if text:
        print(text, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


def index() -> int:
    """Return this process's number, from 0."""
    return jax.process_index()


def count() -> int:
    """Return the number of processes."""
    return jax.process_count()


def say(text: str) -> None:
    """Print a line, in process 0 alone."""
    if index() == 0:
        print(text, flush=True)


_num_exchanges = 0


def exchange(name: str, value: Any) -> list[Any]:
    """Give a value to all processes and return theirs, by number; each process must come here, in the same order of calls.

    Args:
        name: of the occasion, for the case that two processes are at different ones.
        value: JSON.
    """
    global _num_exchanges
    if count() == 1:
        return [value]
    client: Any = jax._src.distributed.global_state.client
    _num_exchanges += 1
    client.key_value_set(f"i21k/{_num_exchanges}/{index()}", json.dumps([name, value]))
    found = []
    for process in range(count()):
        named, other = json.loads(_wait_for(client, f"i21k/{_num_exchanges}/{process}"))
        if named != name:
            raise AssertionError(f"process {process} is at {named!r}, this one at {name!r}")
        found.append(other)
    if _num_exchanges > 1:  # whoever has answered now had read all of the one before
        client.key_value_delete(f"i21k/{_num_exchanges - 1}/{index()}")
    return found


def _wait_for(client: Any, key: str) -> str:
    while (
        True
    ):  # for as long as it takes: the watch ends it if the process that has to answer is lost
        try:
            return client.blocking_key_value_get(key, 10_000)
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise


def share(name: str, value: Any) -> Any:
    """Return process 0's value in all processes."""
    return exchange(name, value if index() == 0 else None)[0]


def check_same(name: str, facts: Mapping[str, Any]) -> None:
    """Refuse to go on with processes that differ.

    Args:
        name: of the occasion.
        facts: JSON by name; where data lies and how many hands load it may differ.

    Raises:
        ValueError: in all processes, naming the first one that differs from process 0, with what differs.
    """
    first, *others = exchange(name, {"host": socket.gethostname(), **facts})
    ignored = {"host", *(f"config.{key}" for key in keys_that_may_differ())}
    for process, other in enumerate(others, 1):
        keys = [
            key
            for key in sorted(set(first) | set(other))
            if first.get(key) != other.get(key) and key not in ignored
        ]
        if keys:
            there = "; ".join(
                f"{key} is {other.get(key)!r}, not {first.get(key)!r}" for key in keys
            )
            who = f"process {process} on {other['host']} differs from process 0 on {first['host']}"
            raise UserError(f"{who}: {there}; start all with the same code, recipe and data")


class Agreement:
    """Whether to stop, answered alike in all processes, which must ask at the same moments: after each batch.

    Asking the others costs a message to process 0 and back, so it is done every `ASK_S` seconds: process 0 says after how many calls.
    """

    def __init__(self, interruption: Interruption) -> None:
        self._interruption = interruption
        self._calls = self._left = 1
        self._since = time.monotonic()

    def __call__(self) -> bool:
        if count() == 1:
            return bool(self._interruption)
        self._left -= 1
        if self._left:
            return False
        fitting = round(self._calls * ASK_S / max(time.monotonic() - self._since, 1e-3))
        heard = exchange(
            "stop",
            {"signum": self._interruption.signum, "calls": max(1, min(fitting, 4 * self._calls))},
        )
        self._calls = self._left = heard[0]["calls"]
        self._since = time.monotonic()
        asked = next(
            (process for process, told in enumerate(heard) if told["signum"] is not None), None
        )
        if asked is not None:
            if asked:
                say(
                    f"{signal.Signals(heard[asked]['signum']).name} at process {asked}: all save and leave"
                )
            self._interruption.signum = heard[asked]["signum"]
        return asked is not None
