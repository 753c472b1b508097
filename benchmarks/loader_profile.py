"""Measure the CPU time of each part of loading an image: where a faster loader would have to save.

    python benchmarks/loader_profile.py --jpegs FOLDER

The JPEGs are packed unchanged. One thread cuts a random region of 8 to 100 % of the area out of
each image and resizes it to 224 px, as in training. Every part is repeated over all images; the
least CPU time of several rounds counts, so other programs disturb little. Prints a Markdown table
in microseconds per image, for JPEGs as they are.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.loader import pack
from benchmarks.peers.loader_work import SIZE_PX, find_jpegs
from i21k.data.format.readers import RecordReader
from i21k.data.format.records import decode_example
from i21k.images import decode, jpeg_bands
from i21k.images.boxes import NUM_DRAWS, region_boxes

ROUNDS = 5


def per_item_us(function: Callable[..., Any], items: Sequence[tuple[Any, ...]]) -> float:
    """Return the least CPU time of a call over several rounds, in microseconds."""
    least = float("inf")
    for _ in range(ROUNDS):
        start = time.process_time()
        for item in items:
            function(*item)
        least = min(least, time.process_time() - start)
    return least / len(items) * 1e6


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    cli.add_argument("--jpegs", required=True, help="folder of .jpg/.jpeg/.JPEG files")
    cli.add_argument("--images", type=int, default=300)
    args = cli.parse_args()
    files = find_jpegs(args.jpegs)[: args.images]
    rng = np.random.default_rng(0)
    out = np.empty((SIZE_PX, SIZE_PX, 3), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        split = pack(files, Path(folder))
        reader = RecordReader(split)
        numbers = range(split.num_records)
        records = [reader[number] for number in numbers]
        images = [decode_example(record)[0] for record in records]
        sizes = [decode.read_size(image) for image in images]
        boxes = region_boxes(np.array(sizes), rng.random((len(sizes), NUM_DRAWS))).tolist()
        wholes = [decode.decode(i, *s).copy() for i, s in zip(images, sizes, strict=True)]
        cuts = [(i, s, tuple(b)) for i, s, b in zip(images, sizes, boxes, strict=True)]
        parts = {
            "read the record, and check its hash": per_item_us(
                reader.__getitem__, [(number,) for number in numbers]
            ),
            "parse the record": per_item_us(decode_example, [(record,) for record in records]),
            "read the size": per_item_us(decode.read_size, [(image,) for image in images]),
            "decode the rows that are needed, and resize": per_item_us(
                lambda image, size, box: decode.cut_into(out, image, size, box), cuts
            ),
            "of that, find these rows": per_item_us(
                lambda image, size, box: (
                    jpeg_bands.band(image, size[0], box[0], box[0] + box[2]),
                    jpeg_bands.head(image, size[0], box[0] + box[2]),
                ),
                cuts,
            ),
            "of that, resize": per_item_us(
                lambda whole, box: decode.crop_into(out, whole, box),
                list(zip(wholes, boxes, strict=True)),
            ),
            "for comparison, decode all rows": per_item_us(
                decode.decode, [(i, *s) for i, s in zip(images, sizes, strict=True)]
            ),
        }
    print("| part | CPU time, us |\n|---|---|")
    for name, value in parts.items():
        print(f"| {name} | {value:.0f} |")


if __name__ == "__main__":
    main()
