"""`i21k evaluate`: evaluate a checkpoint on a dataset split."""

import argparse
from pathlib import Path

from i21k import log
from i21k.cli import arguments

HELP = "Evaluate a checkpoint on a dataset split."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.prepare_jax()
    from i21k.evaluation.evaluate import evaluate_checkpoint

    defaults = arguments.defaults_of(evaluate_checkpoint)
    add = parser.add_argument
    arguments.add_model(parser)
    add(
        "--data",
        metavar="DIR",
        type=Path,
        required=True,
        help="packed directory, or another TFDS dataset; classes are matched by id",
    )
    add("--split", default=defaults["split"], help="split to evaluate (%(default)s)")
    add(
        "--over",
        metavar="LIST",
        help="rank over these classes too: a name (ilsvrc2012), a file or a dataset; by default"
        " the data's classes where they differ from the model's",
    )
    arguments.add_batch_size(parser, defaults["batch_size"], "images of all devices")
    add(
        "--recalibrate-bn",
        type=int,
        metavar="N",
        default=defaults["recalibrate_bn"],
        help="first compute BatchNorm's statistics from N images of split 'train'",
    )
    add(
        "--recalibrate-data",
        metavar="DIR",
        type=Path,
        help="dataset whose split 'train' --recalibrate-bn reads; by default --data",
    )
    add(
        "--tta",
        choices=("none", "flip"),
        default="none",
        help="flip: average the probabilities of image and mirror image (%(default)s)",
    )
    add(
        "--real",
        metavar="FILE",
        type=Path,
        help="score by the ReaL labels of ILSVRC's validation set too (real.json)",
    )
    add(
        "--sizes-of",
        metavar="SPLIT",
        help="split whose labels separate large classes from small; by default the class"
        " counts in the checkpoint, else fall11's order of 2015",
    )
    arguments.add_prior(parser)
    add("--per-class", metavar="TSV", type=Path, help="write one line per class to this file")
    add("--reliability", metavar="PNG", type=Path, help="plot accuracy over confidence to a file")
    add(
        "--predictions",
        metavar="FILE",
        type=Path,
        help="write the truth and the best answers of each image to this file (.csv, .jsonl or"
        " .parquet)",
    )
    add(
        "--accuracy",
        type=float,
        metavar="A",
        default=0.9,
        help="fraction of images for which the hedged answer of --predictions has to be right"
        " (%(default)s); i21k predict --calibrate prepares it",
    )
    arguments.add_json(parser)


def run(args: argparse.Namespace) -> int:
    arguments.check_folders(args.per_class, args.reliability, args.predictions)
    from i21k.evaluation import evaluate, plots, text
    from i21k.prediction.calibration import known_generality

    model = arguments.open_model(args)
    with log.without_progress(args.json):
        result = evaluate.evaluate_checkpoint(
            model=model,
            data=args.data,
            split=args.split,
            batch_size=args.batch_size,
            over=arguments.class_list(args.over) if args.over else None,
            recalibrate_bn=args.recalibrate_bn,
            flip=args.tta == "flip",
            real=args.real,
            sizes_of=args.sizes_of,
            predictions=args.predictions,
            generality=known_generality(model, args.accuracy) if args.predictions else None,
            prior=args.prior,
            tau=args.tau,
            recalibrate_data=args.recalibrate_data,
        )
    if args.per_class:
        args.per_class.write_text(text.per_class_table(result.scores), "utf-8")
    if args.reliability:
        plots.draw_reliability(result.scores, args.reliability)
    if args.json:
        arguments.print_json(result.summary())
    else:
        log.info(text.describe(result.summary()))
    return 0
