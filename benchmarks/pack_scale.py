"""Memory of packing over time, with millions of tiny pictures in thousands of tars: what grows with their number shows, what does not.

    python benchmarks/pack_scale.py --directory /disk/scratch [--tars 2000] [--members 1000] [--side 8] [--workers 2]

Makes a folder of synset tars with JPEGs of 8 x 8 px, a tenth of them copies of others (3 GB for 2,000 tars of 1,000), packs it, writes
every few seconds how many bytes all processes of the packer hold together (proportional set size, so that shared pages count
once), and deletes everything. What a terabyte takes in buffers shows with fewer, large ones that gather and are written as they would be
there: `--tars 40 --side 128 --run-mib 512 --shards 4`. Prints one JSON line.
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

from i21k.data.pack import pack as packing
from i21k.data.pack.pack import PackOptions, Progress, pack

COPIES = 10  # of so many pictures one is a copy


def make_tar(folder: Path, number: int, num_members: int, side_px: int) -> None:
    """Write one synset tar; every tenth picture is also in the tar before."""
    rng, before = np.random.default_rng(number), np.random.default_rng(max(number - 1, 0))
    coarse, copied = (r.integers(0, 256, (num_members, 8, 8, 3), np.uint8) for r in (rng, before))
    if number:
        coarse[::COPIES] = copied[1::COPIES]
    with tarfile.open(folder / f"n{number:08d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for index, picture in enumerate(coarse):
            info = tarfile.TarInfo(f"n{number:08d}_{index}.JPEG")
            content = simplejpeg.encode_jpeg(np.tile(picture, (side_px // 8, side_px // 8, 1)), 90)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def held_bytes() -> int:
    """Return what this process and its children hold."""
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
        "--directory", type=Path, required=True, help="where some GB may lie for the while"
    )
    parser.add_argument("--tars", type=int, default=2000)
    parser.add_argument("--members", type=int, default=1000)
    parser.add_argument(
        "--side", type=int, default=8, help="of the pictures in pixels, a multiple of 8"
    )
    parser.add_argument("--shards", type=int, default=64)
    parser.add_argument(
        "--run-mib",
        type=int,
        help="that gather in memory before they are written; by default as many as for this source",
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument(
        "--every", type=float, default=5.0, help="seconds between two looks at the memory"
    )
    args = parser.parse_args()
    if args.run_mib:
        packing._run_bytes = lambda *_: args.run_mib << 20
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
                        now.num_pictures,
                        held_bytes() >> 20,
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
                "pictures": report.num_read,
                "written": report.num_written,
                "seconds": round(report.seconds, 1),
                "peak_mib": max(row[3] for row in rows),
                "columns": ["seconds", "phase", "pictures", "mib"],
                "rows": rows,
            }
        )
    )


if __name__ == "__main__":
    main()
