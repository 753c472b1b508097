"""`i21k lr-find`: find a learning rate for a recipe and its data."""

import argparse
import math

from i21k import log
from i21k.cli import arguments
from i21k.errors import UserError

HELP = "Find a learning rate for a recipe and its data in a tenth of an epoch."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_recipe(parser)
    parser.add_argument(
        "--fraction",
        type=float,
        metavar="F",
        default=0.1,
        help="of an epoch to train; a small dataset is seen for 40 steps (%(default)s)",
    )
    arguments.add_json(parser)


def run(args: argparse.Namespace) -> int:
    arguments.prepare_jax()
    from i21k.train import lr_find
    from i21k.train.recipe_file import read_file

    if not 0 < args.fraction <= 1:
        raise UserError(f"--fraction is {args.fraction}. Use a value above 0, at most 1.")
    cfg = read_file(args.config, args.overrides)
    if args.json:
        found = lr_find.find(cfg, args.fraction)
        arguments.print_json(
            found._asdict() | {"losses": [x if math.isfinite(x) else None for x in found.losses]}
        )
        return 0
    with log.progress("lr-find", None, "steps") as bar:
        found = lr_find.find(cfg, args.fraction, lambda step, rate, loss: bar.advance(1))
    for number in range(0, len(found.rates), max(1, len(found.rates) // 16)):
        log.info(f"rate {found.rates[number]:9.2g}   loss {found.losses[number]:.3f}")
    flags = f"--config.optimizer.learning_rate={found.learning_rate:.2g}"
    if cfg.optimizer.name == "muon":
        flags += f" --config.optimizer.muon_learning_rate={found.muon_learning_rate:.2g}"
    log.info(f"{found.num_images:,} images, {found.epochs:.2g} epochs. Train with: {flags}")
    return 0
