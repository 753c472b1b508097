"""Find this process's place among those of a run, from flags or the launcher's variables."""

import importlib.util
import socket
from collections.abc import Mapping
from typing import Any, NamedTuple

from i21k.errors import UserError

# The variables by which JAX recognises Slurm.
_SLURM = (
    "SLURM_JOB_ID",
    "SLURM_STEP_NODELIST",
    "SLURM_NTASKS",
    "SLURM_PROCID",
    "SLURM_LOCALID",
)


class Place(NamedTuple):
    """Arguments of `jax.distributed.initialize`; each None comes from the launcher."""

    coordinator: str | None
    num_processes: int | None
    process_id: int | None
    devices: str  # numbers of the GPUs that this process uses, or "all"

    def __str__(self) -> str:
        who = f"process {known(self.process_id)} of {known(self.num_processes)}"
        return f"{who} on {socket.gethostname()}"


def find_place(
    environ: Mapping[str, str],
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
) -> Place | None:
    """Return this process's place among several; None if it is the only one.

    That is the case without flags outside of a launcher, and for the only task of a launcher. A
    shell on a login node, or in a Slurm allocation of many tasks, is a single process.

    Args:
        environ: environment variables of the process.
        coordinator: HOST:PORT of process 0, from the command line; so are the next two.
        num_processes: 1 ignores the launcher.
        process_id: from 0.

    Raises:
        UserError: if the flags are incomplete, or contradict each other.
    """
    if num_processes == 1 and not process_id:
        return None
    given = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    if all(value is not None for value in given.values()):
        if not 0 <= known(process_id) < known(num_processes):
            raise UserError(
                f"--process_id is {process_id}; expected 0 to {known(num_processes) - 1}."
                " Number the processes from 0."
            )
        if (
            not str(coordinator).rpartition(":")[0]
            or not str(coordinator).rpartition(":")[2].isdecimal()
        ):
            raise UserError(
                f"--coordinator is {coordinator!r}; expected HOST:PORT."
                " Use a free port of the machine of process 0."
            )
        return Place(
            coordinator, num_processes, process_id, environ.get("JAX_LOCAL_DEVICE_IDS") or "all"
        )
    if num_processes is not None or process_id is not None:
        missing = " and ".join(f"--{name}" for name, value in given.items() if value is None)
        raise UserError(
            f"{missing} missing. Give --coordinator HOST:PORT --num_processes N --process_id I"
            " together, or none of them."
        )
    if int(environ.get("OMPI_COMM_WORLD_SIZE", 1)) > 1:
        num_processes, process_id = (
            int(environ["OMPI_COMM_WORLD_SIZE"]),
            int(environ["OMPI_COMM_WORLD_RANK"]),
        )
        if coordinator is None and "OMPI_MCA_orte_hnp_uri" not in environ:
            raise UserError(
                "this version of Open MPI does not give the host of process 0."
                " Add --coordinator HOST:PORT, a free port of that host."
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
            "--coordinator is given outside of Slurm and Open MPI."
            " Add --num_processes and --process_id."
        )
    return None


def _devices(environ: Mapping[str, str], rank: int, tasks: int) -> str:
    """Return which of the visible GPUs a task uses: an equal share.

    By default JAX gives each task the one GPU that matches its local rank. With one task per node
    that wastes the other GPUs, and it fails when a task is already bound to a GPU.
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
            f"{tasks} tasks of this machine see {len(seen)} GPUs (CUDA_VISIBLE_DEVICES)."
            " Start one task per machine, or one per GPU."
        )
    share = len(seen) // tasks
    return ",".join(str(k) for k in range(rank * share, (rank + 1) * share))


def _slurm_tasks_here(environ: Mapping[str, str]) -> int:
    """Return the number of tasks on this node, from a list such as `2(x3),1`.

    It means two tasks on each of three nodes, and one on the fourth.
    """
    counts: list[int] = []
    for part in (
        environ.get("SLURM_STEP_TASKS_PER_NODE") or environ.get("SLURM_TASKS_PER_NODE") or "1"
    ).split(","):
        number, _, times = part.rstrip(")").partition("(x")
        counts += [int(number)] * int(times or 1)
    return counts[min(int(environ.get("SLURM_NODEID", 0)), len(counts) - 1)]


def known(number: int | None) -> Any:
    """Return a number for a message, `?` where the launcher has not given it yet."""
    return "?" if number is None else number
