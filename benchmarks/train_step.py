"""Measure images per second of the training step of `configs/i21k_inception.py`.

    python benchmarks/train_step.py --batch 32 [--mxnet-python mx/bin/python]
    python benchmarks/train_step.py --batch 256 --dtype bfloat16 --torch-python pt/bin/python
    python benchmarks/train_step.py --config configs/quickstart.py --classes 25 --compile-only

One device, the full network with 21,841 classes, images of 224 px in the memory of the device. With
`--mxnet-python` or `--torch-python`, `peers/train_peers.py` does the same in MXNet or PyTorch. All
run in turn in each round, so that other load slows all of them. Prints one JSON line of medians.

`compile_s` is tracing and compiling without a cache. `peak_mib` is the peak of the memory of the
device, or of the process on a CPU. `mxnet` uses the threads that it chooses (one), and
`mxnet_all_cores` has OMP_NUM_THREADS set to the number of cores.
"""

import argparse
import json
import os
import resource
import runpy
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from i21k import backend

sys.path.insert(
    0, str(Path(__file__).parents[1])
)  # recipes are files of the checkout, not of the package

from configs import i21k_inception

NUM_CLASSES = 21841
WARM_UP_ROUNDS = 2


def parse_arguments() -> argparse.Namespace:
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    cli.add_argument("--batch", type=int, default=32)
    cli.add_argument("--rounds", type=int, default=5)
    cli.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="of activations; MXNet always runs float32",
    )
    cli.add_argument("--remat", choices=("none", "conv", "block"), default="none")
    cli.add_argument("--revision", choices=("released", "symbol2016"), default="released")
    cli.add_argument("--mxnet-python", help="interpreter that has MXNet 1.9.1")
    cli.add_argument("--torch-python", help="interpreter that has PyTorch")
    cli.add_argument("--config", help="with --compile-only: a recipe, used unchanged")
    cli.add_argument("--classes", type=int, default=NUM_CLASSES, help="with --compile-only")
    cli.add_argument(
        "--compile-only",
        action="store_true",
        help="compile twice, the second time from a persistent cache, and run nothing",
    )
    args = cli.parse_args()
    if args.config and not args.compile_only:
        cli.error("--config needs --compile-only: what is timed beside others is the full network")
    return args


def recipe_of(args: argparse.Namespace) -> ConfigDict:
    """Return the recipe on one device: a file's own, or the full network with the arguments."""
    if args.config:
        recipe = runpy.run_path(args.config)["get_config"]()
    else:
        recipe = i21k_inception.get_config()
        recipe.batch_size = args.batch
        recipe.model.dtype, recipe.model.remat, recipe.model.revision = (
            args.dtype,
            args.remat,
            args.revision,
        )
    recipe.devices = 1
    return recipe


args = parse_arguments()
recipe = recipe_of(args)
backend.prepare(cache=False)
backend.keep_memory(recipe.batch_size * recipe.image_size**2)

import jax
import jaxlib
import numpy as np

from i21k.data.load.loader import Batch
from i21k.interop.mxnet.write_symbol import write_symbol
from i21k.models.inception_network import InceptionNetwork
from i21k.models.network import Network
from i21k.train import steps
from i21k.train.devices import put_batch, put_state
from i21k.train.optimizer import (
    make_optimizer,
    make_schedule,
)
from i21k.train.recipe import parse
from i21k.train.state import init_state, make_network


def own_step(recipe: ConfigDict, num_classes: int) -> tuple[Network, Callable[[], float], float]:
    """Compile the train step.

    Returns:
        The network, a function that does a step and returns its seconds, and the seconds of
        compiling.
    """
    cfg = parse(recipe)
    model = make_network(cfg.model, num_classes)
    schedule = make_schedule(cfg.optimizer, 1e4, 10**5)
    optimizer = make_optimizer(cfg.optimizer, schedule, model)
    devices = jax.local_devices()[:1]
    state = put_state(init_state(model, optimizer, cfg.image_size, "he_normal", 0), devices)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (cfg.batch_size, cfg.image_size, cfg.image_size, 3), np.uint8)
    labels = rng.integers(0, num_classes, cfg.batch_size, np.int32)
    batch = put_batch(
        Batch(
            images, labels, rng.random(cfg.batch_size) < 0.5, np.ones(cfg.batch_size, np.float32)
        ),
        devices,
    )
    start = time.perf_counter()
    pmapped: Any = steps.make_train_step(
        model, optimizer, devices, cfg.accumulate_steps, cfg.reduce_dtype
    )
    step = pmapped.lower(state, batch).compile()
    compile_s = time.perf_counter() - start

    def once() -> float:
        nonlocal state
        start = time.perf_counter()
        state = jax.block_until_ready(step(state, batch))
        return time.perf_counter() - start

    return model, once, compile_s


