"""Plan and simulate training on 10^9 images with 64 hosts, on one machine.

    python benchmarks/billion.py plan
    python benchmarks/billion.py simulate DIR [--order windowed] [--batches 30] [--unbounded]

`plan` prints a Markdown table of sizes and times by arithmetic; the sources of its numbers are in
`FACTS`. `simulate` makes a dataset of 10^9 records in DIR, which must not exist: one real shard of
tiny images under 99,999 names. It opens the dataset as one of 64 hosts does, builds batches from
the middle of an epoch, and prints one JSON line with times and memory. `--unbounded` keeps every
shard open, as it was before readers had a limit.
"""

import argparse
import dataclasses
import json
import math
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.scale import CLASSES, GIF, num_files, resident_mb
from i21k.data.format import readers, shards
from i21k.data.format.manifest import MANIFEST, Manifest, SplitManifest
from i21k.data.format.records import encode_example
from i21k.data.format.splits import open_split
from i21k.data.format.tfds import write_metadata
from i21k.data.load.builder import BatchBuilder
from i21k.data.load.options import LoaderOptions

NUM_RECORDS, NUM_SHARDS = 10**9, 99_999  # the most shards that the packer makes
NUM_HOSTS, GPUS_PER_HOST, BATCH_PER_GPU = 64, 8, 256
RECORD_BYTES = 29_700  # of ImageNet at a short side of 256 px, see `i21k/data/load/order.py`


class Fact(NamedTuple):
    """A number that the plan uses, and where it is from."""

    value: float
    source: str


FACTS = {
    "step_s": Fact(18.01e-3, "benchmarks/roofline.py, batch 256, bfloat16, a lower bound"),
    "parameters": Fact(33.6e6, "i21k summary, full network, 21,841 classes"),
    "nvlink_bytes_per_s": Fact(450e9, "NVIDIA H100 data sheet: NVLink 900 GB/s, both directions"),
    "network_bytes_per_s": Fact(50e9, "NVIDIA DGX H100 data sheet: 400 Gb/s for each GPU"),
    "gpu_hours_per_failure": Fact(
        16_384 * 54 * 24 / 419,
        "The Llama 3 Herd of Models, 2024, section 3.3.4: 419 unexpected interruptions in 54 days"
        " on 16,384 H100",
    ),
    "save_s": Fact(3.7, "benchmarks/checkpoint.py, 2 busy CPU cores, local disk"),
    "restore_s": Fact(3.2, "benchmarks/checkpoint.py"),
    "compile_s": Fact(56.5, "benchmarks/memory.py: compiling the step for an H100 on one core"),
    "plan_bytes_per_image": Fact(1386 * 2**20 / 14.2e6, "benchmarks/pack_plan.py"),
    "decode_per_core_s": Fact(3_008, "benchmarks/loader.py: half of 6,015 images/s of 2 cores"),
    "index_bytes_per_record": Fact(9, "benchmarks/results/2026-11-22-scale.md"),
}


def plan() -> str:
    """Return the table."""
    fact = {name: each.value for name, each in FACTS.items()}
    num_gpus = NUM_HOSTS * GPUS_PER_HOST
    batch = num_gpus * BATCH_PER_GPU
    host_rate = GPUS_PER_HOST * BATCH_PER_GPU / fact["step_s"]
    gradient_bytes = 4 * fact["parameters"]
    inside = 2 * (GPUS_PER_HOST - 1) / GPUS_PER_HOST * gradient_bytes / fact["nvlink_bytes_per_s"]
    # A ring over all GPUs: each sends and receives the gradients twice, less its own part.
    ring = 2 * (num_gpus - 1) / num_gpus * gradient_bytes / fact["network_bytes_per_s"]
    between_failures_s = 3600 * fact["gpu_hours_per_failure"] / num_gpus
    restart_s = 120 + fact["compile_s"] + fact["restore_s"]
    interval_s = math.sqrt(2 * fact["save_s"] * between_failures_s)
    lost = fact["save_s"] / interval_s + (interval_s / 2 + restart_s) / between_failures_s
    rows = {
        "records, shards, records in a shard": f"10^9, {NUM_SHARDS:,},"
        f" {NUM_RECORDS // NUM_SHARDS:,}",
        "size of the data, of a shard": f"{NUM_RECORDS * RECORD_BYTES / 1e12:.1f} TB,"
        f" {NUM_RECORDS * RECORD_BYTES / NUM_SHARDS / 1e6:.0f} MB",
        "batch of 512 GPUs": f"{batch:,} images",
        "steps of an epoch, time at least": f"{NUM_RECORDS // batch:,},"
        f" {NUM_RECORDS / batch * fact['step_s'] / 60:.1f} minutes",
        "images/s of a host, at most": f"{host_rate:,.0f}",
        "bytes/s that a host reads then": f"{host_rate * RECORD_BYTES / 1e9:.1f} GB/s",
        "CPU cores of a host for decoding then": f"{host_rate / fact['decode_per_core_s']:.0f}",
        "index of all shards in one process, without a limit": (
            f"{NUM_RECORDS * fact['index_bytes_per_record'] / 1e9:.0f} GB"
        ),
        "the same with the limit": (
            f"{readers.MAX_INDEXED_RECORDS * fact['index_bytes_per_record'] / 1e9:.1f} GB"
        ),
        "packing in one process: its plan": (
            f"{NUM_RECORDS * fact['plan_bytes_per_image'] / 1e9:.0f} GB"
        ),
        "gradients of a step, float32": f"{gradient_bytes / 1e6:.0f} MB",
        "all-reduce in a host, at least": f"{1e3 * inside:.2f} ms",
        "all-reduce over 64 hosts, at least": f"{1e3 * ring:.1f} ms float32, {500 * ring:.1f} ms"
        " bfloat16",
        "step, at least": f"{1e3 * fact['step_s']:.1f} ms",
        "time between failures": f"{between_failures_s / 3600:.0f} h",
        "restart after a failure": f"{restart_s / 60:.0f} minutes",
        "best time between checkpoints (Young 1974)": f"{interval_s / 60:.0f} minutes",
        "time lost to checkpoints and failures then": f"{lost:.2%}",
    }
    lines = ["| quantity | value |", "|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {value} |" for name, value in rows.items())])


