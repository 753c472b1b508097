"""Time to save a checkpoint of the full network, and its share of the training time.

    python benchmarks/checkpoint.py [--directory DIR] [--saves 5] [--minutes 15]

The state is that of `configs/i21k_inception.py`: 21,841 classes, parameters and momentum. Training
waits while a checkpoint is saved, so its share is the time of a save over the time between saves.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # recipes are files of the checkout

from i21k import backend, log

backend.prepare()
log.quiet_libraries()

import jax
from flax import serialization

from configs.i21k_inception import get_config
from i21k.checkpoints import Checkpoints
from i21k.train import sizes
from i21k.train.devices import put_state
from i21k.train.optimizer import make_optimizer, make_schedule
from i21k.train.recipe import parse
from i21k.train.state import init_state, make_network
from i21k.wordnet.class_lists import named


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--directory", type=Path, help="on the disk to measure; default: /tmp")
    parser.add_argument("--saves", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=15.0)
    args = parser.parse_args()
    recipe, classes = parse(get_config()), named("fall11")
    network = make_network(recipe.model, len(classes))
    optimizer = make_optimizer(recipe.optimizer, make_schedule(recipe.optimizer, 1, 1), network)
    size = sizes.largest(recipe.image_size)
    state = init_state(network, optimizer, size, recipe.model.init, recipe.seed)
    state = put_state(state, jax.local_devices()[:1])
    tree = serialization.to_state_dict(state)
    num_bytes = sum(x.nbytes for x in jax.tree.leaves(state))
    with tempfile.TemporaryDirectory(dir=args.directory) as directory:
        checkpoints, seconds = Checkpoints(Path(directory) / "checkpoints", keep=2), []
        for step in range(args.saves):
            started = time.perf_counter()
            checkpoints.save(step, tree, {"epoch_done": False, "classes": list(classes.ids)})
            seconds.append(time.perf_counter() - started)
            print(f"save {step}: {seconds[-1]:.2f} s", flush=True)
        started = time.perf_counter()
        checkpoints.find("last")
        restored_s = time.perf_counter() - started
    median_s = statistics.median(seconds)
    share = median_s / (60 * args.minutes)
    print(
        f"{num_bytes / 2**20:,.0f} MiB on {jax.local_devices()[0].device_kind} | median save"
        f" {median_s:.2f} s, longest {max(seconds):.2f} s | restore {restored_s:.2f} s |"
        f" {share:.2%} of the time at {args.minutes:g} minutes"
    )


if __name__ == "__main__":
    main()
