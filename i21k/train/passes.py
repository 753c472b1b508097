"""Passes over a split on all devices. Each image is counted exactly once."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32, Int32

from i21k.data.format.splits import Split
from i21k.data.load import loader
from i21k.train import processes
from i21k.train.devices import put_batch
from i21k.train.metrics import Totals
from i21k.train.state import DeviceBatch

ShouldStop = Callable[[], bool]


def evaluate(
    eval_step: Callable[[Any, DeviceBatch], Any],
    variables: Any,
    split: Split,
    options: loader.LoaderOptions,
    devices: Sequence[jax.Device],
    should_stop: ShouldStop,
    columns: Int32[np.ndarray, " L"],
) -> Totals | None:
    """Return the sums over a split, of all processes.

    Return None if `should_stop` returned true after a batch.

    Args:
        eval_step: of `steps.make_eval_step`.
        variables: parameters and statistics, on the devices.
        split: to evaluate.
        options: of `loader.eval_options`.
        devices: the ones `eval_step` was made for.
        should_stop: called after each batch.
        columns: the model's column of each label of the split; -1 for classes that it lacks.
    """

    def step(variables: Any, batch: DeviceBatch) -> tuple[Any]:
        return (eval_step(variables, batch),)

    found = evaluate_subset(step, variables, split, options, devices, should_stop, columns)
    return None if found is None else found[0]


def evaluate_subset(
    step: Callable[[Any, DeviceBatch], Any],
    variables: Any,
    split: Split,
    options: loader.LoaderOptions,
    devices: Sequence[jax.Device],
    should_stop: ShouldStop,
    columns: Int32[np.ndarray, " L"],
) -> list[Totals] | None:
    """Evaluate with a step that returns several sums, and return the totals of each.

    Arguments are as in `evaluate`. `steps.make_subset_eval_step` makes such a step.
    """
    totals: list[Totals] = []

    def fetch(sums: Any) -> None:
        fetched = [Totals.fetch(each) for each in sums]
        totals[:] = [a + b for a, b in zip(totals, fetched, strict=True)] if totals else fetched

    pending: Any = None  # one step in flight, so that the next batch is sent while it runs
    with loader.batches(split, options) as batches:
        for batch in batches:
            sums = step(variables, put_batch(_in_columns(batch, columns), devices))
            if pending is not None:
                fetch(pending)
            pending = sums
            if should_stop():
                return None
    if pending is not None:
        fetch(pending)
    counts = {each.count for each in totals} or {0}
    assert counts == {split.num_records}, f"{counts} images counted, not {split.num_records}"
    return totals or [Totals()]


def _in_columns(batch: loader.Batch, columns: Int32[np.ndarray, " L"]) -> loader.Batch:
    """Return a batch with columns of the model as labels; the first is -1 only if all are."""
    if batch.others is None:
        return batch._replace(labels=columns[batch.labels])
    labels = np.concatenate([batch.labels[:, None], batch.others], axis=1)
    found = np.where(labels >= 0, columns[labels], -1)
    known_first = np.argsort(found < 0, axis=1, kind="stable")
    found = np.take_along_axis(found, known_first, axis=1)
    return batch._replace(labels=found[:, 0], others=found[:, 1:])


def log_probabilities(
    step: Callable[[Any, DeviceBatch], Any],
    variables: Any,
    split: Split,
    options: loader.LoaderOptions,
    devices: Sequence[jax.Device],
) -> Iterator[tuple[Float32[np.ndarray, "n K"], Int32[np.ndarray, " n"]]]:
    """Yield log-probabilities and labels of the images of a split, in the order of its records.

    Each process gets the images of its own part of every batch.

    Args:
        step: of `steps.make_log_probabilities_step`.
        variables: parameters and statistics, on the devices.
        split: its labels may be of other classes than the model's.
        options: of `loader.eval_options`.
        devices: the ones `step` was made for.
    """

    def fetch(
        on_devices: Any, batch: loader.Batch
    ) -> tuple[Float32[np.ndarray, "n K"], Int32[np.ndarray, " n"]]:
        real = batch.weights > 0
        found = np.asarray(jax.device_get(on_devices))
        return found.reshape(len(real), -1)[real], batch.labels[real]

    # One step in flight, so that the host handles the previous batch meanwhile.
    count, pending = 0, None
    with loader.batches(split, options) as batches:
        for batch in batches:
            on_devices = step(variables, put_batch(batch, devices))
            if pending is not None:
                yield fetch(*pending)
            pending, count = (on_devices, batch), count + int(batch.weights.sum())
    if pending is not None:
        yield fetch(*pending)
    count = sum(processes.exchange("answered", count))
    assert count == split.num_records, f"{count} images counted, not {split.num_records}"
