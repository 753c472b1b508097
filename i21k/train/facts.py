"""What a run finds and says before it starts: devices, data, model, memory. Each line comes before the slow thing it names."""

import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from i21k.data.format.splits import Split
from i21k.data.load import loader
from i21k.errors import UserError
from i21k.models.inception_bn import InceptionBN
from i21k.models.summary import forward_gflops
from i21k.train import feed, steps, workdir
from i21k.train.recipe import Recipe


def find_devices(cfg: Recipe) -> list[jax.Device]:
    """Return the devices that a recipe asks for: of each process the first ones, equally many, process after process.

    Raises:
        ValueError: if there are fewer, saying how to run on fewer and why JAX fell back to the CPU if it did; if processes have not
            equally many; or if the batch sizes do not divide by their number (for training, times that of micro-batches).
    """
    num_processes = jax.process_count()
    of_process = [jax.local_devices(process_index=p) for p in range(num_processes)]
    there = [device for devices in of_process for device in devices]
    wanted = cfg.devices or len(there)
    if num_processes > 1 and (
        wanted % num_processes or wanted // num_processes > min(map(len, of_process))
    ):
        most = min(map(len, of_process)) * num_processes
        raise UserError(
            f"config.devices is {cfg.devices}{'' if cfg.devices else ', all'}; the {num_processes} processes have"
            f" {', '.join(str(len(devices)) for devices in of_process)} {there[0].platform} devices, and each must give equally many;"
            f" use --config.devices={most}"
        )
    if wanted > len(there):
        names = f"{len(there)} {there[0].platform} device{'s' * (len(there) > 1)}"
        why = f" ({reason})" if there[0].platform == "cpu" and (reason := why_no_gpu()) else ""
        ways = f"use --config.devices={len(there)}"
        if there[0].platform == "cpu":
            ways += f", or let {wanted} CPU devices stand in: JAX_NUM_CPU_DEVICES={wanted} python launch.py ..."
        raise UserError(f"config.devices is {wanted}; this machine has {names}{why}; {ways}")
    if cfg.batch_size % (num_parts := wanted * cfg.accumulate_steps):
        up = -(-cfg.batch_size // num_parts) * num_parts
        parts = f"{wanted} devices" + (
            f" x {cfg.accumulate_steps} accumulate_steps" if cfg.accumulate_steps > 1 else ""
        )
        raise UserError(
            f"batch_size {cfg.batch_size} is not divisible by {parts}; try --config.batch_size={up}"
        )
    return [device for devices in of_process for device in devices[: wanted // num_processes]]


def why_no_gpu() -> str:
    """Say why JAX uses the CPU although there may be a GPU; empty if there is none to be seen."""
    errors = dict(
        getattr(jax._src.xla_bridge, "_backend_errors", {})
    )  # JAX has no public way to ask
    errors.pop("tpu", None)  # it looks for one everywhere
    if errors:
        return "JAX fell back to the CPU: " + "; ".join(
            f"{name}: {str(error).splitlines()[0]}" for name, error in errors.items()
        )
    if Path("/proc/driver/nvidia").exists():
        return 'JAX runs on the CPU although there is an NVIDIA driver; install its CUDA packages: pip install -e ".[cuda]"'
    return ""


def say_run(
    say: Callable[[str], None],
    cfg: Recipe,
    directory: Path,
    devices: Sequence[jax.Device],
    train: Split,
    sets: Mapping[str, Split],
) -> None:
    """Say versions, devices, data and steps."""
    versions = workdir.versions()
    say(
        " | ".join(
            f"{name} {versions[name]}"
            for name in ("i21k", "commit", "jax", "flax", "grain", "orbax-checkpoint")
            if name in versions
        )
    )
    processes = f" in {jax.process_count()} processes" if jax.process_count() > 1 else ""
    say(
        f"{len(devices)} x {devices[0].device_kind}{processes} | {loader.describe_hands(feed.train_options(cfg))} | workdir {directory}"
    )
    if devices[0].platform == "cpu" and (reason := why_no_gpu()):
        say(f"warning: {reason}")
    evaluated = ", ".join(f"{split.num_records:,} {name} images" for name, split in sets.items())
    for skipped in feed.skipped_sets(cfg):
        say(f"evaluation {skipped.name} is skipped: {train.directory} has no split {skipped.split}")
    size = sum(path.stat().st_size for path in train.shard_paths)
    say(
        f"{train.num_records:,} train images of {len(train.classes):,} classes in {len(train.shard_paths):,} shards"
        f" ({size / 2**20:,.0f} MiB) | {evaluated or 'no evaluation'}"
    )
    per_epoch = train.num_records / cfg.batch_size
    device_batch = (
        f"{cfg.batch_size // len(devices) // cfg.accumulate_steps}"
        + f" x {cfg.accumulate_steps}" * (cfg.accumulate_steps > 1)
    )
    say(
        f"{cfg.epochs} epochs of {per_epoch:,.1f} steps | batch {cfg.batch_size} = {len(devices)} x {device_batch}"
        f" | {cfg.image_size} px, crop {cfg.data.crop}"
    )


def say_model(
    say: Callable[[str], None], model: InceptionBN, state: steps.TrainState, image_size: int
) -> None:
    """Say parameters and floating-point operations."""
    num_parameters = sum(x.size for x in jax.tree.leaves(state.params))
    say(
        f"Inception-BN {model.variant}, {model.revision}, width {model.width:g}: {num_parameters:,} parameters,"
        f" {forward_gflops(model, image_size):.2f} GFLOPs forward an image | {jnp.dtype(model.dtype).name}, remat {model.remat}"
    )


def say_first_batch(say: Callable[[str], None], batch: loader.Batch) -> None:
    """Say what the pictures look like as numbers: the quickest way to see that they are pictures."""
    images, labels = batch.images, batch.labels
    say(
        f"first batch {images.dtype} {list(images.shape)}, {images.min()}..{images.max()}, mean {images.mean():.1f},"
        f" labels {labels.min()}..{labels.max()} | compiling the train step"
    )


def peak_memory(devices: Sequence[jax.Device]) -> str:
    """Return the peak of a device's memory, or of the process where the device does not say (CPU)."""
    stats: dict[str, Any] | None = next(
        device for device in devices if device.process_index == jax.process_index()
    ).memory_stats()
    if stats:
        return f"peak device memory {stats['peak_bytes_in_use'] / 2**20:,.0f} MiB"
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return f"peak memory of the process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit:,.0f} MiB"