def compile_seconds(recipe: ConfigDict, num_classes: int) -> dict[str, float]:
    """Trace and compile the step without and then from a persistent cache."""
    with tempfile.TemporaryDirectory() as directory:
        jax.config.update("jax_compilation_cache_dir", directory)
        cold = own_step(recipe, num_classes)[2]
        jax.clear_caches()
        return {"cold_s": round(cold, 1), "cached_s": round(own_step(recipe, num_classes)[2], 1)}


class Peer:
    """The step of another framework in its own environment.

    It is stopped while it is not its turn, because idle OpenMP threads keep cores busy.
    """

    def __init__(
        self,
        name: str,
        python: str,
        symbol: Path,
        args: argparse.Namespace,
        changes: dict[str, str],
    ) -> None:
        script = str(Path(__file__).parent / "peers/train_peers.py")
        options = [
            "--batch",
            str(args.batch),
            "--num-classes",
            str(NUM_CLASSES),
            "--dtype",
            args.dtype,
        ]
        command = [python, script, name, str(symbol), *options]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | changes,
        )

    def once(self) -> float:
        """Have it do a step and return the seconds."""
        assert self.process.stdin and self.process.stdout
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(
                f"The peer ended with code {self.process.wait()}. See its output above."
            )
        self.process.send_signal(signal.SIGSTOP)
        return float(answer)

    def peak_mib(self) -> float:
        """End it and return its peak memory."""
        self.process.send_signal(signal.SIGCONT)
        return float(self.process.communicate()[0])


def main() -> None:
    load_before = round(os.getloadavg()[0], 1)
    if args.compile_only:
        line = compile_seconds(recipe, args.classes) | {
            "config": args.config,
            "classes": args.classes,
            "load_before": load_before,
        }
        print(json.dumps(line | {"jax": jax.__version__, "jaxlib": jaxlib.__version__}))
        return

    model, once, compile_s = own_step(recipe, NUM_CLASSES)
    with tempfile.TemporaryDirectory() as directory:
        symbol = Path(directory) / "symbol.json"
        assert isinstance(model, InceptionNetwork)
        write_symbol(symbol, model.module)
        peers = {
            name: Peer(framework, python, symbol, args, changes)
            for framework, python, name, changes in (
                ("mxnet", args.mxnet_python, "mxnet", {}),
                (
                    "mxnet",
                    args.mxnet_python,
                    "mxnet_all_cores",
                    {"OMP_NUM_THREADS": str(os.cpu_count())},
                ),
                ("torch", args.torch_python, "torch", {}),
            )
            if python
        }
        timers = {"i21k": once} | {name: peer.once for name, peer in peers.items()}
        seconds: dict[str, list[float]] = {name: [] for name in timers}
        for number in range(args.rounds + WARM_UP_ROUNDS):
            for name, timer in timers.items():
                taken = timer()
                if number >= WARM_UP_ROUNDS:
                    seconds[name].append(taken)
        peer_peaks = {f"{name}_peak_mib": round(peer.peak_mib()) for name, peer in peers.items()}
    device = jax.local_devices()[0]
    stats = device.memory_stats()
    peak_bytes = (
        stats["peak_bytes_in_use"]
        if stats
        else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    )
    step_s = {name: statistics.median(taken) for name, taken in seconds.items()}
    line = {
        "img_per_s": round(args.batch / step_s["i21k"], 2),
        "step_ms": round(1e3 * step_s["i21k"]),
        "compile_s": round(compile_s, 1),
    }
    line |= {"peak_mib": round(peak_bytes / 2**20)}
    line |= {f"{name}_img_per_s": round(args.batch / step_s[name], 2) for name in peers}
    line |= {f"over_{name}": round(step_s[name] / step_s["i21k"], 2) for name in peers} | peer_peaks
    line |= {
        "batch": args.batch,
        "dtype": args.dtype,
        "remat": args.remat,
        "revision": args.revision,
        "size_px": 224,
        "classes": NUM_CLASSES,
    }
    line |= {
        "rounds": args.rounds,
        "device": device.device_kind,
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
    }
    # Runnable threads of all programs, mean of a minute.
    print(json.dumps(line | {"load_before": load_before}))


if __name__ == "__main__":
    main()
