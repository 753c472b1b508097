"""`i21k summary`: describe the network of a recipe."""

import argparse
import runpy
import sys
from pathlib import Path

from i21k import log
from i21k.cli import arguments
from i21k.errors import UserError

HELP = "Print a table of a recipe's network: blocks, parameters, operations."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--config", metavar="FILE", type=Path, required=True, help="a recipe; it is executed")
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
    from i21k.train.recipe import parse
    from i21k.train.state import make_network

    if not args.config.is_file():
        raise UserError(
            f"there is no config {args.config}. Give a Python file with get_config(), such as"
            " configs/quickstart.py."
        )
    sys.path.insert(0, str(Path.cwd()))  # recipes import each other as configs.NAME
    cfg = parse(runpy.run_path(str(args.config))["get_config"]())
    network = make_network(cfg.model, args.num_classes)
    log.info(describe(network, sizes.largest(cfg.image_size), layers=args.layers))
    return 0
