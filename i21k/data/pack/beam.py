"""The engine that packs with Apache Beam on many machines; the only file that knows Beam.

Descriptions of a few hundred bytes travel through Beam; images travel through a shared file system.
"""

import contextlib
import functools
import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self, TypeVar

from i21k.data.pack import read
from i21k.data.pack.output import check_free_space
from i21k.data.pack.read import Part, Reading
from i21k.data.pack.report import Progress
from i21k.errors import UserError

T = TypeVar("T")
R = TypeVar("R")
SPILL_BYTES = 256 << 20  # each worker gathers one spill file and writes another


class BeamEngine:
    """The workers of a Beam pipeline. They read the parts of a source independently.

    Args:
        options: of the pipeline, such as `--runner=FlinkRunner`.
    """

    name = "beam"

    def __init__(self, options: Sequence[str]) -> None:
        self._options = options

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def read(self, reading: Reading, on_progress: Callable[[Progress], None]) -> None:
        """Check the free space by samples, then read all parts; progress is not reported."""
        if not reading.is_given:  # with few classes among many, samples say too little
            spilled = sum(file.about.num_record_bytes for file in reading.work.spill_files())
            needed = 2 * read.estimate_bytes(reading) - spilled
            check_free_space(reading.work.output, needed)
        run_pipeline(
            "read",
            functools.partial(_read_part, reading),
            read.cut_into_parts(reading.source),
            self._options,
        )

    def map(
        self, step: str, function: Callable[[T], R], items: Sequence[T], item_bytes: float
    ) -> Iterator[R]:
        """Apply a function on the workers, then again here, where it finds its results."""
        run_pipeline(step, function, items, self._options)
        return map(function, items)


def _read_part(reading: Reading, part: Part) -> None:
    def recode_all(batches: read.Batches) -> Iterator[Any]:
        return map(reading.recode_batch, batches)

    for _ in read.read_part(reading, part, recode_all, SPILL_BYTES):
        pass


def run_pipeline(
    step: str, function: Callable[[Any], Any], items: Sequence[Any], options: Sequence[str]
) -> None:
    """Apply `function` to each item on the workers of a pipeline, and wait for the end.

    It may be applied to an item more than once.

    Args:
        step: name of the step, for Beam's own displays.
        function: to be pickled; leaves its results in files.
        items: to be pickled.
        options: of the pipeline.

    Raises:
        UserError: if Beam is not installed, does not know an option, or `function` raises; the
            message ends with what it raised.
    """
    try:
        import apache_beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise UserError(
            f"Apache Beam cannot be imported ({error}). Install it with: pip install 'i21k[beam]'"
        ) from error
    usage = io.StringIO()
    try:
        with contextlib.redirect_stderr(usage):
            parsed = PipelineOptions(list(options))
            runner = apache_beam.runners.create_runner(
                parsed.get_all_options()["runner"] or "DirectRunner"
            )
    except (SystemExit, ValueError, KeyError) as error:
        raise UserError(
            f"Beam refuses the options {list(options)} ({usage.getvalue().strip() or error}). "
            "Change the options behind --."
        ) from error
    try:
        with apache_beam.Pipeline(runner, parsed) as pipeline:
            _ = (
                pipeline
                | apache_beam.Create(items)
                | apache_beam.Reshuffle()
                | step >> apache_beam.Map(function)
            )
    except Exception as error:  # each runner wraps a worker's error in a class of its own
        raise UserError(
            f"The step {step!r} of the Beam pipeline failed: "
            f"{str(error).strip().splitlines()[-1]}. Give the same command again to resume."
        ) from error
