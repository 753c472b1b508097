"""Evaluate named sets of images. Each image of a set is counted exactly once."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np

from i21k.data.format.splits import Split
from i21k.data.load import loader
from i21k.errors import UserError
from i21k.labels import ClassList
from i21k.models.network import Network
from i21k.train import passes, steps
from i21k.train.losses import Loss
from i21k.train.metrics import RANKS
from i21k.train.passes import ShouldStop
from i21k.train.state import DeviceBatch
from i21k.wordnet.class_lists import columns

TOP = tuple(f"top{k}" for k in RANKS)


class Result(NamedTuple):
    """What an evaluator found."""

    values: dict[str, float]  # by column of the metrics, such as val_top1
    text: str  # for the line of the epoch


@runtime_checkable
class Evaluator(Protocol):
    """A named evaluation after each epoch."""

    name: str
    columns: tuple[str, ...]  # of the metrics; each begins with the name

    def run(self, variables: Any, should_stop: ShouldStop) -> Result | None:
        """Evaluate parameters and statistics that are on the devices.

        Return None if `should_stop` returned true after a batch.
        """
        ...


class SameClasses:
    """Loss and accuracy on a set whose classes are the model's."""

    def __init__(
        self,
        name: str,
        split: Split,
        classes: ClassList,
        eval_step: Callable[[Any, DeviceBatch], Any],
        options: loader.LoaderOptions,
        devices: Sequence[jax.Device],
    ) -> None:
        self.name = name
        self.columns = tuple(f"{name}_{key}" for key in ("loss", *TOP))
        self._arguments = (eval_step, split, options, devices, columns(classes, split.classes))

    def run(self, variables: Any, should_stop: ShouldStop) -> Result | None:
        eval_step, split, options, devices, labels = self._arguments
        started = time.perf_counter()
        totals = passes.evaluate(eval_step, variables, split, options, devices, should_stop, labels)
        if totals is None:
            return None
        means, seconds = totals.means(), time.perf_counter() - started
        text = f"{self.name} loss {means['loss']:.3f} top1 {means['top1']:.1%}"
        text += f" top5 {means['top5']:.1%} ({totals.count:,} images in {seconds:.1f} s)"
        return Result({f"{self.name}_{key}": value for key, value in means.items()}, text)


class OtherClasses:
    """Accuracy on a set of other classes: among all classes of the model, and among the set's.

    Images of classes that the model lacks are counted as wrong. There is no loss for them.
    """

    def __init__(
        self,
        name: str,
        split: Split,
        classes: ClassList,
        subset_step: Callable[[Any, DeviceBatch], Any],
        options: loader.LoaderOptions,
        devices: Sequence[jax.Device],
    ) -> None:
        self.name = name
        self.columns = tuple(f"{name}_{over}{top}" for over in ("", "over_") for top in TOP)
        self._arguments = (subset_step, split, options, devices, columns(classes, split.classes))

    def run(self, variables: Any, should_stop: ShouldStop) -> Result | None:
        step, split, options, devices, labels = self._arguments
        found = passes.evaluate_subset(
            step, variables, split, options, devices, should_stop, labels
        )
        if found is None:
            return None
        values = {
            f"{self.name}_{over}{top}": totals.means()[top]
            for over, totals in zip(("", "over_"), found, strict=True)
            for top in TOP
        }
        text = f"{self.name} top1 {values[f'{self.name}_top1']:.1%}"
        text += f", among its own classes {values[f'{self.name}_over_top1']:.1%}"
        return Result(values, text)


class Averaged:
    """An evaluator for the moving average of the weights. Its columns are NAME_ema_top1, ..."""

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator
        self.name = f"{evaluator.name}_ema"
        self.columns = tuple(map(self._column, evaluator.columns))

    def run(self, variables: Any, should_stop: ShouldStop) -> Result | None:
        result = self._evaluator.run(variables, should_stop)
        if result is None:
            return None
        values = {self._column(column): value for column, value in result.values.items()}
        return Result(values, result.text.replace(self._evaluator.name, self.name, 1))

    def _column(self, column: str) -> str:
        return self.name + column.removeprefix(self._evaluator.name)


def make_evaluators(
    sets: Mapping[str, Split],
    network: Network,
    classes: ClassList,
    options: loader.LoaderOptions,
    devices: Sequence[jax.Device],
    loss: Loss,
) -> list[Evaluator]:
    """Return an evaluator for each set. Nothing is compiled before the first one runs.

    Args:
        sets: by name.
        network: as it is trained.
        classes: of the model.
        options: of `loader.eval_options`.
        devices: to run on.
        loss: as in training.

    Raises:
        UserError: if a set has no class of the model.
    """
    eval_step = steps.make_eval_step(network, devices, loss)
    found: list[Evaluator] = []
    for name, split in sets.items():
        if set(split.classes.ids) == set(classes.ids):
            found.append(SameClasses(name, split, classes, eval_step, options, devices))
            continue
        own = np.zeros(len(classes), bool)
        own[[column for column in columns(classes, split.classes) if column >= 0]] = True
        step = steps.make_subset_eval_step(network, devices, own, loss)
        found.append(OtherClasses(name, split, classes, step, options, devices))
    return found


def check_classes(name: str, split: Split, classes: ClassList) -> None:
    """Refuse a set none of whose classes the model has.

    Raises:
        UserError: naming classes of both.
    """
    if not set(split.classes.ids) & set(classes.ids):
        raise UserError(
            f"evaluation {name!r} has none of the model's {_some(classes)}; its own are"
            f" {_some(split.classes)}. Choose a dataset with classes of the model."
        )


def _some(classes: ClassList) -> str:
    first = ", ".join(classes.ids[:3]) + ", ..." * (len(classes) > 3)
    return f"{len(classes)} classes: {first}"
