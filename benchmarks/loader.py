"""Measure images per second of the training loader, and of the loaders of other systems.

    python benchmarks/loader.py --jpegs FOLDER [--crop region|plain] [--mirror host|device]
    [--rounds 5 --peer tfdata=PYTHON ...]

All run in turn on the same JPEG files. The work is that of `peers/loader_peers.py`: read a JPEG,
cut a random region, resize it to 224 px (`--crop plain`: cut a random window of 224 px), and return
uint8 batches of 128. With `--mirror host` the loader mirrors half of the images, as the peers do.
In training the device does that. The files are packed into shards unchanged.

Each round first only decodes whole images, on as many threads: `of_bare_decoding` is the speed of
the loader divided by that. Prints one JSON line per round, and one with the medians.
"""

import argparse
import concurrent.futures
import contextlib
import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.peers.loader_work import BATCH, NUM_IMAGES, SIZE_PX, find_jpegs
from i21k.data.format import shards
from i21k.data.format.records import encode_example
from i21k.data.format.splits import Split, open_split
from i21k.data.format.tfds import write_metadata
from i21k.data.load import loader
from i21k.images.decode import decode, read_size
from i21k.labels import ClassList

NUM_SHARDS = 4
PEERS = Path(__file__).parent / "peers" / "loader_peers.py"


def pack(files: list[Path], directory: Path) -> Split:
    """Write the files unchanged into shards, and open them as a run does."""
    classes = ClassList(tuple(f"n{k:08d}" for k in range(1000)))
    records = [
        encode_example(file.read_bytes(), i % 1000, file.name) for i, file in enumerate(files)
    ]
    names = [shards.shard_name("jpegs", "train", k, NUM_SHARDS) for k in range(NUM_SHARDS)]
    written = tuple(
        shards.write_shard(directory / name, records[k::NUM_SHARDS]) for k, name in enumerate(names)
    )
    write_metadata(directory, "jpegs", classes, {"train": written})
    return open_split(directory, "train")


def rate(
    batches: Iterator[loader.Batch], seconds: float, warmup: int = 8, batch_size: int = BATCH
) -> float:
    """Return images per second of a stream, after the first batches."""
    start, count = 0.0, -warmup
    for _ in batches:
        count += 1
        if count == 0:
            start = time.perf_counter()
        elif count > 0 and time.perf_counter() - start > seconds:
            break
    return count * batch_size / (time.perf_counter() - start)


def decoding_rate(files: list[Path], threads: int, seconds: float) -> float:
    """Return whole images per second of the decoder alone, from bytes in memory."""
    encoded = [file.read_bytes() for file in sorted(set(files))]
    sizes = [read_size(data) for data in encoded]
    end = time.perf_counter() + seconds

    def decode_for_a_while(first: int) -> int:
        count = first
        while time.perf_counter() < end:
            decode(encoded[count % len(encoded)], *sizes[count % len(encoded)])
            count += 1
        return count - first

    start = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        count = sum(pool.map(decode_for_a_while, range(threads)))
    return count / (time.perf_counter() - start)


def peer_rate(name: str, python: str, args: argparse.Namespace) -> float:
    """Run a peer in its own environment and return its images per second."""
    command = [
        python,
        str(PEERS),
        name,
        "--jpegs",
        args.jpegs,
        "--threads",
        str(args.threads),
        "--crop",
        args.crop,
    ]
    out = subprocess.run(
        [*command, "--seconds", str(args.seconds)], check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    return json.loads(out.splitlines()[-1])["images_per_s"]


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    cli.add_argument(
        "--jpegs",
        required=True,
        help=f"folder of .jpg/.jpeg/.JPEG files, repeated up to {NUM_IMAGES:,} images",
    )
    cli.add_argument("--threads", type=int, default=2)
    cli.add_argument(
        "--workers",
        type=int,
        nargs="+",
        default=[0],
        help="processes that share the threads; 0: threads of this process; several take turns",
    )
    cli.add_argument("--crop", choices=("region", "plain"), default="region")
    cli.add_argument("--mirror", choices=("host", "device"), default="host")
    cli.add_argument("--rounds", type=int, default=1)
    cli.add_argument(
        "--seconds", type=float, default=6.0, help="that each is timed for in each round"
    )
    cli.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="NAME=PYTHON",
        help="a peer and the interpreter that has it",
    )
    args = cli.parse_args()
    files = find_jpegs(args.jpegs)
    peers = dict(peer.split("=", 1) for peer in args.peer)

    with contextlib.ExitStack() as stack:
        split = pack(files, Path(stack.enter_context(tempfile.TemporaryDirectory())))
        how = loader.LoaderOptions(
            BATCH, SIZE_PX, crop=args.crop, crop_fraction=224 / 256, mirror_on=args.mirror
        )
        ours = {
            f"i21k_{number}_workers" if at else "i21k": dataclasses.replace(
                how, threads=args.threads // (number or 1), workers=number
            )
            for at, number in enumerate(args.workers)
        }
        rounds: list[dict[str, float]] = []
        for _ in range(args.rounds):
            rates = {"bare_decoding": decoding_rate(files, args.threads, args.seconds / 2)}
            for name, options in ours.items():
                with loader.batches(split, options, 0, 10**9) as batches:
                    rates[name] = rate(batches, args.seconds)
            rates |= {name: peer_rate(name, python, args) for name, python in peers.items()}
            rounds.append(rates)
            if args.rounds > 1:
                print(
                    json.dumps({name: round(value, 1) for name, value in rates.items()}), flush=True
                )
    median = {name: statistics.median(rates[name] for rates in rounds) for name in rounds[0]}
    line = {
        "peer": "i21k",
        "images_per_s": round(median["i21k"], 1),
        "threads": args.threads,
        "crop": args.crop,
        "images": len(files),
    }
    line |= {"workers": args.workers, "mirror": args.mirror, "rounds": args.rounds}
    line |= {
        "of_bare_decoding": round(
            statistics.median(r["i21k"] / r["bare_decoding"] for r in rounds), 3
        )
    }
    line |= {
        f"{mine}_over_{name}".removeprefix("i21k_"): round(
            statistics.median(r[mine] / r[name] for r in rounds), 2
        )
        for name in peers
        for mine in ours
    }
    line |= {
        f"{name}_images_per_s": round(value, 1) for name, value in median.items() if name != "i21k"
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
