"""The train step of a recipe with random images in memory, compiled: what several benchmarks time.

Import it after `i21k.backend.prepare`, since it imports JAX.
"""

import dataclasses
import resource
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from i21k.data.load.loader import Batch
from i21k.models.inception_tables import WIDTHS
from i21k.models.network import Network
from i21k.train import sizes, steps
from i21k.train.devices import put_batch, put_state
from i21k.train.optimizer import make_optimizer, make_schedule
from i21k.train.recipe import parse
from i21k.train.state import DeviceBatch, TrainState, init_state, make_network

Options = Mapping[str, bool | int | str]  # XLA's flags by name
TINY: dict[str, Any] = {"width": 0.125, "image_size": 64, "batch_size": 4, "num_classes": 25}


def few_blocks() -> None:
    """Leave three of the ten blocks in every network, to try a benchmark on a slow machine."""
    for name, widths in WIDTHS.items():
        blocks = {block: widths.blocks[block] for block in ("3a", "3c", "5b")}
        WIDTHS[name] = widths._replace(blocks=blocks)


def make_tiny(recipe: ConfigDict) -> ConfigDict:
    """Return the recipe with few blocks, filters and pixels; use it with `TINY["num_classes"]`."""
    few_blocks()
    recipe.model.width = TINY["width"]
    recipe.image_size, recipe.batch_size = TINY["image_size"], TINY["batch_size"]
    return recipe


@dataclasses.dataclass
class TimedStep:
    """A compiled step, and the state and batch that it runs on."""

    network: Network
    compiled: Any
    compile_s: float
    state: TrainState
    batch: DeviceBatch

    def run(self, num_steps: int = 1, wait: bool = False) -> float:
        """Do steps, wait for the last one and return the seconds of a step.

        Args:
            num_steps: to do.
            wait: also wait for each step before starting the next one, as training does.
        """
        start = time.perf_counter()
        for _ in range(num_steps):
            self.state = self.compiled(self.state, self.batch)
            if wait:
                jax.block_until_ready(self.state)
        jax.block_until_ready(self.state)
        return (time.perf_counter() - start) / num_steps

    def planned_mib(self) -> dict[str, int]:
        return planned_mib(self.compiled)


def build(
    recipe: ConfigDict,
    num_classes: int,
    devices: list[jax.Device] | None = None,
    options: Options | None = None,
) -> TimedStep:
    """Make and compile the step. By default it uses one device and XLA's defaults."""
    devices = devices or jax.local_devices()[:1]
    recipe.devices = len(devices)
    cfg = parse(recipe)
    network = make_network(cfg.model, num_classes)
    optimizer = make_optimizer(cfg.optimizer, make_schedule(cfg.optimizer, 1e4, 10**5), network)
    size = sizes.largest(cfg.image_size)
    state = put_state(init_state(network, optimizer, size, "he_normal", 0), devices)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (cfg.batch_size, size, size, 3), np.uint8)
    labels = rng.integers(0, num_classes, cfg.batch_size, np.int32)
    mirror, weights = rng.random(cfg.batch_size) < 0.5, np.ones(cfg.batch_size, np.float32)
    batch = put_batch(Batch(images, labels, mirror, weights), devices)
    start = time.perf_counter()
    pmapped: Any = steps.make_train_step(
        network, optimizer, devices, cfg.accumulate_steps, cfg.reduce_dtype
    )
    compiled = pmapped.lower(state, batch).compile(compiler_options=dict(options or {}))
    return TimedStep(network, compiled, time.perf_counter() - start, state, batch)


def planned_mib(compiled: Any) -> dict[str, int]:
    """Return XLA's plan of the memory of a compiled step, in MiB."""
    plan = compiled.memory_analysis()
    sizes = {"temp": plan.temp_size_in_bytes, "peak": plan.peak_memory_in_bytes}
    sizes |= {"alias": plan.alias_size_in_bytes, "argument": plan.argument_size_in_bytes}
    return {f"{name}_mib": round(size / 2**20) for name, size in sizes.items()}


def peak_mib() -> float:
    """Return the peak of the device's memory so far, or of the process's on a CPU, in MiB."""
    stats = jax.local_devices()[0].memory_stats()
    if stats:
        return stats["peak_bytes_in_use"] / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
