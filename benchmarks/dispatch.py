"""Cost of waiting for each training step before starting the next one, as a ratio of step times.

    python benchmarks/dispatch.py [--rounds 6 --steps 30]

The step of `configs/quickstart.py` (64 px, width 0.25) with batch 32, on one device and a batch
that is in memory. `wait` starts a step when the previous one is done, as `i21k.train.loop` does.
`in_flight` starts it while the previous one runs, and waits for the one before that. Both
alternate, so that other programs on the machine slow both. Prints one JSON line.
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from i21k import backend

backend.prepare()

import jax
import numpy as np

from configs import quickstart
from i21k.data.load.loader import Batch
from i21k.train import steps
from i21k.train.devices import put_batch, put_state
from i21k.train.optimizer import make_optimizer, make_schedule
from i21k.train.recipe import parse
from i21k.train.state import AXIS, DeviceBatch, TrainState, init_state, make_network

NUM_CLASSES = 25
IMAGE_SIZE, BATCH_SIZE = 64, 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=30, help="steps a round")
    args = parser.parse_args()

    cfg = parse(quickstart.get_config())
    network = make_network(cfg.model, NUM_CLASSES)
    optimizer = make_optimizer(cfg.optimizer, make_schedule(cfg.optimizer, 1e3, 10**5), network)
    devices = jax.local_devices()[:1]
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (BATCH_SIZE, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    labels = rng.integers(0, NUM_CLASSES, BATCH_SIZE, np.int32)
    mirror, weights = rng.random(BATCH_SIZE) < 0.5, np.ones(BATCH_SIZE, np.float32)
    batch = put_batch(Batch(images, labels, mirror, weights), devices)

    def with_token(state: TrainState, batch: DeviceBatch) -> tuple[TrainState, Any]:
        state = steps.train_step(state, batch, network=network, optimizer=optimizer)
        return state, state.step + 1  # the next step takes the state's buffers, but not this one

    step: Any = jax.pmap(
        with_token, AXIS, in_axes=(None, 0), out_axes=None, devices=devices, donate_argnums=(0,)
    )
    state = put_state(init_state(network, optimizer, IMAGE_SIZE, "he_normal", 0), devices)
    state, token = step(state, batch)

    def seconds_a_step(depth: int) -> float:
        nonlocal state
        tokens = [token] * (depth + 1)
        start = time.perf_counter()
        for _ in range(args.steps):
            jax.block_until_ready(tokens[-1 - depth])
            state, newest = step(state, batch)
            tokens.append(newest)
        jax.block_until_ready(state)
        return (time.perf_counter() - start) / args.steps

    jax.block_until_ready(token)
    seconds: dict[str, list[float]] = {"wait": [], "in_flight": []}
    for number in range(args.rounds):
        order = ("wait", "in_flight") if number % 2 == 0 else ("in_flight", "wait")
        for name in order:
            seconds[name].append(seconds_a_step({"wait": 0, "in_flight": 1}[name]))
    pairs = zip(seconds["in_flight"], seconds["wait"], strict=True)
    ratios = sorted(round(a / b, 3) for a, b in pairs)
    medians = {f"{name}_ms": round(1e3 * statistics.median(s), 1) for name, s in seconds.items()}
    print(
        json.dumps(
            medians
            | {"in_flight_over_wait": round(statistics.median(ratios), 3), "ratios": ratios}
            | {"device": devices[0].device_kind, "jax": jax.__version__}
            | {"load_before": round(os.getloadavg()[0], 1)}
        )
    )


if __name__ == "__main__":
    main()
