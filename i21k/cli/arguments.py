"""What several commands share: defaults, class lists, JSON and progress."""

import argparse
import contextlib
import inspect
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from i21k import log

if TYPE_CHECKING:
    from i21k.checkpoints import Which
    from i21k.data.pack.pack import Progress
    from i21k.labels import ClassList


def defaults_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the defaults of a function or dataclass by name, so that they are written once."""
    return {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is not parameter.empty
    }


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint",
        metavar="WORKDIR",
        type=Path,
        required=True,
        help="working directory of a run or an imported model",
    )
    parser.add_argument(
        "--step",
        metavar="N",
        type=_step,
        default="last",
        help="checkpoint to use: the step of one, best (by the run's log.keep_best) or last"
        " (%(default)s)",
    )


def _step(text: str) -> "Which":
    if text == "best" or text == "last":
        return text
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a number, best or last, not {text!r}")
    return int(text)


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
