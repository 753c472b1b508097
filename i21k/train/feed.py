"""What a run eats: its splits, how their pictures are loaded, and the thread that sends batches ahead of the step.

Apart from the loop so that the loop fits one screen.
"""

import concurrent.futures
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax

from i21k.data.format.splits import Split, open_split, split_names
from i21k.data.load import loader
from i21k.errors import UserError
from i21k.evaluation.scores import Scores
from i21k.labels import ClassList
from i21k.train import processes
from i21k.train.devices import put_batch
from i21k.train.evaluators import eval_options
from i21k.train.recipe import Config
from i21k.train.state import DeviceBatch


def open_data(cfg: Config) -> tuple[Split, Split | None]:
    """Open the training split and, where the directory has it, the validation split; draw the pictures first if the recipe says so.

    Raises:
        ValueError: if there is no such data, too little for a batch, or the two have different class lists.
    """
    directory = Path(cfg.data.directory)
    if cfg.data.synthetic_per_class:
        from i21k.data import synthetic

        if processes.index() == 0:
            synthetic.pack_if_missing(directory, cfg.data.synthetic_per_class, cfg.seed)
        processes.exchange("drawn", None)
    train_split = open_split(directory, cfg.data.train_split)
    if train_split.num_records < cfg.batch_size:
        there = f"the {train_split.num_records} pictures of split {cfg.data.train_split!r} of {directory}"
        raise UserError(
            f"batch_size {cfg.batch_size} is more than {there}; try --config.batch_size={train_split.num_records} or less"
        )
    if cfg.data.val_split not in split_names(directory):
        return train_split, None
    val_split = open_split(directory, cfg.data.val_split)
    if difference := train_split.classes.difference(val_split.classes):
        raise UserError(
            f"{directory}: the class lists of its splits differ ({difference}); pack it again"
        )
    return train_split, val_split


def open_second(cfg: Config, classes: ClassList) -> Split | None:
    """Open the second evaluation set, if the recipe names one.

    Raises:
        ValueError: if there is no such data, or it has none of the model's `classes`.
    """
    if (directory := cfg.evaluation.second_directory) == "none":
        return None
    second_split = open_split(directory, cfg.evaluation.second_split)
    Scores(classes, second_split.classes)  # now, not after the first epoch
    return second_split


def train_options(cfg: Config) -> loader.LoaderOptions:
    """Return how a recipe loads its training pictures: this process's part of each batch."""
    return loader.LoaderOptions(
        batch_size=cfg.batch_size,
        image_size=cfg.image_size,
        order=cfg.data.order,
        crop=cfg.data.crop,
        crop_fraction=cfg.data.crop_fraction,
        min_area=cfg.data.min_area,
        mirror=cfg.data.mirror,
        seed=cfg.seed,
        on_bad_record=cfg.data.on_bad_record,
        max_bad_fraction=cfg.data.max_bad_fraction,
        threads=cfg.data.threads,
        workers=cfg.data.workers,
        host=processes.index(),
        num_hosts=processes.count(),
    )


def val_options(cfg: Config, num_devices: int) -> loader.LoaderOptions:
    """Return how a recipe loads its validation pictures: this process's part of each batch."""
    batch_size, data = cfg.evaluation.batch_size, cfg.data
    options = eval_options(
        batch_size, cfg.image_size, data.crop_fraction, num_devices, data.threads, data.workers
    )
    return dataclasses.replace(options, host=processes.index(), num_hosts=processes.count())


class Feeder:
    """Sends the next batch to the devices while they work on the one before: a thread, one batch ahead."""

    def __init__(self, batches: Iterator[loader.Batch], devices: Sequence[jax.Device]) -> None:
        self._batches, self._devices = batches, devices
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "feeder")
        self._next = self._thread.submit(self._send)

    def __enter__(self) -> "Feeder":
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(
            cancel_futures=True
        )  # waits for a batch on its way; the loader may be closed only then

    def _send(self) -> tuple[loader.Batch, DeviceBatch] | None:
        batch = next(self._batches, None)
        return None if batch is None else (batch, put_batch(batch, self._devices))

    def take(self) -> tuple[loader.Batch, DeviceBatch]:
        """Wait for the next batch: on the host, and on the devices."""
        taken = self._next.result()
        assert taken is not None, "the stream of batches ended before the epoch"
        self._next = self._thread.submit(self._send)
        return taken
