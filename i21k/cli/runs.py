"""`i21k runs`: list the runs in a directory side by side."""

import argparse
import dataclasses
from pathlib import Path

from i21k import log
from i21k.cli import arguments

HELP = "List the runs in a directory: their recipes, metrics and speed."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "directory",
        metavar="DIR",
        type=Path,
        nargs="?",
        default=Path("runs"),
        help="directory with working directories of runs (%(default)s)",
    )
    arguments.add_json(parser)


def run(args: argparse.Namespace) -> int:
    arguments.prepare_jax()
    from i21k.train.compare import describe, find_runs

    runs = find_runs(args.directory)
    if args.json:
        arguments.print_json([dataclasses.asdict(run) for run in runs])
    else:
        log.info(describe(runs))
    return 0
