"""`i21k probe`: classify by features, without training a network."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from i21k import log
from i21k.cli import arguments
from i21k.errors import UserError

if TYPE_CHECKING:
    from i21k.evaluation.features import Features

HELP = "Classify by the features of a model: nearest neighbours and a linear probe."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.prepare_jax()
    from i21k.evaluation import probe
    from i21k.prediction import embed

    default = arguments.defaults_of(probe.probe)
    add = parser.add_argument
    add("--features", metavar="FILE", type=Path, help="labelled features to fit on (i21k embed)")
    add("--test", metavar="FILE", type=Path, help="features to score on; by default some of them")
    arguments.add_model(parser, required=False)
    add("--data", metavar="DIR", type=Path, help="packed dataset, to embed with --checkpoint")
    add("--split", default="train", help="split of --data to fit on (%(default)s)")
    add("--test-split", default="val", help="split of --data to score on (%(default)s)")
    add(
        "--held-out",
        type=float,
        metavar="F",
        default=probe.HELD_OUT,
        help="fraction of --features to score on where there is no --test (%(default)s)",
    )
    add(
        "--shots",
        type=int,
        nargs="*",
        metavar="N",
        default=default["shots"],
        help="also fit on N images of each class, several times (1 5 10)",
    )
    add(
        "--draws",
        type=int,
        metavar="N",
        default=default["draws"],
        help="how often these images are drawn (%(default)s)",
    )
    add(
        "--neighbours",
        type=int,
        metavar="N",
        default=default["neighbours"],
        help="nearest images that vote (%(default)s)",
    )
    add("--seed", type=int, default=default["seed"], help="of what is drawn (%(default)s)")
    add("--confusion", metavar="TSV", type=Path, help="write true class, answer, images to a file")
    arguments.add_batch_size(parser, embed.BATCH_SIZE, "images at a time")
    arguments.add_json(parser)


def run(args: argparse.Namespace) -> int:
    from i21k.evaluation import probe, probe_text

    arguments.check_folders(args.confusion)
    with log.without_progress(args.json):
        train, test = _features(args)
        found = probe.probe(
            train,
            test,
            shots=args.shots,
            draws=args.draws,
            neighbours=args.neighbours,
            seed=args.seed,
        )
    assert train.classes is not None
    if args.confusion:
        args.confusion.write_text(probe_text.confusion_table(found, train.classes), "utf-8")
    if args.json:
        arguments.print_json(found.summary())
    else:
        log.info(probe_text.describe(found, train.classes))
    return 0


def _features(args: argparse.Namespace) -> "tuple[Features, Features]":
    """Return the features to fit on, and those to score on."""
    from i21k.evaluation.features import load_features
    from i21k.evaluation.probe import held_out
    from i21k.prediction.embed import embed

    if args.features:
        if args.checkpoint or args.data:
            raise UserError("--features and --checkpoint or --data are given. Use one of them.")
        train = load_features(args.features)
        if args.test:
            return train, load_features(args.test)
        return held_out(train, args.held_out, args.seed)
    if not args.checkpoint or not args.data:
        raise UserError("no features are given. Use --features FILE, or --checkpoint and --data.")
    model = arguments.open_model(args)
    train, test = (
        embed(model, args.data, split, batch_size=args.batch_size)
        for split in (args.split, args.test_split)
    )
    return train, test
