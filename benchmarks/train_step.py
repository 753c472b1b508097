"""Pictures a second of the training step of `configs/i21k_inception.py`, and (on request) of MXNet's or PyTorch's, in turn.

    python benchmarks/train_step.py --batch 32 [--mxnet-python mx/bin/python] [--torch-python pt/bin/python]
    python benchmarks/train_step.py --batch 256 --dtype bfloat16 --torch-python pt/bin/python       # on a GPU

One device, the full network, 21,841 classes, pictures of 224 px that lie in the device's memory. What is timed runs round by round in turn,
so that a busy machine slows all of it; medians. Prints one JSON line. `compile_s` is tracing and compiling without any cache, `peak_mib`
the peak of the device's memory, or of the whole process where the device does not say (CPU). Peers: `peers/train_peers.py`; MXNet
takes the threads it chooses (one) unless the environment has OMP_NUM_THREADS.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from i21k import backend

backend.prepare(cache=False)

import jax  # noqa: E402
import jaxlib  # noqa: E402
import numpy as np  # noqa: E402

from i21k.data.loader import Batch  # noqa: E402
from i21k.model.inception_bn import REVISIONS, InceptionBN  # noqa: E402
from i21k.model.mxnet_symbol import write_symbol  # noqa: E402
from i21k.train import steps  # noqa: E402
from i21k.train.config import parse  # noqa: E402
from i21k.train.optimizer import make_optimizer, make_schedule  # noqa: E402

sys.path.insert(0, str(Path(__file__).parents[1]))  # recipes are files of the checkout, not of the package

from configs import i21k_inception  # noqa: E402

NUM_CLASSES = 21841
WARM_UP_ROUNDS = 2


def own_step(args: argparse.Namespace) -> tuple[InceptionBN, Callable[[], float], float]:
    """Compile the step; return the network, a function that does a step and gives its seconds, and the seconds compiling took."""
    recipe = i21k_inception.get_config()
    recipe.batch_size, recipe.devices = args.batch, 1
    recipe.model.dtype, recipe.model.remat, recipe.model.revision = args.dtype, args.remat, args.revision
    cfg = parse(recipe)
    model = steps.make_model(cfg.model, NUM_CLASSES)
    schedule = make_schedule(cfg.optimizer, 1e4, 10**5)
    optimizer = make_optimizer(cfg.optimizer, schedule, fixed_gamma=REVISIONS[args.revision].fixed_gamma)
    devices = jax.local_devices()[:1]
    state = steps.put_state(steps.init_state(model, optimizer, cfg.image_size, "he_normal", 0), devices)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (args.batch, cfg.image_size, cfg.image_size, 3), np.uint8)
    labels = rng.integers(0, NUM_CLASSES, args.batch, np.int32)
    batch = steps.put_batch(Batch(images, labels, rng.random(args.batch) < 0.5, np.ones(args.batch, np.float32)), devices)
    start = time.perf_counter()
    pmapped: Any = steps.make_train_step(model, optimizer, devices)
    step = pmapped.lower(state, batch).compile()
    compile_s = time.perf_counter() - start

    def once() -> float:
        nonlocal state
        start = time.perf_counter()
        state = jax.block_until_ready(step(state, batch))
        return time.perf_counter() - start

    return model, once, compile_s


class Peer:
    """Another framework's step in its own environment."""

    def __init__(self, name: str, python: str, symbol: Path, args: argparse.Namespace) -> None:
        script = str(Path(__file__).parent / "peers/train_peers.py")
        options = ["--batch", str(args.batch), "--num-classes", str(NUM_CLASSES), "--dtype", args.dtype]
        self.process = subprocess.Popen(
            [python, script, name, str(symbol), *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def once(self) -> float:
        """Have it do a step and return the seconds."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"the peer ended with code {self.process.wait()}; what it said stands above")
        return float(answer)

    def peak_mib(self) -> float:
        """End it and return its peak memory."""
        return float(self.process.communicate()[0])


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    cli.add_argument("--batch", type=int, default=32)
    cli.add_argument("--rounds", type=int, default=5)
    cli.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of activations; MXNet always runs float32")
    cli.add_argument("--remat", choices=("none", "conv", "block"), default="none")
    cli.add_argument("--revision", choices=tuple(REVISIONS), default="released")
    cli.add_argument("--mxnet-python", help="interpreter that has MXNet 1.9.1")
    cli.add_argument("--torch-python", help="interpreter that has PyTorch")
    args = cli.parse_args()
    load_before = round(os.getloadavg()[0], 1)
    pythons = {"mxnet": args.mxnet_python, "torch": args.torch_python}

    model, once, compile_s = own_step(args)
    with tempfile.TemporaryDirectory() as directory:
        symbol = Path(directory) / "symbol.json"
        write_symbol(symbol, model)
        peers = {name: Peer(name, python, symbol, args) for name, python in pythons.items() if python}
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
    peak_bytes = stats["peak_bytes_in_use"] if stats else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step_s = {name: statistics.median(taken) for name, taken in seconds.items()}
    line = {"img_per_s": round(args.batch / step_s["i21k"], 2), "step_ms": round(1e3 * step_s["i21k"]), "compile_s": round(compile_s, 1)}
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
    line |= {"rounds": args.rounds, "device": device.device_kind, "jax": jax.__version__, "jaxlib": jaxlib.__version__}
    print(json.dumps(line | {"load_before": load_before}))  # other programs' share of the machine: runnable threads, mean of a minute


if __name__ == "__main__":
    main()
