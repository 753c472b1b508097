"""Measure the training loader with 14,197,087 records in 1,024 shards: time, memory, open files.

    python benchmarks/scale.py DIR [--workers 0|1|2...] [--order global|windowed]

Writes a dataset of tiny images (a GIF of one pixel) into DIR, which must not exist, and deletes it
afterwards. `--keep` keeps it, and `--reuse` uses one that was kept. Decoding costs almost nothing,
so the times are those of finding and reading records. Prints one JSON line:

    open_s   from nothing to the first batch
    next_ms  the mean time of a batch in the first, middle and last part of the epoch
    memory   of this process and of each worker, resident and private; `in_all` counts pages that
             they share once

Each part of the epoch is read by a loader that was opened there. In the global order it is timed
after enough batches to have opened every shard.
"""

import argparse
import concurrent.futures
import json
import multiprocessing
import os
import resource
import shutil
import statistics
import time
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

from i21k.data.format import shards
from i21k.data.format.manifest import Manifest, SplitManifest
from i21k.data.format.records import encode_example
from i21k.data.format.splits import open_split
from i21k.data.format.tfds import write_metadata
from i21k.data.load import loader
from i21k.labels import ClassList

NUM_RECORDS, NUM_SHARDS = 14_197_087, 1024
CLASSES = ClassList(tuple(f"n{k:08d}" for k in range(1000)))
GIF = bytes.fromhex("47494638396101000100800000000000ffffff2c00000000010001000002024401003b")
BATCH_SIZE, SIZE_PX = 256, 32
NUM_WARM, NUM_TIMED = (
    60,
    200,
)  # batches; 60 of 256 miss one of the shards with a chance of 1,024 * exp(-15)


def bounds(shard: int) -> tuple[int, int]:
    """Return the first record of a shard and the one after its last."""
    return NUM_RECORDS * shard // NUM_SHARDS, NUM_RECORDS * (shard + 1) // NUM_SHARDS


def write_shard(directory: Path, shard: int) -> shards.Shard:
    """Write one shard of images that are the same but for their label."""
    records = [encode_example(GIF, label, "") for label in range(len(CLASSES))]
    return shards.write_shard(
        directory / shards.shard_name("scale", "train", shard, NUM_SHARDS),
        (records[n % len(CLASSES)] for n in range(*bounds(shard))),
    )


def write(directory: Path) -> None:
    """Write the whole dataset, in two processes."""
    directory.mkdir(parents=True)
    with concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        written = tuple(
            pool.map(write_shard, [directory] * NUM_SHARDS, range(NUM_SHARDS), chunksize=16)
        )
    write_metadata(directory, "scale", CLASSES, {"train": written})
    Manifest("scale", CLASSES.hash, {"train": SplitManifest(written, {}, {})}).write(directory)


def rollup_mb(pid: int, prefix: str) -> float:
    """Return the sum of the lines of a process's memory that begin with `prefix`."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return (
        sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith(prefix)) / 1e3
    )


def private_mb(pid: int) -> float:
    """Return the resident memory of a process without pages that it shares with others."""
    return rollup_mb(pid, "Private_")


def share_mb(pid: int) -> float:
    """Return the proportional memory of a process: a page of n processes counts as 1/n."""
    return rollup_mb(pid, "Pss:")


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def num_files(pid: int) -> int:
    """Return the number of files a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def workers_of(pid: int) -> list[int]:
    """Return the worker processes of a loader."""
    children = Path(f"/proc/{pid}/task").glob("*/children")
    found = [int(child) for listed in children for child in listed.read_text().split()]
    return [
        child
        for child in found
        if b"resource_tracker" not in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


def read_us(shard: Path) -> float:
    """Return the time to read a record by its number. It grows with the records of the shard."""
    reader = ArrayRecordReader(str(shard), "readahead_buffer_size:0,max_parallelism:0")
    numbers = np.random.default_rng(0).integers(0, reader.num_records(), 5000).tolist()
    start = time.perf_counter()
    for number in numbers:
        reader.read([number])
    return (time.perf_counter() - start) / len(numbers) * 1e6


def measure(directory: Path, order: str, workers: int, threads: int) -> dict[str, object]:
    """Open the dataset as training does, and time batches in three parts of the epoch."""
    me, before_mb = os.getpid(), resident_mb(os.getpid())
    start = time.perf_counter()
    split = open_split(directory, "train")
    open_split_s = time.perf_counter() - start
    options = loader.LoaderOptions(
        BATCH_SIZE,
        SIZE_PX,
        crop="plain",
        order=order,  # type: ignore[arg-type]
        workers=workers,
        threads=threads,
    )
    num_steps = NUM_RECORDS // BATCH_SIZE
    line: dict[str, object] = {
        "open_split_s": round(open_split_s, 2),
        "read_us": round(read_us(split.shard_paths[0]), 1),
    }
    for place, step in (
        ("first", 0),
        ("middle", num_steps // 2),
        ("last", num_steps - NUM_WARM - NUM_TIMED),
    ):
        start = time.perf_counter()
        with loader.batches(split, options, step, step + NUM_WARM + NUM_TIMED) as batches:
            next(batches)
            if place == "first":
                line["open_s"] = round(open_split_s + time.perf_counter() - start, 2)
            for _ in range(NUM_WARM - 1):
                next(batches)
            if place == "first":
                line["all_shards_open_s"] = round(open_split_s + time.perf_counter() - start, 2)
            laps = []
            for _ in range(NUM_TIMED):
                start = time.perf_counter()
                next(batches)
                laps.append(time.perf_counter() - start)
            line[f"next_{place}_ms"] = round(statistics.mean(laps) * 1e3, 2)
            children = workers_of(me)
            line[f"resident_{place}_mb"] = [round(resident_mb(pid)) for pid in (me, *children)]
            line[f"private_{place}_mb"] = [round(private_mb(pid)) for pid in (me, *children)]
            line[f"in_all_{place}_mb"] = round(sum(share_mb(pid) for pid in (me, *children)))
            line[f"files_{place}"] = [num_files(pid) for pid in (me, *children)]
    return line | {"before_mb": round(before_mb)}


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    cli.add_argument("directory", type=Path)
    cli.add_argument("--order", choices=("global", "windowed"), default="global")
    cli.add_argument("--workers", type=int, default=0)
    cli.add_argument("--threads", type=int, default=1)
    cli.add_argument(
        "--soft-limit", type=int, default=1024, help="of open files, before the loader raises it"
    )
    cli.add_argument("--keep", action="store_true")
    cli.add_argument("--reuse", action="store_true")
    args = cli.parse_args()
    start = time.perf_counter()
    if not args.reuse:
        if args.directory.exists():
            raise SystemExit(f"{args.directory} exists; give a directory to make, or --reuse")
        write(args.directory)
    line: dict[str, object] = {
        "records": NUM_RECORDS,
        "shards": NUM_SHARDS,
        "write_s": round(time.perf_counter() - start, 1),
    }
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (args.soft_limit, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    )
    try:
        line |= {
            "gb": round(sum(path.stat().st_size for path in args.directory.iterdir()) / 1e9, 2)
        }
        line |= {
            "order": args.order,
            "workers": args.workers,
            "threads": args.threads,
            "batch_size": BATCH_SIZE,
        }
        line |= measure(args.directory, args.order, args.workers, args.threads)
    finally:
        if not args.keep:
            shutil.rmtree(args.directory)
    print(json.dumps(line | {"files_allowed": resource.getrlimit(resource.RLIMIT_NOFILE)[0]}))


if __name__ == "__main__":
    main()
