"""Measure whether targets from WordNet make better mistakes, with heads on fixed features.

    i21k embed --checkpoint W --data DIR --split train --out F/train.npz   # and split val
    python benchmarks/hierarchy_head.py --features F [--seeds 3] [--epochs 15]

Trains a classifier head with each loss on the features of the training images, and evaluates it on
those of the validation images: top-1, mean WordNet distance of mistakes, and the mean specificity
of what `hedge` answers where 90 % of its answers are right. Each line is the mean of the seeds
(order of the images), and half of the range. Prints a Markdown table.
"""

import argparse
import functools
import statistics
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from i21k.evaluation.features import load_features
from i21k.evaluation.scores import Scores
from i21k.train.losses import Loss, make_loss
from i21k.wordnet.hedge import calibrate
from i21k.wordnet.hierarchy import Hierarchy
from i21k.wordnet.levels import make_levels

BATCH = 250


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--decays", type=float, nargs="+", default=[0.5])
    parser.add_argument("--learning-rate", type=float, default=4.0)
    args = parser.parse_args()
    train, val = (load_features(args.features / f"{split}.npz") for split in ("train", "val"))
    assert train.classes is not None and val.classes == train.classes
    hierarchy = Hierarchy(train.classes)
    levels = {decay: make_levels(hierarchy, decay) for decay in args.decays}
    losses: dict[str, Loss] = {"no smoothing": make_loss("softmax")}
    for smoothing in (0.1, 0.3):
        losses[f"{smoothing} to all"] = make_loss("softmax", smoothing)
        for decay, found in levels.items():
            for smooth_to in ("near", "ancestors"):
                name = f"{smoothing} {smooth_to}, decay {decay}"
                losses[name] = make_loss("softmax", smoothing, smooth_to, found)
    print(f"{len(train):,} + {len(val):,} images, {len(train.classes)} classes")
    print(
        "| loss | top-1 | distance of mistakes | specificity at 90 % |\n| --- | --- | --- | --- |"
    )
    for name, loss in losses.items():
        rows = [fit(loss, train, val, hierarchy, seed, args) for seed in range(args.seeds)]
        cells = []
        for key, digits in (("top1", 2), ("distance", 3), ("specificity", 4)):
            values = [row[key] for row in rows]
            half = (max(values) - min(values)) / 2
            cells.append(f"{statistics.mean(values):.{digits}f} ± {half:.{digits}f}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def fit(
    loss: Loss, train: Any, val: Any, hierarchy: Hierarchy, seed: int, args: argparse.Namespace
) -> dict[str, float]:
    """Train a head and return its numbers on the validation images."""
    mean, deviation = train.array.mean(axis=0), train.array.std(axis=0) + 1e-6
    scale = deviation * np.sqrt(train.array.shape[1])  # inputs of norm 1
    inputs, held_out = ((x.array - mean) / scale for x in (train, val))
    num_steps = args.epochs * (len(train) // BATCH)
    optimizer = optax.sgd(optax.linear_schedule(args.learning_rate, 0, num_steps), momentum=0.9)
    shape = (inputs.shape[1], len(hierarchy.classes))
    params = {"kernel": jnp.zeros(shape), "bias": jnp.zeros(shape[1])}
    state = optimizer.init(params)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Any, state: Any, x: jax.Array, y: jax.Array) -> tuple[Any, Any]:
        def value(params: Any) -> jax.Array:
            logits = x @ params["kernel"] + params["bias"]
            decay = 1e-6 * jnp.sum(params["kernel"] ** 2) / 2
            return jnp.mean(loss.per_image(logits, y)) + decay

        updates, state = optimizer.update(jax.grad(value)(params), state)
        return optax.apply_updates(params, updates), state

    rng = np.random.default_rng(seed)
    for _ in range(args.epochs):
        order = rng.permutation(len(train))
        for first in range(0, len(order) - BATCH + 1, BATCH):
            rows = order[first : first + BATCH]
            params, state = step(params, state, inputs[rows], train.labels[rows].astype(np.int32))
    logits = held_out @ np.asarray(params["kernel"]) + np.asarray(params["bias"])
    log_probabilities = np.asarray(jax.nn.log_softmax(logits))
    scores = Scores(hierarchy.classes, hierarchy.classes)
    scores.add(log_probabilities, val.labels)
    summary = scores.summary()
    calibration = calibrate([(np.exp(log_probabilities), val.labels)], hierarchy, 0.9)
    return {
        "top1": 100 * summary["table"]["all"]["top1"],
        "distance": summary["hierarchy"]["mistake_distance"],
        "specificity": calibration.specificity,
    }


if __name__ == "__main__":
    main()
