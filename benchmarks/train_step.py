"""Measure images per second of the training step of `configs/i21k_inception.py`.

    python benchmarks/train_step.py --batch 32 [--mxnet-python mx/bin/python]
    python benchmarks/train_step.py --batch 256 --dtype bfloat16 --torch-python pt/bin/python
    python benchmarks/train_step.py --batch 32 --freeze trunk
    python benchmarks/train_step.py --config configs/quickstart.py --classes 25 --compile-only

One device, the full network with 21,841 classes, images of 224 px in the memory of the device. With
`--mxnet-python` or `--torch-python`, `peers/train_peers.py` does the same in MXNet or PyTorch. All
run in turn in each round, so that other load slows all of them. Prints one JSON line of medians.
On a GPU use `--steps 10`: a turn is then so many steps without waiting in between.

`compile_s` is tracing and compiling, without a cache unless the environment names one. `peak_mib`
is the peak of the memory of the device, or of the process on a CPU; `planned_peak_mib` is XLA's
plan. `mxnet` uses the threads that it chooses (one), and `mxnet_all_cores` has OMP_NUM_THREADS set
to the number of cores.
"""

import argparse
import json
import os
import runpy
import signal
import statistics
import subprocess
import sys
import tempfile
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
    cli.add_argument("--steps", type=int, default=1, help="steps of a turn")
    cli.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="of activations; MXNet always runs float32",
    )
    cli.add_argument("--remat", choices=("none", "conv", "block"), default="none")
    cli.add_argument("--freeze", default="none", help="parts that are frozen, as in model.freeze")
    cli.add_argument("--revision", choices=("released", "symbol2016"), default="released")
    cli.add_argument("--mxnet-python", help="interpreter that has MXNet 1.9.1")
    cli.add_argument("--torch-python", help="interpreter that has PyTorch")
    cli.add_argument(
        "--torch-compile",
        default="max-autotune-no-cudagraphs",
        help="mode of torch.compile on a GPU; none: eager",
    )
    cli.add_argument("--config", help="time a recipe, used unchanged, without peers")
    cli.add_argument("--image-size", type=int, help="with --config: pixels, instead of its own")
    cli.add_argument("--classes", type=int, default=NUM_CLASSES)
    cli.add_argument("--tiny", action="store_true", help="try this on a small network and batch")
    cli.add_argument(
        "--compile-only",
        action="store_true",
        help="compile twice, the second time from a persistent cache, and run nothing",
    )
    args = cli.parse_args()
    if args.config and (args.mxnet_python or args.torch_python):
        cli.error("--config goes without peers: what is timed beside others is the full network")
    return args


def recipe_of(args: argparse.Namespace) -> ConfigDict:
    """Return the recipe: a file's own, or the full network with the arguments."""
    if args.config:
        recipe = runpy.run_path(args.config)["get_config"]()
        if args.image_size:
            recipe.image_size = args.image_size
    else:
        recipe = i21k_inception.get_config()
        recipe.batch_size = args.batch
        recipe.model.dtype, recipe.model.remat, recipe.model.revision = (
            args.dtype,
            args.remat,
            args.revision,
        )
    recipe.devices = 1
    recipe.model.freeze = args.freeze
    return recipe


args = parse_arguments()
recipe = recipe_of(args)
backend.prepare(cache=False)
backend.keep_memory(recipe.batch_size * recipe.image_size**2)

import jax
import jaxlib

from benchmarks import timed_step
from i21k.interop.mxnet.write_symbol import write_symbol
from i21k.models.inception_network import InceptionNetwork

if args.tiny:
    recipe, args.classes = timed_step.make_tiny(recipe), timed_step.TINY["num_classes"]


def compile_seconds(recipe: ConfigDict, num_classes: int) -> dict[str, float]:
    """Trace and compile the step without and then from a persistent cache."""
    with tempfile.TemporaryDirectory() as directory:
        jax.config.update("jax_compilation_cache_dir", directory)
        cold = timed_step.build(recipe, num_classes).compile_s
        jax.clear_caches()
        cached = timed_step.build(recipe, num_classes).compile_s
        return {"cold_s": round(cold, 1), "cached_s": round(cached, 1)}


class PeerEnded(Exception):
    """A peer has ended by itself. Its output says why."""


