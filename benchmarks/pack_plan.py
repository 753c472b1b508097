"""Seconds and memory of the step of packing between reading and writing, which looks at all pictures together.

    python benchmarks/pack_plan.py --directory /disk/scratch [--pictures 14200000] [--val-per-class 50]

Writes the runs that reading would leave, with pictures of no bytes (100 bytes a picture, a tenth of them copies of others), decides
which picture goes where, and deletes everything. Prints one JSON line; memory is what this process held at most, before and while.
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from i21k.data.pack import plan, spill
from i21k.data.sources.base import Position

RUN_PICTURES = 17_200  # 512 MiB of 30 KB
CLASS_PICTURES = 650
COPIES = 10  # of so many pictures one is a copy of another


def make_run(work: Path, number: int) -> None:
    """Write a run of consecutive classes; every tenth picture is also in the run before."""
    digests, before = (
        np.random.default_rng(n).bytes(32 * RUN_PICTURES) for n in (number, max(number - 1, 0))
    )
    known, records, of_sequence = (
        spill.Gathered(after=Position(number, 0), num_read=RUN_PICTURES),
        [],
        {},
    )
    for index in range(RUN_PICTURES):
        class_id, sequence = (
            f"n{(number * RUN_PICTURES + index) // CLASS_PICTURES:08d}",
            (number << 32) + index,
        )
        name = f"{class_id}_{index}.JPEG"
        records.append(
            spill.Record(spill.place(f"{class_id}/{name}", 0), sequence, class_id, name, b"")
        )
        known.class_ids.add(class_id)
        is_copy = number and index % COPIES == 0
        start = 32 * (index + is_copy)
        of_sequence[sequence] = (before if is_copy else digests)[start : start + 32]
    spill.write_run(work, known, records, of_sequence)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--directory", type=Path, required=True, help="where 1.4 GB may lie for the while"
    )
    parser.add_argument("--pictures", type=int, default=14_200_000)
    parser.add_argument("--val-per-class", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.directory) as scratch:
        work = Path(scratch)
        for number in range(-(-args.pictures // RUN_PICTURES)):
            make_run(work, number)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.perf_counter()
        made = plan.make(
            work,
            plan.Choices(
                "train",
                1024,
                "keep",
                args.val_per_class,
                args.val_per_class + 1,
                keep_val_copies=False,
            ),
        )
        seconds = time.perf_counter() - started
    print(
        json.dumps(
            {
                "pictures": made.num_read,
                "seconds": round(seconds, 1),
                "dropped": made.dropped,
                "mib_before": before >> 10,
                "mib_peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
            }
        )
    )


if __name__ == "__main__":
    main()
