"""Time changes of the training step, each alone, as ratios of step times.

    python benchmarks/gpu_day_parts/variants.py --batch 256 --dtype bfloat16

The full network. `ratio` is the median time of the variant over that of the step as it is, measured
in turn: below 1 the variant is faster. XLA's flags are options of compiling, so an unknown flag is
an error of its variant alone. Prints a line of JSON for each.
"""

import argparse
import contextlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[2]))  # for benchmarks and configs

from i21k import backend

backend.prepare()

import jax

from benchmarks import timed_step
from configs import i21k_inception
from i21k.train import steps

NUM_CLASSES = 21841
# In order of what is most likely to matter.
FLAGS: dict[str, timed_step.Options] = {
    "latency hiding": {"xla_gpu_enable_latency_hiding_scheduler": True},
    "convolutions in NCHW": {"xla_gpu_force_conv_nchw": True},
    "convolutions in NHWC": {"xla_gpu_force_conv_nhwc": True},
    "cuDNN convolution fusions": {"xla_gpu_experimental_enable_conv_fusion": True},
    "no command buffers": {"xla_gpu_enable_command_buffer": ""},
    "cuDNN for fused products": {"xla_gpu_cudnn_gemm_fusion_level": 2},
    "no Triton products": {"xla_gpu_enable_triton_gemm": False},
    "fusions autotuned": {"xla_gpu_experimental_enable_fusion_autotuner": True},
    "deterministic": {"xla_gpu_deterministic_ops": True},
    "kernels not autotuned": {"xla_gpu_autotune_level": 0},
}


def ratio(
    plain: Callable[[], float], changed: Callable[[], float], rounds: int
) -> dict[str, float]:
    """Time both in turn, in an order that changes."""
    seconds: dict[str, list[float]] = {"plain": [], "changed": []}
    timers = {"plain": plain, "changed": changed}
    for number in range(rounds + 1):
        for name in list(timers)[:: 1 if number % 2 else -1]:
            taken = timers[name]()
            if number:  # one round to warm up
                seconds[name].append(taken)
    ratios = sorted(b / a for a, b in zip(*seconds.values(), strict=True))
    return {
        "ratio": round(statistics.median(ratios), 3),
        "lowest": round(ratios[0], 3),
        "highest": round(ratios[-1], 3),
        "plain_ms": round(1e3 * statistics.median(seconds["plain"]), 2),
        "changed_ms": round(1e3 * statistics.median(seconds["changed"]), 2),
    }


def say(name: str, result: dict[str, Any]) -> None:
    print(json.dumps({"variant": name} | result), flush=True)


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    cli.add_argument("--batch", type=int, default=256, help="images per device")
    cli.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    cli.add_argument("--rounds", type=int, default=5)
    cli.add_argument("--steps", type=int, default=10, help="steps of a turn")
    cli.add_argument("--only", nargs="+", choices=FLAGS, default=list(FLAGS), help="flags to try")
    cli.add_argument("--tiny", action="store_true", help="try this on a small network and batch")
    args = cli.parse_args()

    devices = jax.local_devices()
    recipe = i21k_inception.get_config()
    recipe.model.dtype, recipe.model.remat = args.dtype, "none"
    recipe.batch_size, num_classes = args.batch, NUM_CLASSES
    if args.tiny:
        recipe, num_classes = timed_step.make_tiny(recipe), timed_step.TINY["num_classes"]
    recipe.batch_size *= len(devices)
    plain = timed_step.build(recipe, num_classes, devices)

    # Steps that are started without waiting bound what one step in flight can gain.
    result = ratio(
        lambda: plain.run(args.steps, wait=True), lambda: plain.run(args.steps), args.rounds
    )
    say("steps in flight", {"compile_s": 0.0} | result)

    def compare(name: str, **changes: Any) -> None:
        start = time.perf_counter()
        try:
            changed = timed_step.build(recipe, num_classes, devices, **changes)
            compile_s = round(time.perf_counter() - start, 1)
            result = ratio(
                lambda: plain.run(args.steps), lambda: changed.run(args.steps), args.rounds
            )
        except Exception as error:  # XLA raises what happens to go wrong; the others still count
            say(name, {"error": f"{type(error).__name__}: {str(error)[:300]}"})
            return
        say(name, {"compile_s": compile_s} | result)

    if len(devices) == 1:
        say("all-reduce not head-first", {"not_run": "needs at least two GPUs"})
    else:
        with no_barrier():
            compare("all-reduce not head-first")
    for name in args.only:
        compare(name, options=FLAGS[name])


@contextlib.contextmanager
def no_barrier() -> Any:
    """Let XLA choose the order of the all-reduces."""
    with mock.patch.object(steps.lax, "optimization_barrier", lambda values: values):
        yield


if __name__ == "__main__":
    main()
