"""`i21k predict`: classify images with a checkpoint."""

import argparse
import contextlib
import sys
from pathlib import Path

from i21k import log
from i21k.cli import arguments
from i21k.errors import UserError
from i21k.text import printable

HELP = "Classify images with a checkpoint; choose how the classes are shown."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.prepare_jax()
    from i21k.prediction.outputs import FORMATS
    from i21k.prediction.predictor import Predictor

    view, calibrate = (
        arguments.defaults_of(function) for function in (Predictor.view, Predictor.calibrate)
    )
    add = parser.add_argument
    add("images", metavar="IMAGE", nargs="*", type=Path, help="files, and folders of files")
    arguments.add_model(parser)
    add(
        "--view",
        default=view["name"],
        help="top, subset (of --among), fold (onto --among), diverse, hedge (right at --accuracy)"
        " or basic (%(default)s)",
    )
    add(
        "--among",
        metavar="EXPR",
        help="classes of subset, such as 'leaf & !under(person)'; synsets of fold, by default"
        " ilsvrc2012",
    )
    add(
        "-k",
        type=int,
        metavar="N",
        default=view["k"],
        help="print at most N classes (%(default)s); hedge prints one",
    )
    add(
        "--regions",
        action="store_true",
        help="look at nine regions of each image too, for scenes of several objects;"
        " takes ten times as long",
    )
    arguments.add_prior(parser)
    add(
        "--accuracy",
        type=float,
        metavar="A",
        default=view["accuracy"],
        help="fraction of images for which hedge has to be right (%(default)s)",
    )
    add(
        "--data",
        metavar="DIR",
        type=Path,
        help="classify images of this packed dataset, with the true class beside the answers",
    )
    add(
        "--num",
        type=int,
        metavar="N",
        help="number of images of --data; by default all of the split",
    )
    add(
        "--calibrate",
        metavar="DIR",
        type=Path,
        help="fit on this held-out dataset the temperature of the probabilities, and how general"
        " hedge has to be; saved in WORKDIR",
    )
    add(
        "--split",
        default=calibrate["split"],
        help="split of --data or of the dataset to calibrate on (%(default)s)",
    )
    arguments.add_batch_size(
        parser, arguments.defaults_of(Predictor)["batch_size"], "images at a time"
    )
    add("--png", metavar="FILE", type=Path, help="plot each image with bars to this file")
    add(
        "--format",
        choices=FORMATS,
        default="text",
        help="how the answers are written to standard output (%(default)s)",
    )
    add("--json", action="store_true", help="the same as --format jsonl")


def run(args: argparse.Namespace) -> int:
    from i21k.data.dataset import open_dataset
    from i21k.prediction import image_files, outputs, plots, predicted_images, predictor
    from i21k.prediction.model_views import check_regions

    if not (args.images or args.data or args.calibrate):
        raise UserError(
            "no IMAGE is given. Give files or folders, or --data DIR, or --calibrate DIR."
        )
    if args.images and args.data:
        raise UserError("files and --data are given. Give only one of them.")
    if args.num is not None and not args.data:
        raise UserError("--num is given without --data. Give --data DIR too, or omit --num.")
    check_regions(args.view, args.regions)
    arguments.check_folders(args.png)
    files, faults, num_others, num_links = image_files.find_files(args.images)
    for fault in faults:
        log.error(fault)
    if num_others:
        log.note(f"{num_others:,} files of the folders are no images and are skipped")
    if num_links:
        log.note(f"{num_links:,} symbolic links of the folders leave them and are skipped")
    num_images = len(files)
    if args.data:
        num_images = len(open_dataset(args.data, args.split))
        num_images = num_images if args.num is None else min(args.num, num_images)
    if args.png and num_images > plots.MAX_DRAWN:
        raise UserError(
            f"--png plots at most {plots.MAX_DRAWN} images, and {num_images:,} are given."
            " Give fewer images, or omit --png."
        )
    # A single image needs no padding.
    alone = len(files) == 1 and args.batch_size > 1 and not args.calibrate
    model = predictor.Predictor(
        arguments.open_model(args), batch_size=1 if alone else args.batch_size
    )
    if args.calibrate:
        found = model.calibrate(data=args.calibrate, split=args.split, accuracy=args.accuracy)
        log.note(
            f"temperature {found.temperature:.3f}: ECE {found.ece_before:.2%} before,"
            f" {found.ece:.2%} after; all views but hedge use it"
        )
        log.note(
            f"hedge is right for {found.accuracy:.1%} of {found.num_images:,} images of split"
            f" {args.split!r} of {args.calibrate}, with mean specificity {found.specificity:.2f}"
            " (0: entity, 1: a class without subclasses)"
        )
    if not files and not args.data:
        return 1 if faults else 0
    view = model.view(
        name=args.view,
        among=args.among,
        k=args.k,
        accuracy=args.accuracy,
        prior=args.prior,
        tau=args.tau,
        data=args.data,
    )
    drawn, some_failed = [], bool(faults)
    if args.data:
        images = predicted_images.predict_split(
            model, args.data, args.split, view, args.num, args.regions
        )
    else:
        images = predicted_images.predict_files(model, files, view, args.regions)
    output_format = "jsonl" if args.json else args.format
    # A bar is drawn below lines of text; it would be drawn into a table on the same terminal.
    is_mixed = output_format != "text" and sys.stdout.isatty()
    with (
        log.without_progress(args.json or is_mixed or num_images <= 2 * args.batch_size),
        contextlib.closing(
            outputs.output(output_format, 1 if args.view == "hedge" else args.k)
        ) as output,
        log.progress("predict", num_images) as bar,
    ):
        for one in images:
            if one.fault:
                log.error(printable(one.fault))
            else:
                output.add(one)
            if args.png:
                drawn.append(one)
            some_failed = some_failed or bool(one.fault)
            bar.advance()
    if args.png and not all(one.fault for one in drawn):
        plots.draw(drawn, args.png)
    return 1 if some_failed else 0
