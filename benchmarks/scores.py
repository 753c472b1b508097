"""Measure the time to score answers over 21,841 classes, and the memory of the sums.

    python benchmarks/scores.py [--batch 256] [--rounds 5]

The log-probabilities are planted, of ILSVRC's 1,000 classes, by a model that is right half of the
time. All columns of the table are computed. Prints one JSON line with the milliseconds per image
(median of the rounds).
"""

import argparse
import json
import statistics
import time
import tracemalloc

import numpy as np

from i21k.evaluation.scores import Scores
from i21k.wordnet.class_lists import named


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()

    model, data = named("fall11"), named("ilsvrc2012")
    started = time.perf_counter()
    scores = Scores(model, data, over=data)
    prepared_s = time.perf_counter() - started
    rng = np.random.default_rng(0)
    columns = np.array([model.label_of.get(class_id, 0) for class_id in data.ids])

    def batch() -> tuple[np.ndarray, np.ndarray]:
        labels = rng.integers(0, len(data), args.batch)
        logits = rng.normal(0, 3, (args.batch, len(model))).astype(np.float32)
        logits[np.arange(args.batch), columns[labels]] += np.where(
            rng.random(args.batch) < 0.5, 20, 8
        ).astype(np.float32)
        return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)), labels

    started = time.perf_counter()
    scores.add(*batch())  # the first batch fills caches of WordNet
    first_s = time.perf_counter() - started
    milliseconds = []
    for _ in range(args.rounds):
        values = batch()
        started = time.perf_counter()
        scores.add(*values)
        milliseconds.append(1e3 * (time.perf_counter() - started) / args.batch)
    values = batch()
    tracemalloc.start()
    scores.add(*values)
    kept, peak = tracemalloc.get_traced_memory()
    result = {
        "batch": args.batch,
        "ms_per_image": round(statistics.median(milliseconds), 3),
        "prepared_s": round(prepared_s, 2),
    }
    result |= {
        "first_batch_s": round(first_s, 2),
        "peak_mb_of_a_batch": round(peak / 1e6, 1),
        "kept_kb_of_a_batch": round(kept / 1e3, 1),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
