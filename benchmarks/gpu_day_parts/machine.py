"""Check the machine: its card and versions, and the two rates that bound every kernel.

    python benchmarks/gpu_day_parts/machine.py

Fails if JAX has no GPU. Bandwidth counts bytes that are read and written by adding 1 to an array.
The matrix product is bfloat16, of random numbers: zeros are faster.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any

from i21k import backend

backend.prepare()

import jax
import jax.numpy as jnp

QUERY = "name,driver_version,memory.total,clocks.sm,clocks.max.sm,power.limit,compute_mode"


def versions() -> dict[str, str]:
    """Return the versions of what matters and is installed."""
    names = ("jax", "jaxlib", "flax", "optax", "grain", "array-record", "numpy", "torch", "triton")
    plugins = [
        dist.metadata["Name"]
        for dist in metadata.distributions()
        if dist.metadata["Name"].startswith(("jax-cuda", "nvidia-cudnn", "nvidia-nccl"))
    ]
    found = {}
    for name in (*names, *sorted(set(plugins))):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


def card() -> dict[str, str]:
    """Return what nvidia-smi says of the first card; nothing where it is missing."""
    command = ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader"]
    try:
        out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    values = out.splitlines()[0].split(", ")
    return {f"card_{key}": value for key, value in zip(QUERY.split(","), values, strict=False)}


def seconds(function: Callable[..., Any], *args: Any, repeats: int = 10) -> float:
    """Return the seconds of a call, once compiled."""
    jax.block_until_ready(function(*args))
    start = time.perf_counter()
    for _ in range(repeats):
        result = function(*args)
    jax.block_until_ready(result)
    return (time.perf_counter() - start) / repeats


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    cli.add_argument("--tiny", action="store_true", help="accept a CPU, use small arrays")
    tiny = cli.parse_args().tiny
    device = jax.devices()[0]
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    host = {"cores": os.cpu_count(), "memory_gib": round(memory_gib), "kernel": platform.release()}
    line = {"device": device.device_kind, "devices": jax.device_count()} | card() | host
    line |= {"python": platform.python_version()} | versions()
    if device.platform != "gpu" and not tiny:
        sys.exit(f"JAX has no GPU, it uses the {device.platform}. The machine: {line}")
    print(json.dumps(line), flush=True)

    num, side = (2**10, 64) if tiny else (2**29, 8192)
    array = jax.random.normal(jax.random.key(0), (num,), jnp.float32)
    copy_s = seconds(jax.jit(lambda x: x + 1), array)
    del array
    a, b = jax.random.normal(jax.random.key(1), (2, side, side), jnp.bfloat16)
    product_s = seconds(jax.jit(jnp.matmul), a, b)
    rates = {"copy_gb_per_s": 8 * num / copy_s / 1e9}
    rates["bfloat16_tflop_per_s"] = 2 * side**3 / product_s / 1e12
    print(json.dumps({name: round(rate, 3 if tiny else 0) for name, rate in rates.items()}))


if __name__ == "__main__":
    main()
