"""The data of a run: its splits, how images are loaded, and the thread that sends batches ahead."""

import concurrent.futures
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax

from i21k import workers
from i21k.data.format.splits import Split, open_split, split_names
from i21k.data.load import loader
from i21k.errors import UserError
from i21k.train import evaluators, processes, sizes
from i21k.train.devices import put_batch
from i21k.train.interruption import Interruption
from i21k.train.recipe import EvaluationSet, Recipe, read_sets
from i21k.train.state import DeviceBatch

END_S = 2.0  # our choice: for a batch that is being built when a run ends


def open_data(recipe: Recipe) -> tuple[Split, dict[str, Split]]:
    """Open the training split, and by name each set to evaluate.

    If the recipe says so, draw the images first.

    Raises:
        UserError: if data is missing or too small for a batch, or if class lists do not fit.
    """
    directory = Path(recipe.data.directory)
    if recipe.data.synthetic_per_class:
        from i21k.data import synthetic

        if processes.index() == 0:
            synthetic.pack_if_missing(directory, recipe.data.synthetic_per_class, recipe.seed)
        processes.exchange("drawn", None)
    train_split = open_split(directory, recipe.data.train_split)
    if (num_records := train_split.num_records) < recipe.batch_size:
        raise UserError(
            f"batch_size is {recipe.batch_size} and split {recipe.data.train_split!r} of "
            f"{directory}"
            f" has {num_records} images. Use --config.batch_size={num_records} or less."
        )
    sets = {
        wanted.name: _open_set(wanted, train_split) for wanted in read_sets(recipe.evaluation.sets)
    }
    return train_split, sets


def _open_set(wanted: EvaluationSet, train_split: Split) -> Split:
    directory = wanted.directory or train_split.directory
    if wanted.split not in (known := split_names(directory)):
        raise UserError(
            f"evaluation {wanted.name}: {directory} has no split {wanted.split!r}; expected one of"
            f" {', '.join(known)}. Use --config.evaluation.sets={wanted.name}=SPLIT, or"
            " --config.evaluation.sets=none to train without an evaluation."
        )
    split = open_split(directory, wanted.split)
    if wanted.directory is not None:
        evaluators.check_classes(wanted.name, split, train_split.classes)
    elif difference := train_split.classes.difference(split.classes):
        raise UserError(
            f"{train_split.directory} has splits with different class lists ({difference})."
            " Pack it again."
        )
    return split


def train_options(recipe: Recipe, image_size: int | None = None) -> loader.LoaderOptions:
    """Return how this process loads its part of each training batch.

    Args:
        recipe: of the run.
        image_size: in px; None: the largest of the recipe.
    """
    data = recipe.data
    return loader.LoaderOptions(
        batch_size=recipe.batch_size,
        image_size=image_size or sizes.largest(recipe.image_size),
        order=data.order,
        crop=data.crop,
        crop_fraction=data.crop_fraction,
        min_area=data.min_area,
        mirror=data.mirror,
        mirror_order=data.mirror_order,
        seed=recipe.seed,
        on_bad_record=data.on_bad_record,
        max_bad_fraction=data.max_bad_fraction,
        threads=data.threads,
        workers=data.workers,
        max_wait_s=data.max_wait_s,
        host=processes.index(),
        num_hosts=processes.count(),
    )


def recalibration_options(recipe: Recipe) -> loader.LoaderOptions:
    """Return how images are loaded to recalibrate BatchNorm: as in training, in the size of
    evaluations.

    Runs and `i21k evaluate --recalibrate-bn` both use this, so they see the same crops in batches
    of the same size.
    """
    options = train_options(recipe, recipe.evaluation_size)
    return dataclasses.replace(options, workers=max(options.workers, 0))


def eval_options(recipe: Recipe, num_devices: int) -> loader.LoaderOptions:
    """Return how this process loads its part of each evaluation batch."""
    data = recipe.data
    options = loader.eval_options(
        recipe.evaluation.batch_size,
        recipe.evaluation_size,
        data.crop_fraction,
        num_devices,
        data.threads,
        max(data.workers, 0),  # an evaluation is too short to start processes for
    )
    return dataclasses.replace(
        options,
        max_wait_s=data.max_wait_s,
        host=processes.index(),
        num_hosts=processes.count(),
    )


class NoBatchError(Exception):
    """The run was interrupted while it waited for a batch."""


class Feeder:
    """Sends the next batch to the devices while they work on the current one.

    One thread, one batch ahead.
    """

    def __init__(self, batches: Iterator[loader.Batch], devices: Sequence[jax.Device]) -> None:
        self._batches, self._devices = batches, devices
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "feeder")
        self._next = self._thread.submit(self._send)

    def __enter__(self) -> "Feeder":
        return self

    def __exit__(self, *_: object) -> None:
        # Wait for a batch that is being sent: the loader may be closed only after that.
        if concurrent.futures.wait([self._next], END_S).not_done:
            workers.kill_all()  # then the batch is an error
        self._thread.shutdown(cancel_futures=True)

    def _send(self) -> tuple[loader.Batch, DeviceBatch] | None:
        batch = next(self._batches, None)
        return None if batch is None else (batch, put_batch(batch, self._devices))

    def take(self, interrupted: Interruption | bool = False) -> tuple[loader.Batch, DeviceBatch]:
        """Wait for the next batch. Return it as it is on the host, and on the devices.

        Raises:
            NoBatchError: if the run is interrupted and no batch comes. Of several processes the
                others wait for this one's step, so it does not give up.
        """
        while not self._next.done() and processes.count() == 1:
            concurrent.futures.wait([self._next], END_S)
            if interrupted and not self._next.done():
                raise NoBatchError
        taken = self._next.result()
        assert taken is not None, "the stream of batches ended before the epoch"
        self._next = self._thread.submit(self._send)
        return taken
