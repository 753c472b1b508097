"""One pass over a split that counts every picture once, in training and for `i21k evaluate` alike."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32, Int32

from i21k.data.format.splits import Split
from i21k.data.load import loader
from i21k.evaluation.scores import Scores, accuracies
from i21k.labels import ClassList
from i21k.train import processes
from i21k.train.devices import put_batch
from i21k.train.metrics import Sums, Totals
from i21k.train.state import DeviceBatch


def eval_options(
    batch_size: int,
    image_size: int,
    crop_fraction: float,
    num_devices: int,
    threads: int = 0,
    workers: int = 0,
) -> loader.LoaderOptions:
    """Return how pictures are evaluated: the central window, in the order of the shards.

    Args:
        batch_size: of all devices; rounded up to a multiple of their number, which changes nothing but the padding.
        image_size: in pixels.
        crop_fraction: side of the window over the short side of the picture.
        num_devices: that share a batch.
        threads: as in `LoaderOptions`.
        workers: as in `LoaderOptions`.
    """
    return loader.LoaderOptions(
        batch_size=-(-batch_size // num_devices) * num_devices,
        image_size=image_size,
        crop="centre",
        crop_fraction=crop_fraction,
        mirror=False,
        order="stored",
        threads=threads,
        workers=workers,
    )


def evaluate(
    eval_step: Callable[[Any, DeviceBatch], Sums],
    variables: Any,
    split: Split,
    options: loader.LoaderOptions,
    devices: Sequence[jax.Device],
    should_stop: Callable[[], bool] = lambda: False,
) -> Totals | None:
    """Return the sums over the split, of all processes; None if `should_stop` said so between two batches.

    Args:
        eval_step: of `steps.make_eval_step`.
        variables: parameters and statistics, on the devices.
        split: its labels must be the model's.
        options: of `eval_options`.
        devices: the ones `eval_step` was made for.
        should_stop: asked after each batch.
    """
    totals = Totals()
    pending: Sums | None = None  # one step in flight, so that the next batch is sent while it runs
    with loader.batches(split, options) as batches:
        for batch in batches:
            sums = eval_step(variables, put_batch(batch, devices))
            if pending is not None:
                totals += Totals.fetch(pending)
            pending = sums
            if should_stop():
                return None
    if pending is not None:
        totals += Totals.fetch(pending)
    if totals.count != split.num_records:
        raise AssertionError(
            f"{totals.count} pictures were counted; the split has {split.num_records}"
        )
    return totals


def answers(
    answer_step: Callable[[Any, DeviceBatch], Any],
    variables: Any,
    split: Split,
    options: loader.LoaderOptions,
    devices: Sequence[jax.Device],
) -> Iterator[tuple[Float32[np.ndarray, "n K"], Int32[np.ndarray, " n"]]]:
    """Yield log-probabilities and labels of the pictures of a split, in the order of its records, each once; of several processes each
    gets those of its part of every batch.

    Args:
        answer_step: of `steps.make_answer_step`.
        variables: parameters and statistics, on the devices.
        split: its labels may be of other classes than the model's.
        options: of `eval_options`.
        devices: the ones `answer_step` was made for.
    """

    def fetch(
        answered: Any, batch: loader.Batch
    ) -> tuple[Float32[np.ndarray, "n K"], Int32[np.ndarray, " n"]]:
        there = batch.weights > 0
        log_probabilities = np.asarray(jax.device_get(answered))
        return log_probabilities.reshape(len(there), -1)[there], batch.labels[there]

    count, pending = 0, None  # one step in flight, so that the host works on the batch before
    with loader.batches(split, options) as batches:
        for batch in batches:
            answered = answer_step(variables, put_batch(batch, devices))
            if pending is not None:
                yield fetch(*pending)
            pending, count = (answered, batch), count + int(batch.weights.sum())
    if pending is not None:
        yield fetch(*pending)
    if (count := sum(processes.exchange("answered", count))) != split.num_records:
        raise AssertionError(f"{count} pictures were answered; the split has {split.num_records}")


def evaluate_by_id(
    answer_step: Callable[[Any, DeviceBatch], Any],
    variables: Any,
    classes: ClassList,
    split: Split,
    options: loader.LoaderOptions,
    devices: Sequence[jax.Device],
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, float] | None:
    """Return `top1`, `top5`, `top20` over all classes of the model and `over_top1` ... over the split's, if these are others; None if
    `should_stop` said so between two batches. The numbers are those of `i21k evaluate`.

    Args:
        answer_step: of `steps.make_answer_step`.
        variables: parameters and statistics, on the devices.
        classes: of the model.
        split: of any classes; pictures of those the model lacks are wrong.
        options: of `eval_options`.
        devices: the ones `answer_step` was made for.
        should_stop: asked after each batch.
    """
    scores = Scores(
        classes,
        split.classes,
        None if set(classes.ids) == set(split.classes.ids) else split.classes,
    )
    for log_probabilities, labels in answers(answer_step, variables, split, options, devices):
        scores.add(log_probabilities, labels)
        if should_stop():
            return None
    return accuracies(processes.exchange("scores", scores.tally()))
