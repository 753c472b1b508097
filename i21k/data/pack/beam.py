"""Apache Beam runs the stages on many machines: through it travel descriptions of a few hundred bytes, pictures go through the shared
file system. A room of its own as the only one that knows Beam, which is installed with `pip install i21k[beam]`.
"""

import contextlib
import io
from collections.abc import Callable, Sequence
from typing import Any

from i21k.errors import UserError


def run(
    name: str, function: Callable[[Any], Any], items: Sequence[Any], options: Sequence[str]
) -> None:
    """Apply `function` to each item on the workers of a pipeline, and wait for the end. It may be applied to one more than once.

    Args:
        name: of the step, for Beam's own displays.
        function: to be pickled; leaves its results in files.
        items: to be pickled.
        options: of the pipeline, such as `--runner=FlinkRunner`.

    Raises:
        ValueError: if Beam is not installed, does not know an option, or `function` raises; the message ends with what it raised.
    """
    try:
        import apache_beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise UserError(
            f"Apache Beam cannot be imported ({error}); install it with: pip install 'i21k[beam]'"
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
            f"Beam does not take the options {list(options)} ({usage.getvalue().strip() or error}); change what follows --"
        ) from error
    try:
        with apache_beam.Pipeline(runner, parsed) as pipeline:
            _ = (
                pipeline
                | apache_beam.Create(items)
                | apache_beam.Reshuffle()
                | name >> apache_beam.Map(function)
            )
    except Exception as error:  # Beam wraps what a worker raised in whatever its runner has, with the tracebacks of all sides in the text
        raise UserError(
            f"the step {name!r} of the Beam pipeline failed: {str(error).strip().splitlines()[-1]}"
        ) from error
