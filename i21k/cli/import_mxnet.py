"""`i21k import-mxnet`: convert a model of MXNet into a checkpoint."""

import argparse
from pathlib import Path

from i21k import log
from i21k.cli import arguments

HELP = "Convert a model that MXNet trained into a checkpoint."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    for name, what in (
        ("--symbol", "the graph, such as Inception-symbol.json"),
        ("--params", "the arrays, such as Inception-0009.params"),
        ("--synset", "the classes in the order of the outputs, such as synset.txt"),
    ):
        add(name, metavar="FILE", type=Path, required=True, help=what)
    add("--out", metavar="WORKDIR", type=Path, required=True, help="directory for the checkpoint")
    add(
        "--count-padding",
        action=argparse.BooleanOptionalAction,
        help="whether average pools count padding (CPUs of 2015 did, GPUs did not); by default as"
        " the graph or its revision says",
    )
    add("--size", type=int, metavar="PX", help="side of the images that it takes")
    add("--crop", type=float, metavar="F", help="side of the central crop over the short side")
    add(
        "--preprocessing",
        metavar="FILE",
        type=Path,
        help="preprocessing.json of an export; by default that beside --symbol, else 224 px",
    )
    arguments.add_json(parser)


def run(args: argparse.Namespace) -> int:
    arguments.prepare_jax()
    from i21k.interop.mxnet.checkpoints import import_mxnet

    with log.waiting("importing"):
        report = import_mxnet(
            symbol=args.symbol,
            params=args.params,
            synset=args.synset,
            directory=args.out,
            count_padding=args.count_padding,
            preprocessing=args.preprocessing,
            image_size=args.size,
            crop_fraction=args.crop,
        )
    if args.json:
        arguments.print_json(report)
    else:
        log.info(
            f"{report['variant']} network of revision {report['revision']}:"
            f" {report['num_parameters']:,} parameters, {report['num_classes']:,} classes, images"
            f" of {report['preprocessing']['image_size']} px,"
            f" written to {args.out}"
        )
    return 0
