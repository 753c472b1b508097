"""Compare recipes on Tiny-ImageNet: that of 2015, its accidents repaired, and a modern one.

    i21k pack tiny_imagenet/train --out data/tiny_imagenet --name tiny_imagenet
    i21k pack tiny_imagenet/val --out data/tiny_imagenet --name tiny_imagenet --split val
    python benchmarks/ladder.py --data data/tiny_imagenet --out ladder --epochs 3 --width 0.25

Every rung has the same network width and sees the same number of images, except the last one,
which has the CPU time of the first. A rung is a run like any other in `--out`: stop the script at
any time and start it again. Finished rungs are lines of `ladder.jsonl`; the last output is a table.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from i21k import backend

backend.prepare()
backend.keep_memory(128 * 64**2)

import jax
from ml_collections import ConfigDict

from i21k.train import loop, workdir
from i21k.train.interruption import Interrupted
from i21k.train.recipe import default_config
from i21k.train.report import read_metrics

sys.path.insert(0, str(Path(__file__).parents[1]))  # recipes are files of the checkout

from configs import i21k_inception, tiny_imagenet_modern

RUNGS = ("R0", "R1", "R2", "R2 in the time of R0")
WHAT = {
    "R0": "2015: constant rate, uniform initial values, BatchNorm momentum 0.1, decay of all",
    "R1": "its accidents repaired: linear to 0, He initial values, momentum 0.9, decay of kernels",
    "R2": "modern: Muon, smoothing 0.1, 32 to 80 px, regions, batch 256, 96 px in evaluation",
    "R2 in the time of R0": "the same with as much CPU time as R0",
}


def recipe_of(rung: str, data: Path, epochs: int, width: float, seed: int) -> ConfigDict:
    """Return the recipe of a rung."""
    if rung.startswith("R2"):
        config = tiny_imagenet_modern.get_config()
    else:
        config = i21k_inception.get_config()
        config.image_size = 64
        config.model.variant = "standard"
        config.model.remat = "none"  # there is memory enough, and the numbers are the same
        config.log.keep_checkpoints = 2
        if rung == "R1":
            _repair(config)
    config.epochs, config.seed, config.model.width = epochs, seed, width
    config.devices = 1
    config.data.directory, config.data.threads = str(data), 1
    config.evaluation.sets, config.evaluation.batch_size = "val=val", 256
    config.log.every_steps = 100
    config.log.checkpoint_minutes = 4.0
    return config


def _repair(config: ConfigDict) -> None:
    usual = default_config()
    config.model.init = usual.model.init
    config.model.bn_momentum = usual.model.bn_momentum
    config.optimizer.schedule = "linear"
    config.optimizer.warmup_epochs = 0.25
    config.optimizer.nesterov = True
    config.optimizer.decay = "kernels"


def train(rung: str, config: ConfigDict, directory: Path) -> dict[str, Any]:
    """Train a rung, or continue it, and return its line.

    Raises:
        Interrupted: after a signal. The state is saved, and the CPU time so far too.
    """
    spent = directory / "cpu_s.jsonl"
    started = time.process_time()
    try:
        loop.run(config, directory)
    finally:
        with spent.open("a") as file:  # of this process, without waiting
            file.write(f"{time.process_time() - started}\n")
    rows = read_metrics(directory)
    last = rows[-1]
    return {
        "rung": rung,
        "epochs": config.epochs,
        "images": config.epochs * 50000,
        "seed": config.seed,
        "width": config.model.width,
        "batch_size": config.batch_size,
        "cpu_s": round(sum(map(float, spent.read_text().split()))),
        "train_s": round(sum(float(row["train_s"]) for row in rows)),
        "val_top1": float(last["val_top1"]),
        "val_top5": float(last["val_top5"]),
        "val_loss": float(last["val_loss"]),
        "train_loss": float(last["train_loss"]),
        "curve": [[float(row["epoch"]), float(row["val_top1"])] for row in rows if row["val_top1"]],
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "jax": jax.__version__,
        "commit": workdir.versions().get("commit", "?"),
    }


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of the rungs that are finished."""
    with contextlib.suppress(FileNotFoundError):
        return [json.loads(line) for line in path.read_text().splitlines()]
    return []


def epochs_in_the_time_of(first: dict[str, Any], own: dict[str, Any]) -> int:
    """Return how many epochs fit in the CPU time of another rung, rounded down."""
    return max(1, int(first["cpu_s"] / (own["cpu_s"] / own["epochs"])))


def table(lines: list[dict[str, Any]]) -> str:
    """Return the lines as Markdown."""
    rows = [
        "| rung | what | epochs | CPU minutes | top-1 | top-5 | loss |",
        "|---|---|---|---|---|---|---|",
    ]
    rows += [
        f"| {line['rung']} | {WHAT[line['rung']]} | {line['epochs']} | {line['cpu_s'] / 60:.0f}"
        f" | {line['val_top1']:.1%} | {line['val_top5']:.1%} | {line['val_loss']:.3f} |"
        for line in lines
    ]
    return "\n".join(rows)


def draw(lines: list[dict[str, Any]], path: Path) -> None:
    """Draw top-1 accuracy over epochs, one curve for each line."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for line in lines:
        axes.plot(*zip(*line["curve"], strict=True), marker="o", markersize=3, label=line["rung"])
    axes.set(xlabel="epoch", ylabel="validation top-1", ylim=(0, None))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


@dataclasses.dataclass(frozen=True)
class Choice:
    """What the command line chooses."""

    data: Path
    out: Path
    epochs: int
    width: float
    seed: int
    rungs: tuple[str, ...]


def climb(choice: Choice) -> int:
    """Train the rungs that are not finished; return the exit code."""
    path = choice.out / "ladder.jsonl"
    choice.out.mkdir(parents=True, exist_ok=True)
    for rung in choice.rungs:
        done = {line["rung"]: line for line in read_lines(path) if line["seed"] == choice.seed}
        if rung in done:
            continue
        epochs = choice.epochs
        if rung == RUNGS[-1]:
            epochs = epochs_in_the_time_of(done["R0"], done["R2"])
        config = recipe_of(rung, choice.data, epochs, choice.width, choice.seed)
        directory = choice.out / f"{rung.replace(' ', '_')}-{choice.seed}"
        try:
            line = train(rung, config, directory)
        except Interrupted as interrupted:
            return interrupted.exit_code
        with path.open("a") as file:
            file.write(json.dumps(line) + "\n")
    print(table(read_lines(path)))
    return 0


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    cli.add_argument("--data", type=Path, default=Path("data/tiny_imagenet"), help="packed")
    cli.add_argument("--out", type=Path, default=Path("ladder"), help="directory of the runs")
    cli.add_argument("--epochs", type=int, default=12)
    cli.add_argument("--width", type=float, default=0.5)
    cli.add_argument("--seed", type=int, default=0)
    cli.add_argument("--rungs", nargs="+", choices=RUNGS, default=RUNGS)
    cli.add_argument("--plot", type=Path, help="only draw the finished rungs")
    args = cli.parse_args()
    if args.plot:
        draw(read_lines(args.out / "ladder.jsonl"), args.plot)
        return
    chosen = Choice(args.data, args.out, args.epochs, args.width, args.seed, tuple(args.rungs))
    raise SystemExit(climb(chosen))


if __name__ == "__main__":
    main()