def make(directory: Path) -> None:
    """Write the dataset: one shard, its other names as links, metadata and manifest."""
    directory.mkdir(parents=True)
    num = NUM_RECORDS // NUM_SHARDS
    records = [encode_example(GIF, label, "") for label in range(len(CLASSES))]
    names = [shards.shard_name("billion", "train", k, NUM_SHARDS) for k in range(NUM_SHARDS)]
    first = shards.write_shard(directory / names[0], (records[n % 1000] for n in range(num)))
    for name in names[1:]:
        (directory / name).symlink_to(names[0])
    written = tuple(dataclasses.replace(first, file=name) for name in names)
    write_metadata(directory, "billion", CLASSES, {"train": written})
    Manifest("billion", CLASSES.hash, {"train": SplitManifest(written, {}, {})}).write(directory)


def simulate(directory: Path, order: str, num_batches: int, unbounded: bool) -> dict[str, Any]:
    """Build batches as host 0 of 64 does."""
    if unbounded:
        readers.MAX_OPEN_SHARDS, readers.MAX_INDEXED_RECORDS = NUM_SHARDS, NUM_RECORDS
    line: dict[str, Any] = {"order": order, "unbounded": unbounded}
    started, before_mb = time.perf_counter(), resident_mb(os.getpid())
    split = open_split(directory, "train")
    line["open_s"] = time.perf_counter() - started
    line["records"], line["shards"] = split.num_records, len(split.shard_paths)
    line["manifest_mb"] = (directory / MANIFEST).stat().st_size / 1e6
    line["open_mb"] = resident_mb(os.getpid()) - before_mb
    if order == "windowed":  # spans as long as those of real images
        object.__setattr__(split, "num_bytes", split.num_records * RECORD_BYTES)
    batch = NUM_HOSTS * GPUS_PER_HOST * BATCH_PER_GPU
    options = LoaderOptions(
        batch_size=batch,
        image_size=32,
        crop="plain",
        order=order,  # type: ignore[arg-type]
        host=0,
        num_hosts=NUM_HOSTS,
    )
    builder, middle = BatchBuilder(split, options), split.num_records // batch // 2
    num_read, read = 0, readers.SpanReader.read

    def counted(self: readers.SpanReader, first: int, end: int) -> list[bytes]:
        nonlocal num_read
        num_read += end - first
        return read(self, first, end)

    readers.SpanReader.read = counted  # type: ignore[method-assign]
    memory, times, start = [], [], time.perf_counter()
    for step in range(middle, middle + num_batches):
        builder(step)
        times.append(time.perf_counter() - start)
        start = time.perf_counter()
        memory.append(round(resident_mb(os.getpid())))
    builder.close()
    line["first_batch_s"], line["batch_s"] = times[0], float(np.median(times[1:]))
    line["images_per_batch"] = batch // NUM_HOSTS
    if order == "windowed":
        line["read_per_used"] = num_read / (num_batches * batch // NUM_HOSTS)
    line["resident_mb"] = [memory[at] for at in (0, num_batches // 4, num_batches // 2, -1)]
    line["files"] = num_files(os.getpid())
    return {name: round(x, 3) if isinstance(x, float) else x for name, x in line.items()}


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = cli.add_subparsers(dest="what", required=True)
    commands.add_parser("plan")
    one = commands.add_parser("simulate")
    one.add_argument("directory", metavar="DIR", type=Path)
    one.add_argument("--order", choices=("global", "windowed"), default="global")
    one.add_argument("--batches", type=int, default=30)
    one.add_argument("--unbounded", action="store_true")
    one.add_argument("--keep", action="store_true", help="keep the dataset, or use a kept one")
    args = cli.parse_args()
    if args.what == "plan":
        print(plan())
        return
    if not (args.keep and args.directory.exists()):
        make(args.directory)
    try:
        found = simulate(args.directory, args.order, args.batches, args.unbounded)
        print(json.dumps(found), flush=True)
    finally:
        if not args.keep:
            shutil.rmtree(args.directory)


if __name__ == "__main__":
    main()
