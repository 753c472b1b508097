"""Measure the memory of packing over time, with millions of tiny images in thousands of tars.

    python benchmarks/pack_scale.py --directory /disk/scratch \
        [--tars 2000] [--members 1000] [--workers 2]

Makes a folder of synset tars with JPEGs of 8 x 8 px, a tenth of them duplicates (3 GB for 2,000
tars of 1,000), packs it, and deletes everything. Every few seconds it notes how much memory all
processes of the packer use together (proportional set size, which counts shared pages once). To
see the buffers that a source of a terabyte needs, use fewer and larger images with its sizes:
`--tars 40 --side 128 --spill-mib 512 --shards 4`. Prints one JSON line.
"""

import argparse
import concurrent.futures
import io
import json
import os
import tarfile
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import simplejpeg

from i21k.data.pack.engine import LocalEngine
from i21k.data.pack.pack import PackOptions, Progress, pack

DUPLICATES = 10  # of so many images one is a duplicate


def make_tar(folder: Path, number: int, num_members: int, side_px: int) -> None:
    """Write one synset tar; every tenth image is also in the tar before."""
    rng, before = np.random.default_rng(number), np.random.default_rng(max(number - 1, 0))
    coarse, copied = (r.integers(0, 256, (num_members, 8, 8, 3), np.uint8) for r in (rng, before))
    if number:
        coarse[::DUPLICATES] = copied[1::DUPLICATES]
    with tarfile.open(folder / f"n{number:08d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for index, image in enumerate(coarse):
            info = tarfile.TarInfo(f"n{number:08d}_{index}.JPEG")
            content = simplejpeg.encode_jpeg(np.tile(image, (side_px // 8, side_px // 8, 1)), 90)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def used_bytes() -> int:
    """Return the memory that this process and its children use."""
    children = [
        int(p)
        for task in Path("/proc/self/task").iterdir()
        for p in (task / "children").read_text().split()
    ]
    total = 0
    for process in (os.getpid(), *children):
        try:
            rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
        except OSError:  # it has just ended
            continue
        total += sum(
            int(line.split()[1]) << 10 for line in rollup.splitlines() if line.startswith("Pss:")
        )
    return total


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--directory", type=Path, required=True, help="for some GB of temporary files"
    )
    parser.add_argument("--tars", type=int, default=2000)
    parser.add_argument("--members", type=int, default=1000)
    parser.add_argument(
        "--side", type=int, default=8, help="side of the images in pixels, a multiple of 8"
    )
    parser.add_argument("--shards", type=int, default=64)
    parser.add_argument(
        "--spill-mib",
        type=int,
        help="size of a spill file; by default as for this source",
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument(
        "--every", type=float, default=5.0, help="seconds between two measurements of the memory"
    )
    args = parser.parse_args()
    if args.spill_mib:
        LocalEngine._spill_bytes = lambda *_: args.spill_mib << 20  # type: ignore[method-assign]
    rows: list[tuple[float, str, int, int]] = []
    now = Progress("reading", 0, 1, 0)

    def keep(progress: Progress) -> None:
        nonlocal now
        now = progress

    with tempfile.TemporaryDirectory(dir=args.directory) as scratch:
        source = Path(scratch) / "source"
        source.mkdir()
        with concurrent.futures.ProcessPoolExecutor(args.workers) as pool:
            list(
                pool.map(
                    make_tar,
                    *zip(
                        *((source, number, args.members, args.side) for number in range(args.tars)),
                        strict=True,
                    ),
                )
            )
        ended = threading.Event()
        started = time.monotonic()

        def watch() -> None:
            while not ended.wait(args.every):
                rows.append(
                    (
                        round(time.monotonic() - started, 1),
                        now.phase,
                        now.num_images,
                        used_bytes() >> 20,
                    )
                )

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            report = pack(
                source,
                Path(scratch) / "out",
                PackOptions(num_shards=args.shards),
                num_workers=args.workers,
                on_progress=keep,
            )
        finally:
            ended.set()
            watcher.join()
    print(
        json.dumps(
            {
                "images": report.num_read,
                "written": report.num_written,
                "seconds": round(report.seconds, 1),
                "peak_mib": max(row[3] for row in rows),
                "columns": ["seconds", "phase", "images", "mib"],
                "rows": rows,
            }
        )
    )


if __name__ == "__main__":
    main()
