"""`i21k report`: write a page about a run, or about several."""

import argparse
from pathlib import Path

from i21k import log
from i21k.cli import arguments
from i21k.errors import UserError

HELP = "Write a page about a run: curves, accuracies, mistakes as images, a map of the classes."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.prepare_jax()
    from i21k.evaluation.report.write import write_report

    defaults = arguments.defaults_of(write_report)
    add = parser.add_argument
    add(
        "runs",
        metavar="RUN",
        type=Path,
        nargs="*",
        help="working directories; several are compared with the first",
    )
    arguments.add_model(parser, required=False)
    add(
        "--data",
        metavar="DIR",
        type=Path,
        help="evaluate on this dataset what is not evaluated on it yet; by default the page shows"
        " what is there",
    )
    add("--split", default=defaults["split"], help="split to evaluate (%(default)s)")
    add(
        "--out",
        metavar="FILE",
        type=Path,
        default=Path("report.html"),
        help="the page, one HTML file (%(default)s)",
    )
    add("--again", action="store_true", help="evaluate again even if nothing has changed")
    add(
        "--sizes-of",
        metavar="SPLIT",
        help="split whose labels separate large classes from small; by default 'train', if it is"
        " not very large",
    )
    arguments.add_batch_size(parser, defaults["batch_size"], "images of all devices")
    add(
        "--accuracy",
        type=float,
        metavar="A",
        default=0.9,
        help="fraction of images for which hedged answers have to be right (%(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    from i21k import trained
    from i21k.evaluation.report.write import write_report
    from i21k.prediction.calibration import known_generality

    paths = [*([args.checkpoint] if args.checkpoint else []), *args.runs]
    if not paths:
        raise UserError("no run is given. Give --checkpoint WORKDIR, or several RUN to compare.")
    arguments.check_folders(args.out)
    num_bytes = write_report(
        paths,
        args.out,
        args.data,
        args.split,
        load=lambda path: (
            arguments.open_model(args) if path == args.checkpoint else trained.load(path, args.step)
        ),
        generality=lambda model: known_generality(model, args.accuracy),
        batch_size=args.batch_size,
        sizes_of=args.sizes_of,
        again=args.again,
    )
    log.info(f"{args.out}: {num_bytes / 1e6:.1f} MB")
    return 0
