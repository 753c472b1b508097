"""Compare the learning rate that `i21k lr-find` chooses with the best one of a sweep.

    python benchmarks/lr_find.py --data data/tiny_imagenet --optimizer sgd
    python benchmarks/lr_find.py --data data/quickstart --batch-size 32 --epochs 4

The sweep trains the same recipe once for each rate, a factor of 2 apart, for `--epochs` whole
epochs at 32 px. One JSON line per run, and one for each search.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from pathlib import Path

from i21k import backend

backend.prepare()
backend.keep_memory(128 * 32**2)

import jax

from i21k.train import loop, lr_find
from i21k.train.recipe import parse
from i21k.train.report import read_metrics

sys.path.insert(0, str(Path(__file__).parents[1]))  # recipes are files of the checkout

from configs import tiny_imagenet_modern

FACTORS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    cli.add_argument("--data", type=Path, default=Path("data/tiny_imagenet"), help="packed")
    cli.add_argument("--optimizer", choices=("sgd", "muon", "adamw", "lamb"), default="muon")
    cli.add_argument("--learning-rate", type=float, default=0.4, help="in the middle of the sweep")
    cli.add_argument("--batch-size", type=int, default=256)
    cli.add_argument("--width", type=float, default=0.25)
    cli.add_argument("--epochs", type=int, default=1)
    cli.add_argument("--factors", type=float, nargs="*", default=FACTORS)
    cli.add_argument("--searches", type=int, default=1, help="with seeds 0, 1, ...")
    cli.add_argument("--seed", type=int, default=0, help="of the sweep")
    args = cli.parse_args()
    config = tiny_imagenet_modern.get_config()
    config.data.directory, config.data.threads = str(args.data), 1
    config.batch_size = args.batch_size
    config.image_size, config.model.width, config.epochs = 32, args.width, args.epochs
    config.optimizer.name, config.optimizer.warmup_epochs = args.optimizer, 0.2
    if args.optimizer != "muon":
        config.optimizer.muon_weight_decay = 0.0
    config.evaluation.image_size = 0  # that of training
    config.evaluation.recalibrate_bn = 0
    config.log.keep_best = "none"
    config.optimizer.learning_rate = args.learning_rate
    config.optimizer.muon_learning_rate = args.learning_rate / 8
    own = parse(config).optimizer
    about = {"data": args.data.name, "optimizer": args.optimizer, "width": args.width}
    about |= {"batch_size": args.batch_size, "jax": jax.__version__}
    for seed in range(args.searches):
        start = time.perf_counter()
        found = lr_find.find(dataclasses.replace(parse(config), seed=seed))
        line = about | {
            "seed": seed,
            "found": found.learning_rate,
            "found_muon": found.muon_learning_rate,
            "epochs": found.epochs,
            "seconds": round(time.perf_counter() - start),
            "own_change": found.own_change,
        }
        print(json.dumps(line), flush=True)
    config.seed = args.seed
    for factor in args.factors:
        config.optimizer.learning_rate = factor * own.learning_rate
        config.optimizer.muon_learning_rate = factor * own.muon_learning_rate
        with tempfile.TemporaryDirectory() as directory:
            loop.run(config, Path(directory) / "run")
            row = read_metrics(Path(directory) / "run")[-1]
        line = about | {
            "seed": args.seed,
            "learning_rate": config.optimizer.learning_rate,
            "muon_learning_rate": config.optimizer.muon_learning_rate,
            "epochs": args.epochs,
            **{key: float(row[key]) for key in ("val_top1", "val_top5", "val_loss", "train_loss")},
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
