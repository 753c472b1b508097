"""Measure images a second and seconds an image of `i21k serve`, beside the predictor alone.

    python benchmarks/serve.py IMAGE... [--checkpoint runs/quickstart] [--rounds 3] [--images 64]

Without a checkpoint, the network is Inception-BN of 2015 with random parameters, 21,841 classes and
224 px. The server is a process of its own on the same machine, and so share the processors with the
clients. The clients are threads that each send one image after another over loopback. The cases
take turns, and numbers are medians of rounds. Prints one JSON line:

    bare_images_s   `Predictor.see` over the same files, in batches of 8
    clients         for 1, 8 and 32 clients: images_s, over_bare (of the same round), and the
                    latency in ms of half, and of 95 of 100 images
"""

import argparse
import concurrent.futures
import contextlib
import http.client
import itertools
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parent))

from predict import full_network  # prepares JAX

from i21k.machine import num_cpus
from i21k.prediction.predicted_images import predict_files
from i21k.prediction.predictor import Predictor

CLIENTS = (1, 8, 32)


@contextlib.contextmanager
def serving(checkpoint: Path) -> Iterator[str]:
    """Start the server as users do, and return its address."""
    command = [sys.executable, "-m", "i21k", "serve", "--checkpoint", str(checkpoint)]
    process = subprocess.Popen([*command, "--port", "0"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith("serving "):
            raise SystemExit("the server did not start")
        yield line.split()[1]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def load(address: str, files: list[bytes], num_clients: int, num_images: int) -> dict[str, float]:
    """Send images from some clients, each waiting for its answer before it sends the next."""
    todo = itertools.islice(itertools.cycle(files), num_images)
    lock, host = threading.Lock(), urlsplit(address).netloc

    def client(_: int) -> list[float]:
        connection = http.client.HTTPConnection(host, timeout=120)
        seconds: list[float] = []
        while True:
            with lock:
                body = next(todo, None)
            if body is None:
                connection.close()
                return seconds
            start = time.perf_counter()
            connection.request("POST", "/predict", body)
            response = connection.getresponse()
            text = response.read()
            if response.status != 200:
                raise SystemExit(f"{response.status}: {text.decode()}")
            seconds.append(time.perf_counter() - start)

    start = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(num_clients) as pool:
        latencies = sorted(itertools.chain(*pool.map(client, range(num_clients))))
    return {
        "images_s": len(latencies) / (time.perf_counter() - start),
        "half_ms": 1000 * latencies[len(latencies) // 2],
        "95_of_100_ms": 1000 * latencies[int(0.95 * len(latencies))],
    }


def bare(model: Predictor, paths: list[Path], num_images: int) -> float:
    """Return the images a second of the predictor without a server."""
    view = model.view("top")
    start = time.perf_counter()
    for one in predict_files(model, itertools.islice(itertools.cycle(paths), num_images), view):
        assert not one.fault, one.fault
    return num_images / (time.perf_counter() - start)


def measure(checkpoint: Path, paths: list[Path], rounds: int, num_images: int) -> dict[str, Any]:
    """Measure all cases in turn."""
    files = [path.read_bytes() for path in paths]
    model = Predictor(checkpoint)
    found: dict[int, list[dict[str, float]]] = {num: [] for num in CLIENTS}
    bares: list[float] = []
    with serving(checkpoint) as address:
        bare(model, paths, 16)  # compiles
        load(address, files, 8, 16)
        for _ in range(rounds):
            bares.append(bare(model, paths, num_images))
            for num in CLIENTS:
                result = load(address, files, num, num_images)
                found[num].append({**result, "over_bare": result["images_s"] / bares[-1]})
            last = {num: round(results[-1]["images_s"], 1) for num, results in found.items()}
            print(f"bare {bares[-1]:.1f} images/s, clients {last}", file=sys.stderr, flush=True)
    return {
        "bare_images_s": round(statistics.median(bares), 1),
        "clients": {
            num: {key: round(statistics.median(r[key] for r in results), 2) for key in results[0]}
            for num, results in found.items()
        },
    }


def main() -> None:
    """Measure, and print one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", metavar="IMAGE", nargs="+", type=Path)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", dest="num_images", type=int, default=64, help="in each case")
    args = parser.parse_args()
    with (
        full_network()
        if args.checkpoint is None
        else contextlib.nullcontext(args.checkpoint) as checkpoint
    ):
        found = measure(checkpoint, args.images, args.rounds, args.num_images)
    machine = {"processor": platform.processor(), "cpus": num_cpus(), "load": os.getloadavg()[0]}
    print(json.dumps({**found, **machine, "images": args.num_images, "rounds": args.rounds}))


if __name__ == "__main__":
    main()
