"""BatchNorm statistics of a population instead of a moving average: "precise BatchNorm".

A room of its own because it is neither training nor evaluation: it changes statistics and nothing else. The released network of 2015
has momentum 0.1, so that what it calls moving averages is nearly the last batch of 16 pictures. Source: Wu and Johnson 2021,
"Rethinking Batch in BatchNorm", arXiv 2105.07576, section 3.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from i21k.data.format.splits import Split
from i21k.data.load import loader
from i21k.errors import UserError
from i21k.train import steps


def recalibrate(
    statistics_step: Callable[[Any, steps.DeviceBatch], Any],
    variables: Any,
    split: Split,
    options: loader.LoaderOptions,
    devices: Sequence[jax.Device],
    num_images: int,
    should_stop: Callable[[], bool] = lambda: False,
) -> Any:
    """Return `variables`, on the devices, with statistics computed anew from the first pictures of the training stream.

    None if `should_stop` said so between two batches.

    The same for any number of loader threads, workers and processes. On more devices each sees smaller batches, which normalise a little
    differently.

    Args:
        statistics_step: of `steps.make_statistics_step`.
        variables: its parameters and statistics.
        split: of training pictures.
        options: of the loader; its seed chooses the pictures.
        devices: to run on.
        num_images: at least 1, rounded up to whole batches.
        should_stop: asked after each batch.
    """
    if num_images < 1:
        raise UserError(f"recalibrate_bn is {num_images}; expected at least 1 picture")
    batch_size = -(-options.batch_size // len(devices)) * len(devices)
    num_steps = -(-num_images // batch_size)
    variables = steps.put_state(variables, devices)
    population: Population | None = None
    with loader.batches(
        split, dataclasses.replace(options, batch_size=batch_size), 0, num_steps
    ) as batches:
        for batch in batches:
            parts = jax.device_get(statistics_step(variables, steps.put_batch(batch, devices)))
            population = population or Population(parts)
            population.add(parts)
            if should_stop():
                return None
    assert population is not None
    return {
        "params": variables["params"],
        "batch_stats": steps.put_state(population.statistics(), devices),
    }


class Population:
    """Combines means and variances of equally large parts of a population, in float64.

    The variance of the whole is the mean of the parts' variances plus the variance of the parts' means; the latter is what an average
    of variances leaves out.
    """

    def __init__(self, like: Any) -> None:
        self._num_parts = 0
        self._sums = {
            layer: {name: np.zeros(x.shape[1:]) for name, x in leaves.items()}
            for layer, leaves in like.items()
        }
        self._shift = {
            layer: leaves["moving_mean"][0].astype(np.float64) for layer, leaves in like.items()
        }
        self._squares = {layer: np.zeros_like(shift) for layer, shift in self._shift.items()}

    def add(self, parts: Any) -> None:
        """Add the statistics of several parts: of each layer `moving_mean` and `moving_var` with an axis of parts in front."""
        for layer, leaves in parts.items():
            # Around a value near the mean, so that the squares lose no digits.
            means = leaves["moving_mean"].astype(np.float64) - self._shift[layer]
            self._sums[layer]["moving_mean"] += means.sum(axis=0)
            self._sums[layer]["moving_var"] += leaves["moving_var"].astype(np.float64).sum(axis=0)
            self._squares[layer] += np.square(means).sum(axis=0)
        self._num_parts += len(next(iter(parts.values()))["moving_mean"])

    def statistics(self) -> Any:
        """Return mean and (biased) variance of all that was added, as float32."""
        combined = {}
        for layer, sums in self._sums.items():
            mean = sums["moving_mean"] / self._num_parts
            variance = (
                sums["moving_var"] / self._num_parts
                + self._squares[layer] / self._num_parts
                - np.square(mean)
            )
            combined[layer] = {
                "moving_mean": (mean + self._shift[layer]).astype(np.float32),
                "moving_var": np.maximum(variance, 0).astype(np.float32),
            }
        return combined
