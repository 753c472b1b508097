"""The stream of batches of a split, built ahead by threads or processes. The only use of Grain.

Step `s` covers the positions `[sB, (s+1)B)` of an endless stream of epochs. Any number of threads,
workers and hosts gives the same batches, so a run resumes from the number `s` alone.

ArrayRecord's hashes cover what is read, but only the rows of the crop are decoded. So an image that
was already damaged when it was packed can stay unnoticed, and so can two shards of equal counts
that changed places. `i21k verify` finds both.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

from i21k.data.format.splits import Split
from i21k.data.load import slots
from i21k.data.load.builder import Batch, BatchBuilder, Built
from i21k.data.load.options import (
    LoaderOptions,
    batch_shape,
    choose_workers,
    describe_workers,
    eval_options,
    num_threads,
)
from i21k.data.load.order import epoch_end
from i21k.data.load.stalls import Stalls
from i21k.errors import UserError

__all__ = [
    "Batch",
    "LoaderOptions",
    "batches",
    "choose_workers",
    "describe_workers",
    "eval_options",
]

_LOG = logging.getLogger(__name__)


@contextlib.contextmanager
def batches(
    split: Split,
    options: LoaderOptions,
    start_step: int = 0,
    num_steps: int | None = None,
    say: Callable[[str], None] = _LOG.warning,
) -> Iterator[Iterator[Batch]]:
    """Open the stream of batches from `start_step` up to `num_steps`.

    Args:
        split: to read.
        options: of the batches.
        start_step: of the first batch.
        num_steps: end of the stream, counted from step 0; None: after one epoch.
        say: called with a line for every record that is skipped.

    Raises:
        UserError: at the batch whose record cannot be read, naming shard and record; or if a
            worker process dies.
    """
    if num_steps is None:
        num_steps = epoch_end(0, split.num_records, options.batch_size)
    options = choose_workers(options, split.num_records)
    split.check_unchanged()
    builder, steps = BatchBuilder(split, options), range(start_step, num_steps)
    stream: Any
    if options.workers:
        stream = slots.build_in_processes(builder, steps, options.workers, batch_shape(options))
    else:
        # Here because the parent of the workers needs no Grain, which loads JAX and Orbax: 146 MB.
        import grain

        threads = num_threads(options.threads)
        dataset = grain.MapDataset.range(num_steps).map(builder)[start_step:]
        read_options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + 1)
        stream = iter(dataset.to_iter_dataset(read_options))
    stalls = Stalls(f"{split.directory}, split {split.split!r}", options)
    try:
        with stalls:
            yield _count_bad(stalls.watched(_without_grain_text(stream)), split, options, say)
    finally:
        stream.close()
        builder.close()


def _without_grain_text(stream: Iterator[Built]) -> Iterator[Built]:
    """Remove the lines that Grain adds to an error's text, about its own transformations."""
    try:
        yield from stream
    except UserError as error:
        raise UserError(str(error).partition("\n" + "-" * 20)[0]) from error


def _count_bad(
    stream: Iterator[Built], split: Split, options: LoaderOptions, say: Callable[[str], None]
) -> Iterator[Batch]:
    """Yield the batches, report each skipped record, and stop when there are too many."""
    num_bad = 0
    for batch, bad in stream:
        for text in bad:
            num_bad += 1
            say(f"skipped bad record {num_bad:,}: {text}")
        # Each host sees its part of the records.
        if num_bad * options.num_hosts > options.max_bad_fraction * split.num_records:
            raise UserError(
                f"{num_bad:,} bad records of {split.directory} were skipped, the last one "
                f"{bad[-1]}; expected at most {options.max_bad_fraction:g} of "
                f"{split.num_records:,} records. Find them with: "
                f"i21k verify {split.directory} --all"
            )
        yield batch
