"""Profile the training step: its kernels by time, as a table.

    python benchmarks/gpu_day_parts/step_profile.py --batch 256 --dtype bfloat16

The full network. Prints a line of JSON with the sums, then one for each of the top kernels. Times
are of one step, the mean of several; kernels of one name are added up.
"""

import argparse
import collections
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from i21k import backend

backend.prepare()

import jax

from benchmarks import timed_step
from configs import i21k_inception

NUM_CLASSES = 21841
NUM_STEPS = 3


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


def origin(stats: dict[str, Any]) -> str:
    """Return the line of the network that a kernel comes from, if the profile says it."""
    name = str(stats.get("tf_op") or stats.get("name") or stats.get("hlo_op") or "")
    return re.sub(r"jit\([^)]*\)/|shard_map/|pmap\([^)]*\)/", "", name)[:100]


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
    own = timed_step.build(recipe, num_classes)
    own.run(3)
    with tempfile.TemporaryDirectory() as directory:
        with jax.profiler.trace(directory):
            step_s = own.run(NUM_STEPS)
        file = next(Path(directory).rglob("*.xplane.pb"))
        profile = jax.profiler.ProfileData.from_file(str(file))
    busy_ns: collections.Counter[str] = collections.Counter()
    calls: collections.Counter[str] = collections.Counter()
    origins: dict[str, str] = {}
    for event in events(profile):
        busy_ns[event.name] += event.duration_ns
        calls[event.name] += 1
        origins.setdefault(event.name, origin(dict(event.stats)))
    total_ns = busy_ns.total()
    line = {
        "step_ms": round(1e3 * step_s, 2),
        "kernels_ms": round(total_ns / 1e6 / NUM_STEPS, 2),
        "kernels_a_step": round(calls.total() / NUM_STEPS),
        "names": len(busy_ns),
    }
    print(json.dumps(line), flush=True)
    for name, ns in busy_ns.most_common(args.top):
        kernel = {
            "kernel": name[:80],
            "ms": round(ns / 1e6 / NUM_STEPS, 3),
            "share": round(ns / total_ns, 3),
            "calls": round(calls[name] / NUM_STEPS),
            "first_from": origins[name],
        }
        print(json.dumps(kernel), flush=True)


if __name__ == "__main__":
    main()
