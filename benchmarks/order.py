"""Measure how random the batches of 14,197,087 records are, in three orders.

    python benchmarks/order.py [--seed 0]

The orders are Grain's own shuffle, our global order, and our windowed order for disks with slow
seeks. Only record numbers are used, no images. Prints one JSON line for each order. Independent
draws give 1 in each number but the correlation, where they give 0:

    range_chi2    how unevenly batches are spread over 512 ranges of equal size (chi-square over its
                  degrees of freedom)
    close_pairs   pairs of records of a batch within 8 records of each other, over the number that
                  is expected
    correlation   of a record with the next one
    epochs_chi2   how much the records at a position in two epochs depend on each other (chi-square
                  over its degrees of freedom of a 32 x 32 table)
"""

import argparse
import json
import time
from collections.abc import Callable

import grain
import numpy as np

from i21k.data.load.order import GlobalOrder, WindowedOrder, span_length

NUM_RECORDS = 14_197_087
RECORD_BYTES = 29_700  # of an image of 256 px at quality 90
BATCH_SIZE, NUM_BATCHES = 1024, 300
NUM_RANGES, NUM_CELLS, CLOSE = 512, 32, 8


def orders(seed: int) -> dict[str, Callable[[np.ndarray], list[int]]]:
    """Return the three orders, as functions from positions to records."""
    stock = grain.MapDataset.range(NUM_RECORDS).shuffle(seed=seed)
    return {
        "stock": lambda places: [stock[p] % NUM_RECORDS for p in places.tolist()],
        "global": GlobalOrder(NUM_RECORDS, seed),
        "windowed": WindowedOrder(
            NUM_RECORDS, BATCH_SIZE, seed, span_length(NUM_RECORDS, NUM_RECORDS * RECORD_BYTES)
        ),
    }


def statistics(order: Callable[[np.ndarray], list[int]], seed: int = 0) -> dict[str, float]:
    """Return the statistics of `NUM_BATCHES` batches of the first epoch, and of the same positions
    in the second."""
    whole = NUM_RECORDS // BATCH_SIZE
    steps = np.sort(np.random.default_rng(seed).choice(whole, NUM_BATCHES, replace=False))
    places = (steps[:, None] * BATCH_SIZE + np.arange(BATCH_SIZE)).ravel()
    first = np.array(order(places), np.int64)
    second = np.array(order(places + NUM_RECORDS), np.int64)
    batches = first.reshape(NUM_BATCHES, BATCH_SIZE)

    counts = np.stack(
        [np.bincount(batch * NUM_RANGES // NUM_RECORDS, minlength=NUM_RANGES) for batch in batches]
    )
    expected = BATCH_SIZE / NUM_RANGES
    in_order = np.sort(batches, axis=1)
    close = sum(
        int((np.searchsorted(row, row + CLOSE, side="right") - np.arange(1, BATCH_SIZE + 1)).sum())
        for row in in_order
    )
    table = np.bincount(
        (first * NUM_CELLS // NUM_RECORDS) * NUM_CELLS + second * NUM_CELLS // NUM_RECORDS,
        minlength=NUM_CELLS**2,
    )
    in_a_cell = len(first) / NUM_CELLS**2
    return {
        "range_chi2": float(
            np.square(counts - expected).sum() / expected / (NUM_BATCHES * (NUM_RANGES - 1))
        ),
        "close_pairs": close
        / (NUM_BATCHES * BATCH_SIZE * (BATCH_SIZE - 1) / 2 * 2 * CLOSE / NUM_RECORDS),
        "correlation": float(np.corrcoef(batches[:, :-1].ravel(), batches[:, 1:].ravel())[0, 1]),
        "epochs_chi2": float(np.square(table - in_a_cell).sum() / in_a_cell / (NUM_CELLS**2 - 1)),
    }


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    cli.add_argument("--seed", type=int, default=0)
    args = cli.parse_args()
    for name, order in orders(args.seed).items():
        start = time.perf_counter()
        line = {
            "order": name,
            **{key: round(value, 4) for key, value in statistics(order, args.seed).items()},
        }
        line |= {
            "seconds": round(time.perf_counter() - start, 2),
            "records": NUM_RECORDS,
            "batch_size": BATCH_SIZE,
            "batches": NUM_BATCHES,
        }
        print(json.dumps(line | {"seed": args.seed}))


if __name__ == "__main__":
    main()
