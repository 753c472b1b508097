"""`i21k serve`: a page and an API that answer with a model, or the page as a folder of files."""

import argparse
from pathlib import Path

from i21k import log
from i21k.cli import arguments
from i21k.errors import UserError

HELP = "Serve a page and a JSON API that answer with one or two models, or write the page as files."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.prepare_jax()
    from i21k.prediction.predictor import Predictor
    from i21k.serve.limits import Limits
    from i21k.serve.runtime import FOLDER, TESTED
    from i21k.serve.site import PRECISION, PRECISIONS

    limits = arguments.defaults_of(Limits)
    arguments.add_model(parser)
    add = parser.add_argument
    add(
        "--beside",
        metavar="MODEL",
        type=Path,
        help="second model, shown beside the first: a working directory or an ONNX file",
    )
    add(
        "--features",
        metavar="FILE",
        type=Path,
        help="output of i21k embed for the first model; the page shows the nearest of its images",
    )
    add("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    add("--port", type=int, default=8000, metavar="N", help="0: any free one (%(default)s)")
    add(
        "--host-name",
        metavar="NAME",
        action="append",
        default=[],
        help="name under which clients reach the server, besides localhost and IP addresses;"
        " may be repeated",
    )
    add(
        "--calibrate",
        metavar="DIR",
        type=Path,
        help="first calibrate hedge on this held-out dataset; saved beside the models",
    )
    add(
        "--split",
        default=arguments.defaults_of(Predictor.calibrate)["split"],
        help="split of the dataset to calibrate on (%(default)s)",
    )
    arguments.add_batch_size(
        parser, arguments.defaults_of(Predictor)["batch_size"], "most images at a time"
    )
    add(
        "--max-mb",
        type=int,
        metavar="N",
        default=limits["max_bytes"] >> 20,
        help="largest image file in MiB (%(default)s)",
    )
    add(
        "--queue",
        type=int,
        metavar="N",
        default=limits["queue"],
        help="most requests in work or waiting (%(default)s)",
    )
    add(
        "--timeout",
        type=float,
        metavar="S",
        default=limits["timeout_s"],
        help="seconds from the last byte of an image to its answer (%(default)s)",
    )
    group = parser.add_argument_group("for a folder of static files")
    group.add_argument(
        "--static",
        metavar="DIR",
        type=Path,
        help="write the page with the model into this new folder, for any web server; the model"
        " runs in the visitor's browser, and nothing is served",
    )
    group.add_argument(
        "--onnxruntime-web",
        metavar="DIR",
        type=Path,
        help=f"folder of the npm package onnxruntime-web, tested with {TESTED} (./{FOLDER})",
    )
    group.add_argument(
        "--precision",
        choices=PRECISIONS,
        help=f"weights of a checkpoint, as for i21k export ({PRECISION}); an ONNX model is copied"
        " as it is",
    )


def run(args: argparse.Namespace) -> int:
    return _serve(args) if args.static is None else _write(args)


def _write(args: argparse.Namespace) -> int:
    from i21k.prediction.predictor import Predictor
    from i21k.serve.site import write_site

    given = [
        flag
        for flag, value in (
            ("--beside", args.beside),
            ("--features", args.features),
            ("--host-name", args.host_name),
        )
        if value
    ]
    if given:
        raise UserError(f"{given[0]} needs a server, and --static writes files. Omit one of them.")
    model = arguments.open_model(args)
    if args.calibrate is not None:
        Predictor(model, args.batch_size).calibrate(args.calibrate, args.split)
    with log.waiting("writing the page"):
        written = write_site(model, args.static, args.onnxruntime_web, args.precision)
    log.info(
        f"{written.directory}: {written.num_bytes / 1e6:,.1f} MB, of which the model has"
        f" {written.model_bytes / 1e6:,.1f} MB"
    )
    log.info(f"try it: python3 -m http.server --bind 127.0.0.1 --directory {written.directory}")
    return 0


def _serve(args: argparse.Namespace) -> int:
    for flag, value in (
        ("--onnxruntime-web", args.onnxruntime_web),
        ("--precision", args.precision),
    ):
        if value is not None:
            raise UserError(f"{flag} is for a folder of static files. Give --static DIR too.")
    try:
        from i21k.serve import app, server
    except ModuleNotFoundError as error:
        if error.name not in ("starlette", "uvicorn", "h11", "anyio"):
            raise
        raise UserError(
            f"i21k serve needs the package {error.name}. Install it with pip install 'i21k[serve]'."
        ) from error
    from i21k import trained
    from i21k.evaluation.features import load_features
    from i21k.prediction.predictor import Predictor
    from i21k.serve.limits import Limits
    from i21k.serve.models import served

    limits = Limits(
        max_bytes=args.max_mb << 20,
        max_bytes_held=max(arguments.defaults_of(Limits)["max_bytes_held"], args.max_mb << 20),
        queue=args.queue,
        timeout_s=args.timeout,
    )
    listening = server.listen(args.host, args.port)  # before anything that takes long
    with listening:
        opened = [arguments.open_model(args)]
        if args.beside is not None:
            opened.append(trained.load(args.beside))
        predictors = [Predictor(model, args.batch_size) for model in opened]
        if args.calibrate is not None:
            for predictor in predictors:
                predictor.calibrate(args.calibrate, args.split)
        searched = [] if args.features is None else [load_features(args.features)]
        models = served(predictors, args.batch_size, searched)
        for model in models.values():
            log.note(f"{model.name}: compiling for batches of {_listed(model.batch_sizes)} images")
            with log.waiting("compiling the network"):
                seconds = model.warm_up()
            log.note(f"{model.name}: {len(model.predictor.classes):,} classes, {seconds:.1f} s")
        log.info(f"serving {server.address(listening)} (Ctrl-C stops it)")
        server.run(app.build(models, limits, args.host_name), listening, limits)
    return 0


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))
