"""Measure what losses and mixing cost at 21,841 classes, beside a training step.

    python benchmarks/targets.py [--batch 32] [--rounds 7] [--no-step]

Times each loss with its gradient, and the mixing of images, each compiled by itself, and the step
of `configs/i21k_inception.py` with the plain loss. Prints a Markdown table: milliseconds (the least
of the rounds, since other load only adds to it; on a CPU those of the process), and what comes on
top of the plain loss as a share of the step.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from i21k import backend

sys.path.insert(0, str(Path(__file__).parents[1]))  # recipes are files of the checkout

backend.prepare()

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timed_step
from configs import i21k_inception
from i21k.train.augment import Mix, step_key
from i21k.train.losses import Loss, Targets, make_loss
from i21k.wordnet.class_lists import named
from i21k.wordnet.hierarchy import Hierarchy
from i21k.wordnet.levels import make_levels

PLAIN, STEP = "softmax", "training step"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--no-step", action="store_true", help="time no step, print no shares")
    args = parser.parse_args()

    classes = named("fall11")
    started = time.perf_counter()
    levels = make_levels(Hierarchy(classes), 0.5)
    made_s = time.perf_counter() - started
    offsets = np.log(np.random.default_rng(0).dirichlet(np.ones(len(classes)))).astype(np.float32)
    losses = {
        PLAIN: make_loss("softmax"),
        "smoothing": make_loss("softmax", 0.1),
        "smoothing to near classes": make_loss("softmax", 0.1, "near", levels),
        "cross-entropy of ancestors": make_loss("softmax", 0.1, "ancestors", levels),
        "logit adjustment": make_loss("softmax", offsets=offsets),
        "sigmoid": make_loss("sigmoid"),
    }
    rng = np.random.default_rng(0)
    logits = jnp.array(rng.normal(0, 3, (args.batch, len(classes))), jnp.float32)
    labels = jnp.array(rng.integers(0, len(classes), args.batch), jnp.int32)
    images = jnp.array(rng.integers(0, 256, (args.batch, 224, 224, 3)), jnp.uint8)
    calls = {name: timed(loss, logits, labels) for name, loss in losses.items()}
    mix = jax.jit(Mix(0.2, 1.0))
    _, mixed = mix(step_key(0, 0, 0), images, labels)
    for name in (PLAIN, "smoothing to near classes", "cross-entropy of ancestors"):
        calls[f"{name}, two labels"] = timed(losses[name], logits, mixed)
    calls["mixing of the images"] = lambda: mix(step_key(0, 0, 0), images, labels)[0]
    if not args.no_step:
        recipe = i21k_inception.get_config()
        recipe.batch_size, recipe.model.remat = args.batch, "none"
        step = timed_step.build(recipe, len(classes))
        step.run(2)
        calls[STEP] = lambda: step.run(1)
    for call in calls.values():
        jax.block_until_ready(call())
    clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter
    milliseconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(args.rounds):
        for name, call in calls.items():
            for _ in range(1 if name == STEP else 10):
                started = clock()
                jax.block_until_ready(call())
                milliseconds[name].append(1e3 * (clock() - started))
    least = {name: min(times) for name, times in milliseconds.items()}
    print(f"batch {args.batch}, {len(classes):,} classes, {jax.devices()[0].device_kind}")
    print(f"levels of WordNet: {levels.first.shape[1]}, made in {made_s:.1f} s\n")
    print("| what | ms | on top of the plain loss, of a step |\n| --- | --- | --- |")
    for name, each in least.items():
        extra = each - (0 if name.startswith("mixing") else least[PLAIN])
        share = f"{extra / least[STEP]:.2%}" if STEP in least else ""
        print(f"| {name} | {each:.1f} | {'' if name in (PLAIN, 'training step') else share} |")


def timed(loss: Loss, logits: jax.Array, targets: Targets) -> Callable[[], Any]:
    """Return a call that computes a mean loss and its gradient."""

    def mean(logits: jax.Array, targets: Targets) -> jax.Array:
        return jnp.mean(loss.per_image(logits, targets))

    compiled = jax.jit(jax.value_and_grad(mean))  # targets are no constants, as in training
    return lambda: compiled(logits, targets)


if __name__ == "__main__":
    main()
