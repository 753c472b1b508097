"""Train on packed images through the loader, and time the loader alone.

    python benchmarks/gpu_day_parts/end_to_end.py --data DIR --batch 256 --dtype bfloat16

The full network with 21,841 classes at 224 px. `data_wait` is the share of time in which the step
waits for images, `cores_used` how many cores of the machine are busy. Prints a line of JSON for the
step alone, for training with threads, for the loader alone by threads and by processes, and for
training with processes: as `i21k.train.loop` does, which starts a step when the one before is done,
and with the next step in the device's queue.
"""

import argparse
import collections
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # for benchmarks and configs

from i21k import backend

backend.prepare()

import jax

from benchmarks import timed_step
from benchmarks.loader import BATCH, rate
from configs import i21k_inception
from i21k.data.format.splits import Split, open_split
from i21k.data.load import loader
from i21k.train.feed import Feeder

NUM_CLASSES = 21841
WARM_UP_STEPS = 5


class BusyCores:
    """Counts the cores that are busy, in all programs of the machine."""

    def __init__(self) -> None:
        self._start, self._busy = time.perf_counter(), self._busy_s()

    @staticmethod
    def _busy_s() -> float:
        fields = [int(x) for x in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
        idle = fields[3] + fields[4]  # idle and waiting for a disk
        return (sum(fields[:8]) - idle) / os.sysconf("SC_CLK_TCK")

    def mean(self) -> float:
        return (self._busy_s() - self._busy) / (time.perf_counter() - self._start)


def train(
    own: timed_step.TimedStep,
    split: Split,
    options: loader.LoaderOptions,
    seconds: float,
    num_queued: int = 0,
) -> dict[str, Any]:
    """Train for a while as a run does: the next batch is sent while a step runs.

    `num_queued` steps are started while another one runs. Then `data_wait` is the wait of the host.
    """
    devices = jax.local_devices()[:1]
    after = jax.jit(lambda number: number + 1)  # an array that the next step does not take over
    started: collections.deque[jax.Array] = collections.deque()
    count, waited, start, cores = -WARM_UP_STEPS, 0.0, time.perf_counter(), BusyCores()
    with (
        loader.batches(split, options, 0, 10**9) as batches,
        Feeder(batches, devices) as feeder,
    ):
        while count <= 0 or time.perf_counter() - start < seconds:
            while len(started) > num_queued:
                jax.block_until_ready(started.popleft())
            if count == 0:
                waited, start, cores = 0.0, time.perf_counter(), BusyCores()
            before = time.perf_counter()
            _, batch = feeder.take()
            waited += time.perf_counter() - before
            own.state = own.compiled(own.state, batch)
            started.append(after(own.state.step) if num_queued else own.state.step)
            count += 1
        jax.block_until_ready(own.state)
        taken, used = time.perf_counter() - start, cores.mean()
    return {
        "img_per_s": round(count * options.batch_size / taken, 1),
        "data_wait": round(waited / taken, 3),
        "cores_used": round(used, 1),
    }


def load(split: Split, options: loader.LoaderOptions, seconds: float) -> dict[str, Any]:
    """Load images and do nothing with them."""
    with loader.batches(split, options, 0, 10**9) as batches:
        next(batches)
        cores = BusyCores()
        images_per_s = rate(batches, seconds, 2, options.batch_size)
        used = cores.mean()
    return {"img_per_s": round(images_per_s, 1), "data_wait": "", "cores_used": round(used, 1)}


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    cli.add_argument("--data", type=Path, required=True, help="packed dataset")
    cli.add_argument("--split", default="train")
    cli.add_argument("--batch", type=int, default=256)
    cli.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    cli.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    cli.add_argument("--counts", type=int, nargs="+", default=(4, 8, 16), help="threads, processes")
    cli.add_argument("--tiny", action="store_true", help="try this on a small network and batch")
    args = cli.parse_args()

    recipe = i21k_inception.get_config()
    recipe.batch_size, recipe.model.dtype, recipe.model.remat = args.batch, args.dtype, "none"
    num_classes = NUM_CLASSES
    if args.tiny:
        recipe, num_classes = timed_step.make_tiny(recipe), timed_step.TINY["num_classes"]
    split = open_split(args.data, args.split)

    def options(batch_size: int, threads: int, workers: int = 0) -> loader.LoaderOptions:
        return loader.LoaderOptions(
            batch_size, recipe.image_size, crop="region", threads=threads, workers=workers
        )

    def say(what: str, threads: int, workers: int, result: dict[str, Any]) -> None:
        line = {"what": what, "threads": threads, "processes": workers}
        print(json.dumps(line | result), flush=True)

    own = timed_step.build(recipe, num_classes)
    own.run(3)
    alone = round(recipe.batch_size / own.run(3 if args.tiny else 20), 1)
    say("step alone", 0, 0, {"img_per_s": alone, "data_wait": "", "cores_used": ""})
    cores = os.cpu_count() or 1
    threads = options(recipe.batch_size, cores)
    say("loader and step", cores, 0, train(own, split, threads, args.seconds))
    loaded = min(BATCH, split.num_records)
    for count in args.counts:
        say("loader alone", count, 0, load(split, options(loaded, count), args.seconds))
    for count in args.counts:
        say("loader alone", count, count, load(split, options(loaded, 1, count), args.seconds))
    workers = options(recipe.batch_size, 1, min(cores, max(args.counts)))
    for num_queued, what in ((0, "loader and step"), (1, "loader and step, one step queued")):
        result = train(own, split, workers, args.seconds, num_queued)
        say(what, workers.workers, workers.workers, result)


if __name__ == "__main__":
    main()
