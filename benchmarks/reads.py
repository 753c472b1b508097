"""Count requests, seeks and bytes per image of the training loader with cold files, in both orders.

    python benchmarks/reads.py DIR [--workers 0 2]

Needs strace. Writes 60,000 images of 28 KB (noise of 256 px short side) into DIR, which must not
exist, and deletes them. For each order a process under strace loads an epoch in batches of 64,
after the shards were dropped from the page cache.

A request is a pread64 of a shard. A seek is a request that does not begin within 64 KiB after the
end of the last one of its process in the same file. Bytes from the disk are those that the kernel
counts for the process (read_bytes). `first_` counts requests for bytes that no process has read
before: the others are in the page cache. The speed of a hard disk follows from those seeks and the
bytes from the disk. Prints one JSON line for each order and number of workers.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import simplejpeg

from i21k.data.format import shards
from i21k.data.format.manifest import Manifest, SplitManifest
from i21k.data.format.records import encode_example
from i21k.data.format.splits import open_split
from i21k.data.format.tfds import write_metadata
from i21k.data.load import loader
from i21k.labels import ClassList

NUM_RECORDS, NUM_SHARDS, NUM_DISTINCT = 60_000, 8, 100
BATCH_SIZE, NUM_STEPS = (
    64,
    937,
)  # an epoch; the windows that follow it are read too, 11 % more than there are images
CLASSES = ClassList(("n00000001", "n00000002"))
DISK_SEEKS_PER_S, DISK_BYTES_PER_S = 110, 170e6  # the hard disk of 2015


def write(directory: Path) -> None:
    """Write the dataset."""
    directory.mkdir(parents=True)
    rng = np.random.default_rng(0)
    encoded = []
    for _ in range(NUM_DISTINCT):
        coarse = np.kron(rng.integers(0, 256, (64, 86, 3)), np.ones((4, 4, 1))).astype(np.int64)
        noise = rng.normal(0, rng.uniform(2, 9), coarse.shape)
        encoded.append(
            simplejpeg.encode_jpeg(
                np.clip(coarse // 2 + 60 + noise, 0, 255).astype(np.uint8),
                75,
                colorsubsampling="420",
            )
        )
    written = tuple(
        shards.write_shard(
            directory / shards.shard_name("reads", "train", k, NUM_SHARDS),
            (
                encode_example(encoded[n], n % 2, f"{n}.JPEG")
                for n in rng.integers(0, NUM_DISTINCT, NUM_RECORDS // NUM_SHARDS)
            ),
        )
        for k in range(NUM_SHARDS)
    )
    write_metadata(directory, "reads", CLASSES, {"train": written})
    Manifest("reads", CLASSES.hash, {"train": SplitManifest(written, {}, {})}).write(directory)


def load(directory: Path, order: str, workers: int) -> None:
    """Load the batches. This runs in the process under strace."""
    split = open_split(directory, "train")
    options = loader.LoaderOptions(
        BATCH_SIZE,
        224,
        order=order,  # type: ignore[arg-type]
        threads=1,
        workers=workers,
    )
    with loader.batches(split, options, 0, NUM_STEPS) as batches:
        for _ in batches:
            pass


def drop_from_cache(directory: Path) -> None:
    """Make the next read of the shards go to the disk."""
    for path in directory.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def disk_bytes() -> int:
    """Return the bytes read from the disk by this process and its children that have ended."""
    return int(
        re.findall(r"^read_bytes: (\d+)", Path("/proc/self/io").read_text(), re.MULTILINE)[0]
    )


def requests(trace: str) -> list[tuple[str, str, int, int]]:
    """Return process, file, offset and size of each read of a shard in strace's log."""
    found, begun = [], {}
    for line in trace.splitlines():
        thread = line.split()[0]
        if "<unfinished" in line:
            begun[thread] = line
        elif "resumed>" in line:
            line = begun.pop(thread, "") + line
        if match := re.search(
            r"pread64\(\d+<([^>]*array_record[^>]*)>.*, (\d+), (\d+)\)\s*= (\d+)", line
        ):
            found.append((thread, match[1], int(match[3]), int(match[4])))
    return found


def measure(directory: Path, order: str, workers: int) -> dict[str, object]:
    """Run `load` under strace and count."""
    drop_from_cache(directory)
    before = disk_bytes()
    with tempfile.TemporaryDirectory() as temporary:
        trace = Path(temporary) / "trace"
        strace = ["strace", "-f", "-y", "-s", "0", "-e", "trace=pread64", "-o", str(trace)]
        subprocess.run(
            [*strace, sys.executable, __file__, str(directory), "--load", order, str(workers)],
            check=True,
        )
        seen = requests(trace.read_text())
    seeks, first_seeks, size, last, asked = 0, 0, 0, ("", 0), set()
    for _, file, offset, count in seen:
        seek = not (file == last[0] and 0 <= offset - last[1] <= 2**16)
        seeks += seek
        first_seeks += seek and (file, offset) not in asked
        asked.add((file, offset))
        size += count
        last = (file, offset + count)
    num_images = BATCH_SIZE * NUM_STEPS
    read = disk_bytes() - before
    seconds = first_seeks / DISK_SEEKS_PER_S + read / DISK_BYTES_PER_S
    return {
        "order": order,
        "workers": workers,
        "images": num_images,
        "requests_per_image": round(len(seen) / num_images, 4),
        "seeks_per_image": round(seeks / num_images, 4),
        "first_seeks_per_image": round(first_seeks / num_images, 4),
        "request_kb_per_image": round(size / num_images / 1e3, 1),
        "mb_per_seek": round(size / seeks / 1e6, 2),
        "disk_kb_per_image": round(read / num_images / 1e3, 1),
        "hard_disk_images_per_s": round(num_images / seconds),
    }


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    cli.add_argument("directory", type=Path)
    cli.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    cli.add_argument("--load", nargs=2, help=argparse.SUPPRESS)
    args = cli.parse_args()
    if args.load:
        return load(args.directory, args.load[0], int(args.load[1]))
    if args.directory.exists():
        raise SystemExit(f"{args.directory} exists; give a directory to make")
    try:
        write(args.directory)
        for workers in args.workers:
            for order in ("global", "windowed"):
                print(json.dumps(measure(args.directory, order, workers)), flush=True)
    finally:
        shutil.rmtree(args.directory)


if __name__ == "__main__":
    main()
