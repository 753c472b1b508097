"""The work that all loaders in the comparison do: the images, the batch, and how it is timed.

It imports nothing but the standard library, because each peer has an environment of its own.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

BATCH, SIZE_PX, NUM_IMAGES = 128, 224, 5000
MIN_AREA, MAX_AREA = 0.08, 1.0
MIN_ASPECT, MAX_ASPECT = 3 / 4, 4 / 3

# A peer: JPEG files, threads, "region" or "plain", a folder for its own format -> batches.
Peer = Callable[[list[Path], int, str, Path], Iterator[Any]]


def find_jpegs(folder: str) -> list[Path]:
    """Return all files below a folder, repeated up to `NUM_IMAGES`."""
    files = sorted(
        path for path in Path(folder).rglob("*") if path.suffix.lower() in (".jpg", ".jpeg")
    )
    if not files:
        raise SystemExit(f"{folder} holds no .jpg or .jpeg file")
    return (files * (NUM_IMAGES // len(files) + 1))[:NUM_IMAGES]


def rate(batches: Iterator[Any], seconds: float, warmup: int = 8) -> float:
    """Return images per second of a stream, after the first batches."""
    for _ in range(warmup):
        next(batches)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        next(batches)
        count += BATCH
    return count / (time.perf_counter() - start)
