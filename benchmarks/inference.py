"""Measure images per second of inference: unfolded, folded, for a CPU, and in MXNet 1.9.1.

    python benchmarks/inference.py [--mxnet-python mx/bin/python] [--parts]

`unfolded` is the network as it is trained, `only_folded` has BatchNorm folded into the
convolutions, and `folded` is also arranged for the device, as prediction uses it. `--parts` also
times that arrangement without each of its parts. float32, images of 224 px in memory, 21,841
classes, medians of several rounds. All variants run in turn in each round, so that other load slows
all of them. Prints one JSON line.

MXNet gets the graph that `write_symbol` writes, random parameters, and the threads that it chooses.
Its environment: python3.11 -m venv mx && mx/bin/pip install "numpy<1.24" mxnet==1.9.1.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from i21k import backend

backend.prepare()

sys.path.insert(0, str(Path(__file__).parents[1]))

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np

from benchmarks import timed_step
from i21k.interop.mxnet.write_symbol import write_symbol
from i21k.models import cpu, folding
from i21k.models.inception_bn import InceptionBN

SIZE_PX, NUM_CLASSES = 224, 21841


class WithoutPieces(cpu.CpuInceptionBN):
    part = folding.FoldedInceptionBN.part


class WithoutWinograd(cpu.CpuInceptionBN):
    convolution = folding.FoldedInceptionBN.convolution


WITHOUT = {
    "without_pieces": WithoutPieces,
    "without_winograd": WithoutWinograd,
}

# Runs once for every line that it reads, and prints the seconds.
MXNET = """
import sys, time, mxnet as mx
batch = int(sys.argv[2])
logits = mx.sym.load(sys.argv[1]).get_internals()["fc1_output"]
bound = logits.simple_bind(mx.cpu(), data=(batch, 3, 224, 224), grad_req="null")
for array in list(bound.arg_dict.values()) + list(bound.aux_dict.values()):
    array[:] = mx.nd.random.uniform(0.01, 0.02, array.shape)
for line in sys.stdin:
    start = time.perf_counter()
    bound.forward(is_train=False)[0].wait_to_read()
    print(time.perf_counter() - start, flush=True)
"""


def timer(model: InceptionBN, variables: dict, images: jax.Array) -> Callable[[], float]:
    """Compile `model` and return a function that runs it once and gives the seconds."""
    variables = jax.device_put(variables)
    compiled = (
        jax.jit(lambda variables, images: model.apply(variables, images))
        .lower(variables, images)
        .compile()
    )

    def once() -> float:
        start = time.perf_counter()
        compiled(variables, images).block_until_ready()
        return time.perf_counter() - start

    return once


def mxnet_timer(
    python: str, model: InceptionBN, batch_size: int, directory: str
) -> Callable[[], float]:
    """Start MXNet in its own environment and return a function that runs the same network once."""
    symbol = Path(directory) / "symbol.json"
    write_symbol(symbol, model)
    peer = subprocess.Popen(
        [python, "-c", MXNET, str(symbol), str(batch_size)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def once() -> float:
        assert peer.stdin and peer.stdout
        peer.stdin.write("\n")
        peer.stdin.flush()
        return float(peer.stdout.readline())

    return once


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    cli.add_argument("--batch-size", type=int, default=32)
    cli.add_argument("--rounds", type=int, default=9)
    cli.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="of activations; MXNet always runs float32",
    )
    cli.add_argument("--revision", choices=("released", "symbol2016"), default="released")
    cli.add_argument("--parts", action="store_true", help="time each part of what is for a CPU")
    cli.add_argument("--tiny", action="store_true", help="try this on a small network")
    cli.add_argument("--mxnet-python", help="interpreter that has MXNet 1.9.1")
    args = cli.parse_args()
    load_before = round(os.getloadavg()[0], 1)

    size_px, num_classes, width = SIZE_PX, NUM_CLASSES, 1.0
    if args.tiny:
        timed_step.few_blocks()
        tiny = timed_step.TINY
        size_px, num_classes, width = tiny["image_size"], tiny["num_classes"], tiny["width"]
    model = InceptionBN(
        num_classes=num_classes, width=width, revision=args.revision, dtype=jnp.dtype(args.dtype)
    )
    shape = (args.batch_size, size_px, size_px, 3)
    images = jnp.asarray(np.random.default_rng(0).normal(0, 50, shape), jnp.float32)
    variables = jax.jit(model.init)(jax.random.key(0), images[:1])
    with tempfile.TemporaryDirectory() as directory:
        folded = folding.fold(variables, args.revision)
        timers = {
            "unfolded": timer(model, variables, images),
            "only_folded": timer(folding.folded(model, "gpu"), folded, images),
        }
        if jax.default_backend() == "cpu":  # elsewhere it is the same as only_folded
            timers["folded"] = timer(folding.folded(model, "cpu"), folded, images)
        if args.parts:
            timers |= {
                name: timer(folding.folded(model, "cpu", kind), folded, images)
                for name, kind in WITHOUT.items()
            }
        if args.mxnet_python:
            timers["mxnet"] = mxnet_timer(args.mxnet_python, model, args.batch_size, directory)
        seconds: dict[str, list[float]] = {name: [] for name in timers}
        for number in range(args.rounds + 2):
            for name, once in timers.items():
                taken = once()
                if number >= 2:  # two rounds to warm up
                    seconds[name].append(taken)
    rates = {name: args.batch_size / statistics.median(taken) for name, taken in seconds.items()}
    line = {f"{name}_img_per_s": round(rate, 1) for name, rate in rates.items()}
    best = "folded" if "folded" in rates else "only_folded"
    line |= {
        f"{best}_over_{name}": round(rates[best] / rate, 2)
        for name, rate in rates.items()
        if name != best
    }
    line |= {
        "batch_size": args.batch_size,
        "size_px": size_px,
        "classes": model.num_classes,
        "revision": args.revision,
        "dtype": args.dtype,
    }
    line |= {
        "rounds": args.rounds,
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
    }
    # Runnable threads of all programs, mean of a minute.
    print(json.dumps(line | {"load_before": load_before}))


if __name__ == "__main__":
    main()
