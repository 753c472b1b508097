"""After how many steps can an evaluation trust BatchNorm's moving averages?

Train narrow networks on few drawn images, and evaluate the same weights with moving averages and
with statistics recalibrated on training images. The table gives validation loss and top-1 of both
by step, over several seeds.

Command:  python benchmarks/bn_steps.py [--seeds 3] [--images-per-class 10]
"""

import argparse
import statistics
import tempfile
from pathlib import Path

from i21k import backend

STEPS = (4, 8, 16, 24, 32, 48, 64, 96, 128, 192)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="runs of each kind")
    parser.add_argument("--images-per-class", type=int, default=10, help="of 25 drawn classes")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.05], help="learning rates")
    args = parser.parse_args()
    backend.prepare()
    print("| learning rate | step | loss, moving averages | loss, recalibrated | top-1 | top-1 |")
    print("|---|---|---|---|---|---|")
    for rate in args.rates:
        runs = [
            [measure(args.images_per_class, rate, seed, images) for seed in range(args.seeds)]
            for images in (0, 256)
        ]
        for step in STEPS:
            loss, top1 = (
                [statistics.median(run[step][column] for run in kind) for kind in runs]
                for column in ("val_loss", "val_top1")
            )
            print(
                f"| {rate} | {step} | {loss[0]:,.2f} | {loss[1]:,.2f} |"
                f" {top1[0]:.1%} | {top1[1]:.1%} |",
                flush=True,
            )


def measure(
    images_per_class: int, rate: float, seed: int, recalibrate_bn: int
) -> dict[int, dict[str, float]]:
    """Train and return the metrics of each evaluation by step."""
    from i21k.data import synthetic
    from i21k.train import loop
    from i21k.train.metric_files import read_metrics
    from i21k.train.recipe import default_config

    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "data"
        synthetic.pack_if_missing(data, images_per_class, seed)
        config = default_config()
        config.epochs, config.batch_size, config.devices = 25, 32, 1
        config.seed, config.image_size, config.model.width = seed, 64, 0.25
        config.data.directory, config.data.crop = str(data), "plain"
        config.optimizer.learning_rate = rate
        config.evaluation.every_steps = 4
        config.evaluation.recalibrate_bn = recalibrate_bn
        config.log.every_steps, config.log.checkpoint_minutes = 1000, 0.0
        workdir = loop.run(config, Path(scratch) / "run")
        rows = read_metrics(workdir)
    return {
        int(row["step"]): {key: float(row[key]) for key in ("val_loss", "val_top1")} for row in rows
    }


if __name__ == "__main__":
    main()
