"""`i21k search`: find the images that are nearest to an image."""

import argparse
from pathlib import Path

from i21k import log
from i21k.cli import arguments
from i21k.text import printable

HELP = "Find the images whose features are nearest to those of an image."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.prepare_jax()
    from i21k.prediction import search

    default = arguments.defaults_of(search.search)
    add = parser.add_argument
    add("image", metavar="IMAGE", type=Path, help="file to search for")
    add("--features", metavar="FILE", type=Path, required=True, help="written by i21k embed")
    arguments.add_model(parser, required=False)
    add("-k", type=int, metavar="N", default=default["k"], help="images to find (%(default)s)")
    add(
        "--png",
        metavar="FILE",
        type=Path,
        default=Path("nearest.png"),
        help="write a contact sheet to this file (%(default)s)",
    )
    arguments.add_json(parser)


def run(args: argparse.Namespace) -> int:
    from i21k.evaluation.features import load_features
    from i21k.prediction import search
    from i21k.trained import load
    from i21k.wordnet.taxonomy import wordnet

    arguments.check_folders(args.png)
    features = load_features(args.features)
    if args.checkpoint:
        model = arguments.open_model(args)
    else:
        origin = features.about["model"]
        is_file = Path(origin["path"]).is_file()
        model = load(origin["path"], "last" if is_file else origin["step"])
    found = search.search(features, model, args.image, args.k)
    search.draw(args.image, found, features, args.png)
    for one in found:
        if args.json:
            arguments.print_json(one._asdict())
        else:
            name = f"  {wordnet().name(one.class_id)}" if one.class_id else ""
            log.info(f"{one.cosine:.3f}  {printable(one.name)}{name}")
    if not args.json:
        log.info(f"contact sheet: {args.png}")
    return 0
