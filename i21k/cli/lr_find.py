"""`i21k lr-find`: find a learning rate for a recipe and its data."""

import argparse

from i21k import log
from i21k.cli import arguments
from i21k.errors import UserError

HELP = "Find a learning rate to start from, in a tenth of an epoch."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_recipe(parser)
    parser.add_argument(
        "--fraction",
        type=float,
        metavar="F",
        default=0.1,
        help="of an epoch to look at; of a small dataset, 12 batches are (%(default)s)",
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
        arguments.print_json(lr_find.find(cfg, args.fraction)._asdict())
        return 0
    with log.progress("lr-find", None, "steps") as bar:
        found = lr_find.find(cfg, args.fraction, lambda: bar.advance(1))
    log.info(
        f"{found.steps} batches of {cfg.batch_size}, {found.epochs:.2g} epochs: a step with the"
        f" recipe's rate {cfg.optimizer.learning_rate:.2g} changes kernels by"
        f" {found.own_change:.1%}, the aim is {found.change:.1%}"
    )
    flags = f"--config.optimizer.learning_rate={found.learning_rate:.2g}"
    if cfg.optimizer.name == "muon":
        flags += f" --config.optimizer.muon_learning_rate={found.muon_learning_rate:.2g}"
    log.info(f"train with: {flags}")
    return 0
