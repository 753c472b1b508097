"""Measure time and memory of the planning phase of the packer, which looks at all images together.

    python benchmarks/pack_plan.py --directory /disk/scratch \
        [--images 14200000] [--val-per-class 50]

Writes the spill files that reading would write, with images of no bytes (100 bytes per image; a
tenth are duplicates), makes the plan, and deletes everything. Prints one JSON line; memory is the
largest that this process used, before and during planning.
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from i21k.data.pack import plan, spill
from i21k.data.pack.options import PlanOptions
from i21k.data.pack.work_directory import WorkDirectory
from i21k.data.sources.base import Position

SPILL_IMAGES = 17_200  # 512 MiB of 30 KB
CLASS_IMAGES = 650
DUPLICATES = 10  # of so many images one is a duplicate


def make_spill_file(work: Path, number: int) -> None:
    """Write a spill file; every tenth image is also in the one before."""
    digests, before = (
        np.random.default_rng(n).bytes(32 * SPILL_IMAGES) for n in (number, max(number - 1, 0))
    )
    about, records, of_sequence = (
        spill.About(after=Position(number, 0), num_read=SPILL_IMAGES),
        [],
        {},
    )
    for index in range(SPILL_IMAGES):
        class_id, sequence = (
            f"n{(number * SPILL_IMAGES + index) // CLASS_IMAGES:08d}",
            (number << 32) + index,
        )
        name = f"{class_id}_{index}.JPEG"
        records.append(
            spill.Record(spill.place(f"{class_id}/{name}", 0), sequence, class_id, name, b"")
        )
        about.class_ids.add(class_id)
        is_duplicate = number and index % DUPLICATES == 0
        start = 32 * (index + is_duplicate)
        of_sequence[sequence] = (before if is_duplicate else digests)[start : start + 32]
    spill.write_spill_file(work, about, records, of_sequence)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--directory", type=Path, required=True, help="for 1.4 GB of temporary files"
    )
    parser.add_argument("--images", type=int, default=14_200_000)
    parser.add_argument("--val-per-class", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.directory) as scratch:
        work = WorkDirectory(Path(scratch))
        work.path.mkdir()
        for number in range(-(-args.images // SPILL_IMAGES)):
            make_spill_file(work.path, number)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.perf_counter()
        made = plan.make(
            work,
            PlanOptions(
                "train",
                1024,
                "keep",
                args.val_per_class,
                args.val_per_class + 1,
                keep_val_duplicates=False,
            ),
        )
        seconds = time.perf_counter() - started
    print(
        json.dumps(
            {
                "images": made.num_read,
                "seconds": round(seconds, 1),
                "dropped": made.dropped,
                "mib_before": before >> 10,
                "mib_peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
            }
        )
    )


if __name__ == "__main__":
    main()
