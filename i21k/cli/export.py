"""`i21k export`: write a checkpoint in a format that other programs read."""

import argparse
import dataclasses
from pathlib import Path

from i21k import log
from i21k.cli import arguments
from i21k.errors import UserError

HELP = "Export a checkpoint as ONNX, StableHLO, safetensors or MXNet files."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.prepare_jax()
    from i21k.interop import export

    default = arguments.defaults_of(export.export)
    add = parser.add_argument
    arguments.add_checkpoint(parser)
    add("--out", metavar="DIR", type=Path, required=True, help="folder to write; must be empty")
    add(
        "--format",
        choices=export.FORMATS,
        default=default["format"],
        help="format of the model (%(default)s)",
    )
    add(
        "--precision",
        choices=export.PRECISIONS,
        default=default["precision"],
        help="weights of an ONNX model; int8-static also computes in int8 and needs --data"
        " (%(default)s)",
    )
    add(
        "--input",
        choices=("uint8", "float32"),
        default=default["input_type"],
        help="input of an ONNX model: RGB bytes, or floats without the mean (%(default)s)",
    )
    add("--data", metavar="DIR", type=Path, help="check and calibrate with images of this dataset")
    add("--split", default="val", help="split of the dataset (%(default)s)")
    add("--order", metavar="FILE", type=Path, help="order of the classes in MXNet's files")
    add(
        "--layout",
        choices=("2015", "V1", "V2", "V3"),
        default=default["layout"],
        help="layout of MXNet's .params file (%(default)s)",
    )
    arguments.add_json(parser)


def run(args: argparse.Namespace) -> int:
    from i21k.data.format.splits import open_split
    from i21k.interop import export
    from i21k.labels import ClassList
    from i21k.trained import load_checkpoint

    if args.out.exists() and any(args.out.iterdir()):
        raise UserError(f"{args.out} is not empty. Choose another --out.")
    with log.waiting("exporting"):
        report = export.export(
            load_checkpoint(args.checkpoint, args.step, args.weights),
            directory=args.out,
            format=args.format,
            precision=args.precision,
            input_type=args.input,
            images_from=open_split(args.data, args.split) if args.data else None,
            order=ClassList.read(args.order) if args.order else None,
            layout=args.layout,
        )
    if args.json:
        arguments.print_json(dataclasses.asdict(report))
        return 0
    log.info(f"{report.directory}: {report.format}, {report.num_bytes / 1e6:,.1f} MB")
    if report.agreement is not None:
        log.info(
            f"logits differ from the checkpoint by {report.agreement.relative:.1e} (relative),"
            f" the best class agrees for {report.agreement.top1:.1%} of the images"
        )
    return 0
