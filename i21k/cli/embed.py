"""`i21k embed`: write the features of images to a file."""

import argparse
import typing
from pathlib import Path

from i21k import log
from i21k.cli import arguments
from i21k.errors import UserError
from i21k.text import printable

HELP = "Write the features of images to a file: what the classifier head of a model takes."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.prepare_jax()
    from i21k.prediction import embed

    default = arguments.defaults_of(embed.embed_to_file)
    add = parser.add_argument
    add("images", metavar="IMAGE", nargs="*", type=Path, help="files, and folders of files")
    arguments.add_model(parser)
    add("--data", metavar="DIR", type=Path, help="take the images of this packed dataset instead")
    add("--split", default="val", help="split of --data (%(default)s)")
    add(
        "--out",
        metavar="FILE",
        type=Path,
        required=True,
        help="file to write: .npz or .parquet; the same command continues after an interruption",
    )
    add(
        "--dtype",
        choices=typing.get_args(embed.DType),
        default=default["dtype"],
        help="type of the features (%(default)s)",
    )
    arguments.add_batch_size(parser, default["batch_size"], "images at a time")
    add(
        "--workers",
        type=int,
        metavar="N",
        default=default["workers"],
        help="processes that read images; 0: threads (%(default)s)",
    )
    arguments.add_json(parser)


def run(args: argparse.Namespace) -> int:
    from i21k.prediction import embed

    if bool(args.images) == bool(args.data):
        raise UserError("give either images (files, folders) or --data DIR, and not both.")
    with log.without_progress(args.json):
        done = embed.embed_to_file(
            arguments.open_model(args),
            args.data or args.images,
            args.out,
            args.split if args.data else None,
            dtype=args.dtype,
            batch_size=args.batch_size,
            workers=args.workers,
        )
    for fault in done.faults:
        log.error(printable(fault))
    if args.json:
        arguments.print_json({"out": str(args.out), **done._asdict()})
    else:
        log.info(
            f"{args.out}: {done.num_images:,} images, {done.num_features:,} numbers each"
            f" ({args.dtype}, {args.out.stat().st_size / 1e6:,.1f} MB)"
        )
    return 1 if done.faults else 0
