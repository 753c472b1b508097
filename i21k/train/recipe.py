"""The keys of a config file, their types and their checks: the one place where a recipe is read.

A recipe is a Python file in `configs/` whose `get_config()` returns a `ConfigDict` with exactly these keys; `parse` turns it into frozen
dataclasses, so that a key that nobody reads, or one that is missing, cannot exist.
"""

import dataclasses
import math
import typing
from typing import Any, Literal

from ml_collections import ConfigDict

from i21k.errors import UserError


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where the pictures are and what is cut from them."""

    directory: str
    train_split: str
    val_split: str  # evaluated after each epoch if the directory has it
    synthetic_per_class: int  # pictures a class that are drawn into an empty directory; 0: the directory must be there
    order: Literal[
        "global", "windowed"
    ]  # shuffled over all records, or runs of neighbours mixed, for disks that cannot seek
    crop: Literal["region", "plain"]
    crop_fraction: float  # side of the window over the short side: in training for 'plain', in evaluation always
    min_area: float  # of a 'region', fraction of the picture
    mirror: bool
    on_bad_record: Literal[
        "stop", "skip"
    ]  # skip, in training: the next good record takes its place, counted and logged
    max_bad_fraction: float  # of the split's records, skipped in one epoch, above which the run stops all the same
    threads: int  # of the training process that build batches; 0: one a core
    workers: int  # processes that build batches instead of threads; 0: none


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network, as `i21k.models.inception_bn.InceptionBN` takes it."""

    variant: Literal["full", "standard"]
    revision: Literal["released", "symbol2016"]
    width: float
    dtype: Literal["float32", "bfloat16"]
    remat: Literal["none", "conv", "block"]
    init: Literal["uniform", "he_normal"]  # uniform(-0.01, 0.01) as in 2015, or He et al. 2015
    bn_momentum: float  # weight of the old moving average; 0: the revision's own
    sync_bn: bool  # statistics over all devices; off: each by itself, as in 2015


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """SGD."""

    learning_rate: float  # for the global batch size; not scaled
    schedule: Literal["constant", "cosine"]
    warmup_epochs: float
    momentum: float
    nesterov: bool
    weight_decay: float
    decay: Literal["all", "kernels"]  # which parameters decay


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """The pass over the val split, and over a second set whose classes may be others: the 1,000 of ILSVRC during 21,841."""

    batch_size: int  # global
    recalibrate_bn: int  # training pictures from which BatchNorm's statistics are computed anew before each evaluation; 0: none
    second_directory: (
        str  # dataset evaluated after each epoch too, its classes matched by id; "none": none
    )
    second_split: str


@dataclasses.dataclass(frozen=True)
class LogConfig:
    """What is written, and how often."""

    every_steps: int  # values come back from the device only then
    keep_checkpoints: int  # of epochs, the newest; 0: all


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole recipe."""

    seed: int
    epochs: int
    batch_size: int  # global
    accumulate_steps: int  # micro-batches a device, one after the other, that make one update; 1: the whole part at once
    devices: int  # of all processes together, the first ones of each, equally many; 0: all
    reduce_dtype: Literal["float32", "bfloat16"]  # in which gradients travel between the devices
    image_size: int  # px, square
    data: DataConfig
    model: ModelConfig
    optimizer: OptimizerConfig
    evaluation: EvaluationConfig
    log: LogConfig

    def __post_init__(self) -> None:
        data, opt, model, log = self.data, self.optimizer, self.model, self.log
        if self.seed >= 2**63:
            raise UserError(f"config.seed is {self.seed}; expected below 2**63")
        at_least: list[tuple[str, float, int]] = [
            ("seed", self.seed, 0),
            ("epochs", self.epochs, 1),
            ("batch_size", self.batch_size, 1),
            ("accumulate_steps", self.accumulate_steps, 1),
            ("devices", self.devices, 0),
            ("data.synthetic_per_class", data.synthetic_per_class, 0),
            ("data.threads", data.threads, 0),
            ("data.workers", data.workers, 0),
            ("optimizer.warmup_epochs", opt.warmup_epochs, 0),
            ("optimizer.momentum", opt.momentum, 0),
            ("optimizer.weight_decay", opt.weight_decay, 0),
            ("evaluation.batch_size", self.evaluation.batch_size, 1),
            ("evaluation.recalibrate_bn", self.evaluation.recalibrate_bn, 0),
            ("log.every_steps", log.every_steps, 1),
            ("log.keep_checkpoints", log.keep_checkpoints, 0),
        ]
        for key, value, least in at_least:
            if not least <= value < math.inf:  # so that NaN is refused too
                raise UserError(f"config.{key} is {value}; expected at least {least}")
        above_zero: list[tuple[str, float, float]] = [
            ("data.crop_fraction", data.crop_fraction, 1),
            ("data.min_area", data.min_area, 1),
            ("model.width", model.width, 4),
            ("optimizer.learning_rate", opt.learning_rate, 1e3),
        ]
        for key, value, most in above_zero:
            if not 0 < value <= most:
                raise UserError(f"config.{key} is {value}; expected above 0 and at most {most}")
        if not 0 <= model.bn_momentum < 1:
            raise UserError(
                f"config.model.bn_momentum is {model.bn_momentum}; expected 0 (the revision's own) up to below 1"
            )
        if not 0 <= data.max_bad_fraction < 1:
            raise UserError(
                f"config.data.max_bad_fraction is {data.max_bad_fraction}; expected 0 up to below 1"
            )
        if opt.momentum >= 1:
            raise UserError(
                f"config.optimizer.momentum is {opt.momentum}; expected 0 up to below 1"
            )


def parse(config: ConfigDict) -> Config:
    """Read and check a recipe.

    Raises:
        ValueError: naming the key, what was got and what was expected.
    """
    return _parse(Config, config, "config")


def _parse(kind: type, values: Any, where: str) -> Any:
    if not isinstance(values, ConfigDict):
        raise UserError(f"{where} is {values!r}; expected a group of keys")
    types = typing.get_type_hints(kind)
    unknown, missing = sorted(set(values) - set(types)), [key for key in types if key not in values]
    if unknown or missing:
        wrong = [f"unknown key {where}.{key}" for key in unknown] + [
            f"missing key {where}.{key}" for key in missing
        ]
        raise UserError(f"{'; '.join(wrong)}; expected exactly {', '.join(types)}")
    return kind(**{key: _value(hint, values[key], f"{where}.{key}") for key, hint in types.items()})


def _value(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _parse(typing.cast(type, hint), value, where)
    if typing.get_origin(hint) is Literal:
        if value not in (choices := typing.get_args(hint)):
            raise UserError(
                f"{where} is {value!r}; expected one of {', '.join(map(repr, choices))}"
            )
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint:
        raise UserError(f"{where} is {value!r}; expected {hint.__name__}")
    return value
