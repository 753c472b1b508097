"""`i21k summary`: describe the network of a recipe."""

import argparse

from i21k import log
from i21k.cli import arguments

HELP = "Print a table of a recipe's network: blocks, parameters, operations."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_recipe(parser)
    add = parser.add_argument
    add(
        "--num-classes",
        type=int,
        metavar="K",
        default=21841,
        help="outputs; a training run takes them from its data (%(default)s)",
    )
    add("--layers", action="store_true", help="list every layer instead of every block")


def run(args: argparse.Namespace) -> int:
    arguments.prepare_jax()
    from i21k.models.summary import describe
    from i21k.train import sizes
    from i21k.train.recipe_file import read_file
    from i21k.train.state import make_network

    cfg = read_file(args.config, args.overrides)
    network = make_network(cfg.model, args.num_classes)
    log.info(describe(network, sizes.largest(cfg.image_size), layers=args.layers))
    return 0
