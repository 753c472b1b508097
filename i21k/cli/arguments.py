"""What several commands share: defaults, class lists, JSON and progress."""

import argparse
import contextlib
import inspect
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from i21k import log
from i21k.errors import UserError

if TYPE_CHECKING:
    from i21k.checkpoints import Which
    from i21k.data.pack.pack import Progress
    from i21k.labels import ClassList
    from i21k.trained import TrainedModel


def defaults_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the defaults of a function or dataclass by name, so that they are written once."""
    return {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is not parameter.empty
    }


def check_folders(*paths: Path | None) -> None:
    """Check that files can be written: before the work, not after the last image.

    Raises:
        UserError: naming the folder that is missing, or is there in place of the file.
    """
    for path in filter(None, paths):
        if not path.parent.is_dir():
            raise UserError(
                f"there is no directory {path.parent} for {path.name}."
                " Make it, or choose another directory."
            )
        if path.is_dir():
            raise UserError(f"{path} is a directory; expected a file. Add the name of a file.")


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """Add the flag of a recipe; `--config.KEY=VALUE` needs none (see `cli.main`)."""
    parser.add_argument(
        "--config",
        metavar="FILE[:DATA]",
        required=True,
        help="a recipe; it is executed. --config.KEY=VALUE changes a key of it",
    )


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint",
        metavar="WORKDIR",
        type=Path,
        required=True,
        help="working directory of a run or an imported model",
    )
    _add_step(parser)


def _add_step(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--step",
        metavar="N",
        type=_step,
        default="last",
        help="checkpoint to use: the step of one, best (by the run's log.keep_best) or last"
        " (%(default)s)",
    )
    parser.add_argument(
        "--weights",
        choices=("recipe", "last", "average"),
        default="recipe",
        help="weights of the last training step, their moving average, or those that the run's"
        " ema.use selects (%(default)s)",
    )


def _step(text: str) -> "Which":
    if text == "best":
        return "best"
    if text == "last":
        return "last"
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a number, best or last, not {text!r}")
    return int(text)


def add_model(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Add the flags that name a trained model: a checkpoint of ours, or an ONNX file."""
    add = parser.add_argument
    add(
        "--checkpoint",
        metavar="MODEL",
        type=Path,
        required=required,
        help="working directory of a run or an imported model, or an ONNX classifier",
    )
    _add_step(parser)
    group = parser.add_argument_group("for an ONNX classifier of another program")
    add = group.add_argument
    add("--classes", metavar="LIST", help="classes of its outputs: a name (goog21k) or a file")
    add("--preprocessing", metavar="FILE", type=Path, help="preprocessing.json of an export")
    add("--size", type=int, metavar="PX", help="side of the square that it takes")
    add("--crop", type=float, metavar="F", help="side of the central crop over the short side")
    rgb = ("R", "G", "B")
    add("--mean", type=float, nargs=3, metavar=rgb, help="mean of RGB values from 0 to 1")
    add(
        "--std",
        type=float,
        nargs=3,
        metavar=rgb,
        help="standard deviation of RGB values from 0 to 1",
    )


def open_model(args: argparse.Namespace) -> "TrainedModel":
    """Return the model that the flags of `add_model` name."""
    from i21k import trained

    given = [args.classes, args.preprocessing, args.size, args.crop, args.mean, args.std]
    path = args.checkpoint
    if not trained.is_onnx(path):
        if any(value is not None for value in given):
            raise UserError(
                f"{args.checkpoint} is not an ONNX file, so --classes, --preprocessing, --size,"
                " --crop, --mean and --std do not apply. Omit them."
            )
        return trained.load(path, args.step, args.weights)
    if (args.step, args.weights) != ("last", "recipe"):
        raise UserError(
            f"{args.checkpoint} is an ONNX file, so --step and --weights do not apply. Omit them."
        )
    from i21k.trained.beside import Normalisation
    from i21k.trained.onnx_model import OnnxModel
    from i21k.trained.preprocessing import read_contract

    normalisation = None
    if args.mean is not None or args.std is not None:
        default = Normalisation()
        normalisation = Normalisation(
            tuple(args.mean or default.mean), tuple(args.std or default.std)
        )
    return OnnxModel(
        trained.onnx_path(path),
        classes=class_list(args.classes) if args.classes else None,
        preprocessing=read_contract(args.preprocessing)[0] if args.preprocessing else None,
        normalisation=normalisation,
        image_size=args.size,
        crop_fraction=args.crop,
    )


def add_batch_size(parser: argparse.ArgumentParser, default: int, what: str) -> None:
    """Add `--batch-size`; `what` describes the number."""
    parser.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        default=default,
        help=f"{what}; changes only speed and memory (%(default)s)",
    )


def add_prior(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `i21k.evaluation.priors`."""
    parser.add_argument(
        "--prior",
        metavar="train|uniform|FILE",
        help="class frequencies to expect: those of the training images, equal ones, or those of a"
        " file with a class id and a number in each line; by default those that the model was"
        " trained for",
    )
    parser.add_argument(
        "--tau",
        type=float,
        metavar="T",
        default=1.0,
        help="strength of the correction for --prior; 0: none (%(default)s)",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json", action="store_true", help="print the result as one line of JSON, and no progress"
    )


def print_json(value: Any) -> None:
    log.info(json.dumps(value, allow_nan=False))


def prepare_jax() -> None:
    """Set what must be set before JAX is imported, and silence Orbax's log of each checkpoint."""
    from i21k import backend

    backend.prepare()
    log.quiet_libraries()


def class_list(name_or_path: str) -> "ClassList":
    """Return the class list that a name, a file or a dataset directory stands for."""
    from i21k.data import dataset

    return dataset.class_list(name_or_path)


@contextlib.contextmanager
def shown_progress(quiet: bool) -> "Iterator[Callable[[Progress], None]]":
    """Give a function that shows progress: a bar for each phase, one after another."""
    with contextlib.ExitStack() as stack:
        phase, bar = "", log.Progress("", None, "bytes")

        def show(progress: "Progress") -> None:
            nonlocal phase, bar
            if progress.phase != phase:
                phase = progress.phase
                stack.close()
                bar = stack.enter_context(log.progress(phase, progress.total_bytes, "bytes"))
            bar.update(progress.num_bytes, f"{progress.num_images:,} images")

        yield (lambda progress: None) if quiet else show
