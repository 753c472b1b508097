"""BatchNorm statistics of many images instead of a moving average: "precise BatchNorm".

The released network of 2015 has momentum 0.1, so that its moving averages are nearly those of the
last batch of 16 images. Source: Wu and Johnson 2021, "Rethinking Batch in BatchNorm", arXiv
2105.07576, section 3.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from i21k.data.format.splits import Split
from i21k.data.load import loader
from i21k.errors import UserError
from i21k.models.network import Path
from i21k.train.devices import put_batch, put_state
from i21k.train.state import DeviceBatch

AUTO_IMAGES = 1024  # our choice: a second on a GPU, and little beside the steps before


def few_steps(momentum: float) -> int:
    """Return after how many steps moving averages are as good as recalibrated statistics.

    With momentum 0.9 they were much worse until step 48, and equal from step 96 on
    (`benchmarks/bn_steps.py`). A moving average has a memory of 1 / (1 - momentum) steps.
    """
    return round(10 / (1 - momentum))


def images_for(setting: int | Literal["auto"], step: int, momentum: float, num_records: int) -> int:
    """Return on how many images an evaluation after `step` steps recalibrates; 0: it does not.

    Args:
        setting: `evaluation.recalibrate_bn` of the recipe.
        step: number of training steps done.
        momentum: of the network's moving averages.
        num_records: of the training split.
    """
    if setting == "auto":
        # A shorter memory than 10 steps never becomes as good.
        is_due = momentum < 0.9 or step < few_steps(momentum)
        return min(AUTO_IMAGES, num_records) if is_due else 0
    return setting


def recalibrate(
    statistics_step: Callable[[Any, DeviceBatch], Any],
    variables: Any,
    split: Split,
    options: loader.LoaderOptions,
    devices: Sequence[jax.Device],
    num_images: int,
    moments: Callable[[Any], list[tuple[Path, Path]]],
    should_stop: Callable[[], bool] = lambda: False,
) -> Any:
    """Return `variables`, on the devices, with new statistics of the first images of the stream.

    Return None if `should_stop` returned true after a batch.

    The result is the same for any number of loader threads, workers and processes. On more devices
    each batch per device is smaller and is normalised a little differently.

    Args:
        statistics_step: of `steps.make_statistics_step`.
        variables: parameters and statistics.
        split: of training images.
        options: of the loader; its seed chooses the images.
        devices: to run on.
        num_images: at least 1; rounded up to whole batches.
        moments: of the network: which statistics are means, and which variances belong to them.
        should_stop: called after each batch.
    """
    if num_images < 1:
        raise UserError(f"recalibrate_bn is {num_images}. Use at least 1 image.")
    batch_size = -(-options.batch_size // len(devices)) * len(devices)
    num_steps = -(-num_images // batch_size)
    variables = put_state(variables, devices)
    population = Population(moments(variables["batch_stats"]))
    options = dataclasses.replace(options, batch_size=batch_size)
    with loader.batches(split, options, 0, num_steps) as batches:
        for batch in batches:
            population.add(jax.device_get(statistics_step(variables, put_batch(batch, devices))))
            if should_stop():
                return None
    return {**variables, "batch_stats": put_state(population.statistics(), devices)}


class Population:
    """Combines means and variances of equally large parts of a population, in float64.

    The variance of the whole is the mean of the parts' variances plus the variance of the parts'
    means. An average of variances lacks the second term.
    """

    def __init__(self, moments: Sequence[tuple[Path, Path]]) -> None:
        """Start empty.

        Args:
            moments: paths of each mean and of its variance, in the trees that `add` gets.
        """
        self._moments = moments
        self._num_parts = 0
        self._sums: dict[Path, Any] = {}  # of means and variances, by their paths
        self._shifts: dict[Path, Any] = {}  # by paths of means: values near them
        self._squares: dict[Path, Any] = {}

    def add(self, parts: Any) -> None:
        """Add the statistics of several parts: a tree of arrays with an axis of parts in front."""
        flat = {path: x.astype(np.float64) for path, x in flatten_dict(parts).items()}
        for mean, variance in self._moments:
            # Only squares of values near zero keep all digits.
            shift = self._shifts.setdefault(mean, flat[mean][0])
            means = flat[mean] - shift
            self._sums[mean] = self._sums.get(mean, 0) + means.sum(axis=0)
            self._sums[variance] = self._sums.get(variance, 0) + flat[variance].sum(axis=0)
            self._squares[mean] = self._squares.get(mean, 0) + np.square(means).sum(axis=0)
        self._num_parts += len(next(iter(flat.values())))

    def statistics(self) -> Any:
        """Return mean and (biased) variance of all parts, as float32."""
        assert self._num_parts, "no part was added"
        combined = {}
        for mean, variance in self._moments:
            average = self._sums[mean] / self._num_parts
            between = self._squares[mean] / self._num_parts - np.square(average)
            within = self._sums[variance] / self._num_parts
            combined[mean] = (average + self._shifts[mean]).astype(np.float32)
            combined[variance] = np.maximum(within + between, 0).astype(np.float32)
        return unflatten_dict(combined)
