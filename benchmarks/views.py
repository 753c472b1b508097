"""Time every view on the probabilities of 64 images over 21,841 classes, in milliseconds.

    python benchmarks/views.py [--images 64] [--rounds 7]

The probabilities are float32 and like a network's: a softmax of normal logits with deviation 2.5,
where ten classes of two branches are raised by 8. The times are medians over rounds in which the
views take turns. `load_ms` has the first calls in this process, which read the tables. Prints one
JSON line.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from i21k.wordnet import class_lists, views
from i21k.wordnet.hierarchy import Hierarchy
from i21k.wordnet.taxonomy import wordnet


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Return the milliseconds of a call, and its result."""
    start = time.perf_counter()
    result = run()
    return (time.perf_counter() - start) * 1e3, result


def main() -> None:
    """Measure all views in turn, after loading."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()

    load_ms = {}
    load_ms["taxonomy"], taxonomy = timed(wordnet)
    load_ms["class_list"], fall11 = timed(lambda: class_lists.named("fall11"))
    hierarchy = Hierarchy(fall11)
    load_ms["reachability"], _ = timed(lambda: hierarchy.reach)
    load_ms["names"], _ = timed(lambda: taxonomy.names)
    load_ms["basic"], _ = timed(lambda: taxonomy.basic)

    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2.5, (args.images, len(fall11)))
    for row in logits:
        for node in rng.choice(np.flatnonzero(hierarchy.sizes > 10), 2):
            row[rng.choice(hierarchy.reach[[node]].indices, 5)] += 8
    probabilities = np.exp(logits).astype(np.float32)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    labels = np.array(
        [rng.choice(len(row), p=row.astype(float) / row.sum(dtype=float)) for row in probabilities]
    )
    thousand = class_lists.named("ilsvrc2012")
    chosen = class_lists.columns(thousand, fall11) >= 0
    runs: dict[str, Callable[[], Any]] = {
        "reachability_product": lambda: hierarchy.fold(probabilities),
        "top": lambda: views.top(probabilities, fall11),
        "subset": lambda: views.subset(probabilities, fall11, chosen),
        "fold": lambda: views.fold(probabilities, hierarchy, thousand.ids),
        "basic": lambda: views.basic(probabilities, hierarchy),
        "diverse": lambda: views.diverse(probabilities, hierarchy),
        "hedge": lambda: views.hedge(probabilities, hierarchy, 0.1),
        "calibrate": lambda: views.calibrate([(probabilities, labels)], hierarchy, 0.9),
    }
    first_ms = {name: timed(run)[0] for name, run in runs.items()}
    rounds = [{name: timed(run)[0] for name, run in runs.items()} for _ in range(args.rounds)]
    print(
        json.dumps(
            {
                "images": args.images,
                "classes": len(fall11),
                "machine": platform.machine(),
                "load_ms": {name: round(ms, 1) for name, ms in load_ms.items()},
                "first_ms": {name: round(ms, 1) for name, ms in first_ms.items()},
                "median_ms": {
                    name: round(statistics.median(r[name] for r in rounds), 1) for name in runs
                },
            }
        )
    )


if __name__ == "__main__":
    main()