class Peer:
    """The step of another framework in its own environment.

    It is stopped while it is not its turn, because idle OpenMP threads keep cores busy.
    """

    def __init__(self, name: str, python: str, symbol: Path, changes: dict[str, str]) -> None:
        script = str(Path(__file__).parent / "peers/train_peers.py")
        options = {
            "--batch": recipe.batch_size,
            "--num-classes": args.classes,
            "--dtype": args.dtype,
            "--size-px": recipe.image_size,
            "--steps": args.steps,
            "--compile": args.torch_compile,
        }
        given = (str(word) for option in options.items() for word in option)
        self.process = subprocess.Popen(
            [python, script, name, str(symbol), *given],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | changes,
        )

    def once(self) -> float:
        """Have it do the steps of a turn and return the seconds of a step."""
        assert self.process.stdin and self.process.stdout
        try:
            self.process.send_signal(signal.SIGCONT)
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended, so there is no answer
        answer = self.process.stdout.readline()
        if not answer:
            raise PeerEnded(f"ended with code {self.process.wait()}")
        self.process.send_signal(signal.SIGSTOP)
        return float(answer)

    def peak_mib(self) -> float:
        """End it and return its peak memory."""
        self.process.send_signal(signal.SIGCONT)
        return float(self.process.communicate()[0])


def take_turns(
    timers: dict[str, Callable[[], float]],
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Return the seconds of a step by timer and round, and why peers have ended."""
    seconds: dict[str, list[float]] = {name: [] for name in timers}
    errors: dict[str, str] = {}
    for number in range(args.rounds + WARM_UP_ROUNDS):
        for name in list(seconds):
            try:
                taken = timers[name]()
            except PeerEnded as error:
                errors[f"{name}_error"] = str(error)
                del seconds[name]
                continue
            if number >= WARM_UP_ROUNDS:
                seconds[name].append(taken)
    return seconds, errors


def line_of(
    own: timed_step.TimedStep,
    seconds: dict[str, list[float]],
    more: dict[str, Any],
    load_before: float,
) -> str:
    """Return the results as a line of JSON."""
    step_s = {name: statistics.median(taken) for name, taken in seconds.items()}
    rates = {name: round(recipe.batch_size / taken, 2) for name, taken in step_s.items()}
    peers = [name for name in step_s if name != "i21k"]
    device = jax.local_devices()[0]
    line = {
        "img_per_s": rates["i21k"],
        "step_ms": round(1e3 * step_s["i21k"], 2),
        "compile_s": round(own.compile_s, 1),
        "peak_mib": round(timed_step.peak_mib()),
        "planned_peak_mib": own.planned_mib()["peak_mib"],
    }
    line |= {f"{name}_img_per_s": rates[name] for name in peers}
    line |= {f"over_{name}": round(step_s[name] / step_s["i21k"], 2) for name in peers} | more
    line |= {
        "batch": recipe.batch_size,
        "dtype": recipe.model.dtype,
        "remat": recipe.model.remat,
        "freeze": recipe.model.freeze,
        "revision": recipe.model.revision,
        "size_px": recipe.image_size,
        "classes": args.classes,
    }
    line |= {
        "rounds": args.rounds,
        "steps_a_turn": args.steps,
        "device": device.device_kind,
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
    }
    # Runnable threads of all programs, mean of a minute.
    return json.dumps(line | {"load_before": load_before})


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

    own = timed_step.build(recipe, args.classes)
    timers: dict[str, Callable[[], float]] = {"i21k": lambda: own.run(args.steps)}
    wanted = [
        (framework, python, name, changes)
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
    ]
    if not wanted:
        print(line_of(own, take_turns(timers)[0], {}, load_before))
        return
    with tempfile.TemporaryDirectory() as directory:
        symbol = Path(directory) / "symbol.json"
        assert isinstance(own.network, InceptionNetwork)
        write_symbol(symbol, own.network.module)
        peers = {
            name: Peer(framework, python, symbol, changes)
            for framework, python, name, changes in wanted
        }
        seconds, errors = take_turns(timers | {name: peer.once for name, peer in peers.items()})
        peaks = {
            f"{name}_peak_mib": round(peer.peak_mib())
            for name, peer in peers.items()
            if name in seconds
        }
    print(line_of(own, seconds, peaks | errors, load_before))


if __name__ == "__main__":
    main()
