"""`i21k export-mxnet`: write a checkpoint as files of MXNet."""

import argparse
from pathlib import Path

from i21k import log
from i21k.cli import arguments

HELP = "Write a checkpoint as files that MXNet loads."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.prepare_jax()
    from i21k.interop.mxnet.checkpoints import export_mxnet

    add = parser.add_argument
    arguments.add_checkpoint(parser)
    add(
        "--out",
        metavar="DIR",
        type=Path,
        required=True,
        help="directory for symbol, params and synset.txt",
    )
    add("--order", metavar="FILE", type=Path, help="write the classes in this order; else sorted")
    add(
        "--layout",
        choices=("2015", "V1", "V2", "V3"),
        default=arguments.defaults_of(export_mxnet)["layout"],
        help="layout of the .params file (%(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    from i21k.interop.mxnet.checkpoints import export_mxnet
    from i21k.labels import ClassList

    for path in export_mxnet(
        checkpoint=args.checkpoint,
        step=args.step,
        weights=args.weights,
        directory=args.out,
        order=ClassList.read(args.order) if args.order else None,
        layout=args.layout,
    ):
        log.info(str(path))
    return 0
