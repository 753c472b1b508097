"""The devices of a run: which ones, what is on them, and what may travel to and from them."""

import contextlib
import functools
import resource
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from i21k import jax_private
from i21k.data.load.loader import Batch
from i21k.errors import UserError
from i21k.train.recipe import Recipe
from i21k.train.state import AXIS, DeviceBatch

# JAX tries these on every machine: they say nothing about this one.
_TRIED_EVERYWHERE = ("tpu", "proxy")


def find_devices(cfg: Recipe) -> list[jax.Device]:
    """Return the devices of a recipe, process after process: the first ones of each process.

    Raises:
        UserError: if there are fewer; if the processes have different numbers of them; or if their
            number (times `accumulate_steps`) does not divide the batch size.
    """
    of_process = [jax.local_devices(process_index=p) for p in range(jax.process_count())]
    num_devices = cfg.devices or sum(map(len, of_process))
    _check_processes(num_devices, cfg, of_process)
    _check_number(num_devices, of_process)
    _check_batch(num_devices, cfg)
    per_process = num_devices // len(of_process)
    return [device for devices in of_process for device in devices[:per_process]]


def _check_processes(
    num_devices: int, cfg: Recipe, of_process: Sequence[Sequence[jax.Device]]
) -> None:
    num_processes, fewest = len(of_process), min(map(len, of_process))
    if num_processes == 1:
        return
    if num_devices % num_processes or num_devices // num_processes > fewest:
        numbers = ", ".join(str(len(devices)) for devices in of_process)
        raise UserError(
            f"config.devices is {cfg.devices}{'' if cfg.devices else ' (all)'}, and the "
            f"{num_processes} processes have {numbers} {of_process[0][0].platform} devices. "
            f"Use equally many of each process: --config.devices={fewest * num_processes}"
        )


def _check_number(num_devices: int, of_process: Sequence[Sequence[jax.Device]]) -> None:
    found, platform = sum(map(len, of_process)), of_process[0][0].platform
    if num_devices <= found:
        return
    names = f"{found} {platform} device{'s' * (found > 1)}"
    reason = why_no_gpu() if platform == "cpu" else ""
    remedy = f"Use --config.devices={found}"
    if platform == "cpu":
        remedy += f", or simulate {num_devices}: JAX_NUM_CPU_DEVICES={num_devices} python launch.py"
    raise UserError(
        f"config.devices is {num_devices}, and this machine has {names}"
        f"{f' ({reason})' if reason else ''}. {remedy}"
    )


def _check_batch(num_devices: int, cfg: Recipe) -> None:
    num_parts = num_devices * cfg.accumulate_steps
    if cfg.batch_size % num_parts == 0:
        return
    parts = f"{num_devices} devices"
    if cfg.accumulate_steps > 1:
        parts += f" x {cfg.accumulate_steps} accumulate_steps"
    larger = -(-cfg.batch_size // num_parts) * num_parts
    raise UserError(
        f"batch_size {cfg.batch_size} is not divisible by {parts}. "
        f"Use a multiple, for example --config.batch_size={larger}"
    )


def why_no_gpu() -> str:
    """Return why JAX uses the CPU although there may be a GPU; empty if there is no sign of one."""
    found = jax_private.backend_errors()
    errors = {name: error for name, error in found.items() if name not in _TRIED_EVERYWHERE}
    if errors:
        reasons = (f"{name}: {(error or '?').splitlines()[0]}" for name, error in errors.items())
        return "JAX fell back to the CPU: " + "; ".join(reasons)
    if Path("/proc/driver/nvidia").exists():
        return (
            "JAX uses the CPU, and there is an NVIDIA driver. "
            'Install the CUDA packages: pip install -e ".[cuda]"'
        )
    return ""


def peak_memory(devices: Sequence[jax.Device]) -> str:
    """Return the peak of a device's memory; of the process's on a CPU, which has no count."""
    stats: dict[str, Any] | None = _of_this_process(devices)[0].memory_stats()
    if stats:
        return f"peak device memory {stats['peak_bytes_in_use'] / 2**20:,.0f} MiB"
    unit = 2**20 if sys.platform == "darwin" else 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    return f"peak memory of the process {peak:,.0f} MiB"


def put_state(state: Any, devices: Sequence[jax.Device]) -> Any:
    """Replicate a tree over this process's devices.

    Do so before the first step. `pmap` would place the tree by itself, but with several processes
    donation would then delete buffers that are still in use.
    """
    return jax.device_put(state, NamedSharding(_mesh(devices), PartitionSpec()))


def put_batch(batch: Batch, devices: Sequence[jax.Device]) -> DeviceBatch:
    """Send this process's part of a batch to its devices, without waiting.

    On a CPU the devices use the host arrays: do not write to them again.
    """
    mesh = _mesh(devices)
    sharding = NamedSharding(mesh, PartitionSpec(AXIS))

    def put(array: np.ndarray | None) -> jax.Array | None:
        if array is None:
            return None
        parts = np.reshape(array, (mesh.size, -1, *array.shape[1:]))
        return jax.device_put(parts, sharding)

    return DeviceBatch(*map(put, batch))


@contextlib.contextmanager
def transfers(level: Literal["allow", "disallow", "disallow_explicit"]) -> Iterator[None]:
    """Allow or refuse transfers between host and devices, in this thread.

    "disallow" refuses implicit ones, "disallow_explicit" refuses `device_put` and `device_get` too.
    On a CPU, JAX only sees transfers to the device: those to the host copy nothing.
    """
    with jax.transfer_guard_host_to_device(level), jax.transfer_guard_device_to_host(level):
        yield


def check_donated(state: Any) -> None:
    """Assert that a step has reused the buffers of the old state. JAX does not warn under
    `pmap`."""
    kept = [
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
        if not leaf.is_deleted()
    ]
    assert not kept, (
        f"{len(kept)} donated buffers of the state were not reused, such as {kept[0]}: "
        "old and new state are both in memory"
    )


def connect(devices: Sequence[jax.Device]) -> None:
    """Connect the devices of several processes by a sum of zeros, before anything slow.

    CPU processes must meet within 30 s at their first collective, and within 30 minutes at later
    ones. Compilation can take longer than 30 s on one of them.
    """
    zeros = np.zeros(_mesh(devices).size, np.float32)
    add = jax.pmap(lambda x: lax.psum(x, AXIS), axis_name=AXIS, out_axes=None, devices=devices)
    jax.block_until_ready(add(zeros))


def _of_this_process(devices: Sequence[jax.Device]) -> tuple[jax.Device, ...]:
    return tuple(device for device in devices if device.process_index == jax.process_index())


def _mesh(devices: Sequence[jax.Device]) -> Mesh:
    return _mesh_of(_of_this_process(devices))


@functools.cache
def _mesh_of(devices: tuple[jax.Device, ...]) -> Mesh:
    return Mesh(np.array(devices), (AXIS,))
