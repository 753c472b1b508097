"""Measure exported models: size, agreement with the checkpoint, and images per second on a CPU.

    python benchmarks/export.py quality --checkpoint runs/quickstart --data data/quickstart
    python benchmarks/export.py speed [--rounds 5] [--batches 1 8]

`quality` exports a trained model in each precision, and compares the answers to a split with those
of the checkpoint. Quantisation can be judged on a trained model only, not on random weights.

`speed` takes the full network with random weights, 21,841 classes and 224 px. It times onnxruntime
and our own inference in turn in each round, so that other load slows all of them, and prints
medians: images per second, and images per second of CPU time, which other load changes less.

Both print one JSON line on stdout, and a Markdown table on stderr.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from i21k import backend

backend.prepare()

import jax
import numpy as np

from i21k.data.format.splits import open_split
from i21k.evaluation.evaluate import evaluate_checkpoint
from i21k.interop import export, onnx
from i21k.models.network import build
from i21k.trained import load, load_checkpoint
from i21k.trained.model import TrainedModel

SIZE_PX, NUM_CLASSES = 224, 21841
IN_MB = 1e6


def quality(args: argparse.Namespace) -> dict[str, Any]:
    """Return top-1, agreement and size by precision."""
    model = load_checkpoint(args.checkpoint)
    train, split = open_split(args.data, "train"), open_split(args.data, args.split)
    images = np.concatenate(list(export.real_images(model, split, split.num_records)))
    before = model.probabilities(images).argmax(1)
    rows: dict[str, Any] = {"checkpoint": {"top1": _top1(model, args), "agreement": 1.0}}
    with tempfile.TemporaryDirectory() as scratch:
        for precision in export.PRECISIONS:
            folder = Path(scratch) / precision
            export.export(model, folder, precision=precision, images_from=train)
            exported = load(folder)
            rows[precision] = {
                "mb": (folder / export.MODEL).stat().st_size / IN_MB,
                "top1": _top1(exported, args),
                "agreement": float((exported.probabilities(images).argmax(1) == before).mean()),
            }
    return {"what": "quality", "num_images": len(images), "rows": rows}


def _top1(model: TrainedModel, args: argparse.Namespace) -> float:
    found = evaluate_checkpoint(model, args.data, args.split)
    return float(found.summary()["table"]["all"]["top1"])


def speed(args: argparse.Namespace) -> dict[str, Any]:
    """Return images per second and size by precision, and those of our own inference."""
    rng = np.random.default_rng(0)
    network = build({"variant": "full", "revision": "released"}, NUM_CLASSES)
    variables = network.initial(SIZE_PX, "he_normal", 0)
    faster, convert = network.for_inference("cpu")
    params = jax.device_get(convert(variables)["params"])
    images = rng.integers(0, 256, (max(args.batches), SIZE_PX, SIZE_PX, 3), np.uint8)
    runs: dict[str, Callable[[np.ndarray], Any]] = {}
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for precision in export.PRECISIONS:
            path = Path(scratch) / f"{precision}.onnx"
            described = network.describe()
            if precision == "int8-static":
                source = Path(scratch) / "float32.onnx"
                onnx.quantize(source, path, [images[:8]])
            else:
                onnx.write_onnx(path, described, params, {}, precision=precision)
            rows[precision] = {"mb": path.stat().st_size / IN_MB}
            runs[precision] = _with_onnxruntime(path)
    device_params = jax.device_put({"params": params})
    ours = jax.jit(lambda images: faster.apply(device_params, faster.prepare(images)).logits)
    runs["i21k"] = lambda batch: jax.block_until_ready(ours(batch))
    rows["i21k"] = {"mb": sum(x.nbytes for x in jax.tree.leaves(params)) / IN_MB}
    for size in args.batches:
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        cpu_seconds: dict[str, list[float]] = {name: [] for name in runs}
        for turn in range(args.rounds + 1):
            for name, run in runs.items():
                start, cpu_start = time.perf_counter(), time.process_time()
                run(images[:size])
                if turn:  # the first one compiles
                    seconds[name].append(time.perf_counter() - start)
                    cpu_seconds[name].append(time.process_time() - cpu_start)
        for name in runs:
            rows[name][f"images/s, batch {size}"] = size / statistics.median(seconds[name])
            cpu = statistics.median(cpu_seconds[name])
            rows[name][f"images per CPU second, batch {size}"] = size / cpu
    return {"what": "speed", "rounds": args.rounds, "rows": rows}


def _with_onnxruntime(path: Path) -> Callable[[np.ndarray], Any]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda images: session.run([onnx.LOGITS], {onnx.INPUT: images})


def table(rows: dict[str, dict[str, float]]) -> str:
    """Return a Markdown table of numbers by row and column."""
    columns = list(dict.fromkeys(key for row in rows.values() for key in row))
    lines = [f"| | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    for name, row in rows.items():
        shown = (f"{row[key]:.4g}" if key in row else "" for key in columns)
        lines.append(f"| {name} | {' | '.join(shown)} |")
    return "\n".join(lines)


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = cli.add_subparsers(dest="what", required=True)
    one = commands.add_parser("quality")
    one.add_argument("--checkpoint", type=Path, required=True)
    one.add_argument("--data", type=Path, required=True)
    one.add_argument("--split", default="val")
    other = commands.add_parser("speed")
    other.add_argument("--rounds", type=int, default=5)
    other.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    args = cli.parse_args()
    found = {"quality": quality, "speed": speed}[args.what](args)
    print(table(found["rows"]), file=sys.stderr)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
