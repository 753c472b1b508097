"""Pictures a second of packing, beside processes that only decode, resize and encode the same bytes in memory.

    python benchmarks/pack.py --source imagenet_sample_whole.tar [--pictures 12000] [--workers 2] [--rounds 3]

The pictures of a tar of synset tars are repeated under new names to a tar of at least `--pictures`; it is packed from the first byte
read to the manifest written, and the same number of bare processes do with their share of the pictures, which they hold in memory before
the clock starts, what a worker does (`recode`). Both in turn, round by round; medians. Prints one JSON line.
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

from i21k.data.sources import (
    base,  # the packer itself is imported later: every process that is started imports this file
)
from i21k.images import (
    recode,  # the packer itself is imported later: every process that is started imports this file
)


def repeated(source: Path, out: Path, num_pictures: int) -> int:
    """Write a tar of synset tars with the pictures of another, again and again under new names, and return how many."""
    of_class: dict[str, list[base.Member]] = {}
    for member in base.open_source(source).members():
        if not member.left_out:
            of_class.setdefault(member.class_id, []).append(member)
    num_copies = -(-num_pictures // sum(map(len, of_class.values())))
    with tarfile.open(out, "w") as whole:
        for class_id, members in of_class.items():
            content = io.BytesIO()
            with tarfile.open(fileobj=content, mode="w") as tar:
                for copy, member in itertools.product(range(num_copies), members):
                    info = tarfile.TarInfo(f"{copy:04d}_{Path(member.name).name}")
                    info.size = member.num_bytes
                    tar.addfile(info, io.BytesIO(member.content()))
            info = tarfile.TarInfo(f"{class_id}.tar")
            info.size = content.tell()
            content.seek(0)
            whole.addfile(info, content)
    return num_copies * sum(map(len, of_class.values()))


def bare(source: Path, num_workers: int, short_side_px: int, quality: int) -> float:
    """Return the seconds that `num_workers` processes take for the pictures of a source in memory."""
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
        for member in itertools.islice(base.open_source(source).members(), k, None, num_workers)
    ]
    barrier.wait()
    for content in data:
        with contextlib.suppress(recode.Unreadable):
            recode.recode(content, short_side_px, quality)
    os._exit(0)  # not to time how the memory is given back


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", type=Path, required=True, help="tar of synset tars")
    parser.add_argument("--pictures", type=int, default=15_000)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--directory",
        type=Path,
        help="where the repeated tar and the packed dataset lie for the while",
    )
    args = parser.parse_args()
    from i21k.data.pack.pack import PackOptions, pack

    options = PackOptions()
    rates: dict[str, list[float]] = {"pack": [], "bare": []}
    with tempfile.TemporaryDirectory(dir=args.directory) as scratch:
        tar = Path(scratch) / "repeated.tar"
        num_pictures = repeated(args.source, tar, args.pictures)
        for number in range(args.rounds):
            rates["bare"].append(
                num_pictures / bare(tar, args.workers, options.short_side, options.quality)
            )
            report = pack(tar, Path(scratch) / str(number), options, num_workers=args.workers)
            rates["pack"].append(num_pictures / report.seconds)
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
                "pictures": num_pictures,
                "source_bytes_per_picture": source_bytes // num_pictures,
                "packed_bytes_per_picture": packed_bytes // num_pictures,
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
