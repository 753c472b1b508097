"""Measure images per second of packing, compared with processes that only recode the same images.

    python benchmarks/pack.py --source imagenet_sample_whole.tar [--images 12000] [--workers 2]

The images of a tar of synset tars are repeated under new names to a tar of at least `--images`.
It is packed from the first byte read to the manifest written. The comparison is the same number
of processes that recode their share of the images from memory. Both take turns; the result is the
median. Prints one JSON line.
"""

import argparse
import contextlib
import importlib.metadata
import io
import itertools
import json
import multiprocessing
import os
import platform
import statistics
import tarfile
import tempfile
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

# The packer itself is imported in `main`: every process that is started imports this file.
from i21k.data.sources.base import Member
from i21k.data.sources.recognise import open_source
from i21k.images import recode


def repeated(source: Path, out: Path, num_images: int) -> int:
    """Write a tar of synset tars with the images of another, repeated; return their number."""
    of_class: dict[str, list[Member]] = {}
    for member in open_source(source).members():
        if not member.skipped:
            of_class.setdefault(member.class_id, []).append(member)
    num_repeats = -(-num_images // sum(map(len, of_class.values())))
    with tarfile.open(out, "w") as whole:
        for class_id, members in of_class.items():
            content = io.BytesIO()
            with tarfile.open(fileobj=content, mode="w") as tar:
                for repeat, member in itertools.product(range(num_repeats), members):
                    info = tarfile.TarInfo(f"{repeat:04d}_{Path(member.name).name}")
                    info.size = member.num_bytes
                    tar.addfile(info, io.BytesIO(member.content()))
            info = tarfile.TarInfo(f"{class_id}.tar")
            info.size = content.tell()
            content.seek(0)
            whole.addfile(info, content)
    return num_repeats * sum(map(len, of_class.values()))


def bare(source: Path, num_workers: int, short_side_px: int, quality: int) -> float:
    """Return the seconds that `num_workers` processes need for the images of a source in memory."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(num_workers + 1)
    processes = [
        context.Process(
            target=_bare, args=(source, k, num_workers, short_side_px, quality, barrier)
        )
        for k in range(num_workers)
    ]
    for process in processes:
        process.start()
    barrier.wait()
    started = time.perf_counter()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    return time.perf_counter() - started


def _bare(
    source: Path, k: int, num_workers: int, short_side_px: int, quality: int, barrier: Barrier
) -> None:
    data = [
        member.content()
        for member in itertools.islice(open_source(source).members(), k, None, num_workers)
    ]
    barrier.wait()
    for content in data:
        with contextlib.suppress(recode.Unreadable):
            recode.recode(content, short_side_px, quality)
    os._exit(0)  # do not time how the memory is freed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", type=Path, required=True, help="tar of synset tars")
    parser.add_argument("--images", type=int, default=15_000)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--directory",
        type=Path,
        help="for the repeated tar and the packed dataset, which are deleted",
    )
    args = parser.parse_args()
    from i21k.data.pack.pack import PackOptions, pack

    options = PackOptions()
    rates: dict[str, list[float]] = {"pack": [], "bare": []}
    with tempfile.TemporaryDirectory(dir=args.directory) as scratch:
        tar = Path(scratch) / "repeated.tar"
        num_images = repeated(args.source, tar, args.images)
        for number in range(args.rounds):
            rates["bare"].append(
                num_images / bare(tar, args.workers, options.short_side, options.quality)
            )
            report = pack(tar, Path(scratch) / str(number), options, num_workers=args.workers)
            rates["pack"].append(num_images / report.seconds)
        source_bytes, packed_bytes = report.source_bytes, report.splits["train"].num_bytes
    medians = {key: statistics.median(values) for key, values in rates.items()}
    print(
        json.dumps(
            {
                "ratio": round(medians["pack"] / medians["bare"], 3),
                "pack_images_per_s": round(medians["pack"], 1),
                "bare_images_per_s": round(medians["bare"], 1),
                "rounds": {
                    key: [round(rate, 1) for rate in values] for key, values in rates.items()
                },
                "images": num_images,
                "source_bytes_per_image": source_bytes // num_images,
                "packed_bytes_per_image": packed_bytes // num_images,
                "workers": args.workers,
                "cpu": platform.processor() or platform.machine(),
                "versions": {
                    name: importlib.metadata.version(name)
                    for name in ("simplejpeg", "pillow", "array-record")
                },
            }
        )
    )


if __name__ == "__main__":
    main()
