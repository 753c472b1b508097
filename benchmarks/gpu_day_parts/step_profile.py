"""Profile the training step: its kernels by time, as a table.

    python benchmarks/gpu_day_parts/step_profile.py --batch 256 --dtype bfloat16

The full network. Prints a line of JSON with the sums, one for each part of the step, then one for
each of the operations that take longest. Times are of one step, the mean of several. `least_ms` is
the bound of `benchmarks/roofline.py`, of this very module. XLA's command buffers are off, because
the profiler may see each as one kernel.
"""

import argparse
import collections
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # for benchmarks and configs

from i21k import backend

backend.prepare()

import jax

from benchmarks import roofline, timed_step
from benchmarks.hlo import Module
from configs import i21k_inception

NUM_CLASSES = 21841
NUM_STEPS = 3
NO_COMMAND_BUFFERS = {"xla_gpu_enable_command_buffer": ""}


def events(profile: Any) -> Iterator[Any]:
    """Yield the events of kernels: those on a GPU's streams, or XLA's operations on a CPU."""
    planes = list(profile.planes)
    gpus = [plane for plane in planes if plane.name.startswith("/device:GPU")]
    for plane in gpus or planes:
        for line in plane.lines:
            if gpus and "Stream" not in line.name:
                continue  # the other lines add up the streams by module and by layer
            for event in line.events:
                if gpus or any(key == "hlo_op" for key, _ in event.stats):
                    yield event


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    cli.add_argument("--batch", type=int, default=256)
    cli.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    cli.add_argument("--remat", choices=("none", "conv", "block"), default="none")
    cli.add_argument("--top", type=int, default=25)
    cli.add_argument("--tiny", action="store_true", help="try this on a small network and batch")
    args = cli.parse_args()

    recipe, num_classes = i21k_inception.get_config(), NUM_CLASSES
    recipe.batch_size, recipe.model.dtype, recipe.model.remat = args.batch, args.dtype, args.remat
    if args.tiny:
        recipe, num_classes = timed_step.make_tiny(recipe), timed_step.TINY["num_classes"]
    own = timed_step.build(recipe, num_classes, options=NO_COMMAND_BUFFERS)
    own.run(3)
    with tempfile.TemporaryDirectory() as directory:
        with jax.profiler.trace(directory):
            step_s = own.run(NUM_STEPS)
        file = next(Path(directory).rglob("*.xplane.pb"))
        profile = jax.profiler.ProfileData.from_file(str(file))
    found = list(events(profile))
    if not found:
        sys.exit("the profile has no kernels")
    busy_ms: collections.Counter[str] = collections.Counter()
    longest: dict[str, tuple[float, str]] = {}
    for event in found:
        name = str(dict(event.stats).get("hlo_op") or event.name)  # some profiles have no operation
        ms = event.duration_ns / 1e6 / NUM_STEPS
        busy_ms[name] += ms
        longest[name] = max(longest.get(name, (0.0, "")), (ms, event.name))
    known = {
        kernel.name: kernel for kernel in roofline.kernels(Module.read(own.compiled.as_text()))
    }
    line = {
        "step_ms": round(1e3 * step_s, 2),
        "kernels_ms": round(busy_ms.total(), 2),
        "kernels_a_step": round(len(found) / NUM_STEPS),
        "operations": len(busy_ms),
        "operations_not_in_the_module": len(busy_ms.keys() - known.keys()),
    }
    print(json.dumps(line), flush=True)

    def least_ms(name: str) -> float:
        flops_per_s = roofline.FLOPS_PER_S[recipe.model.dtype]
        return 1e3 * known[name].seconds(flops_per_s) if name in known else 0.0

    def part(name: str) -> str:
        return known[name].part if name in known else "not in the module"

    for wanted in sorted({part(name) for name in busy_ms}):
        names = [name for name in busy_ms if part(name) == wanted]
        sums = [sum(busy_ms[name] for name in names), sum(map(least_ms, names))]
        row = {"part": wanted, "operations": len(names)}
        print(json.dumps(row | dict(zip(("ms", "least_ms"), rounded(sums), strict=True))))
    for name, ms in busy_ms.most_common(args.top):
        layer = known[name].layer if name in known else ""
        row = {"operation": name, "layer": layer, "part": part(name)}
        row |= dict(zip(("ms", "least_ms"), rounded([ms, least_ms(name)]), strict=True))
        print(json.dumps(row | {"kernel": longest[name][1][:60]}), flush=True)


def rounded(numbers: Iterable[float]) -> list[float]:
    return [round(number, 3) for number in numbers]


if __name__ == "__main__":
    main()
