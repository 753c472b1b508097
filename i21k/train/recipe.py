"""The keys of a recipe: defaults, types, checks, help. All else about a key follows from here.

To add a key, add one field with `key(...)`. Runs that were started before resume with its default.
"""

import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

from ml_collections import ConfigDict, FieldReference

from i21k.errors import UserError
from i21k.train import sizes

Check = Callable[[Any], str | None]  # returns what to use instead, or None if the value is fine
NEW_SCHEDULE = "a new optimizer.schedule_from_step"


def key(
    default: Any,
    help: str,
    *,
    check: Check | None = None,
    may_change: bool | str = False,
    may_differ: bool = False,
    exact: bool = True,
) -> Any:
    """Declare a key of a recipe.

    Args:
        default: value of recipes that do not state the key.
        help: one line for `launch.py --help` and the documentation.
        check: refuses values that have the right type and make no sense.
        may_change: whether a resumed run may have another value than before. Text such as
            "optimizer.schedule=constant" allows it for recipes with that value, and `NEW_SCHEDULE`
            together with a schedule that starts at the step of the checkpoint; " or " joins two.
        may_differ: whether the processes of one run may have different values.
        exact: False if a change leads to other bits than an uninterrupted run would have.
    """
    metadata = {
        "help": help,
        "check": check,
        "may_change": may_change,
        "may_differ": may_differ,
        "exact": exact,
    }
    return dataclasses.field(default=default, metadata=metadata)


def at_least(least: int) -> Check:
    def check(value: float) -> str | None:  # comparisons are written so that NaN is refused too
        return None if least <= value < math.inf else f"Use at least {least}."

    return check


def above_zero(most: float) -> Check:
    return lambda value: None if 0 < value <= most else f"Use a value above 0, at most {most:g}."


def fraction(value: float) -> str | None:
    return None if 0 <= value < 1 else "Use a value from 0 to below 1."


def seed_range(value: int) -> str | None:
    return None if 0 <= value < 2**63 else "Use a value from 0 to below 2**63."


def momentum_range(value: Any) -> str | None:
    fine = value == "default" or 0 <= value < 1
    return None if fine else "Use a value from 0 to below 1, or 'default'."


def images_or_auto(value: Any) -> str | None:
    fine = value == "auto" or value >= 0
    return None if fine else "Use a number of images, 0 or 'auto'."


def read_steps(text: str) -> tuple[int, int] | None:
    """Return first and last of `FIRST:LAST`, or None for `none`.

    Raises:
        ValueError: if the text has another form.
    """
    if text == "none":
        return None
    if not (match := re.fullmatch(r"(\d+):(\d+)", text)):
        raise ValueError(f"cannot read {text!r}")
    first, last = int(match[1]), int(match[2])
    if first >= last:
        raise ValueError(f"{first} is not below {last}")
    return first, last


def steps_form(value: str) -> str | None:
    try:
        read_steps(value)
    except ValueError:
        return "Use FIRST:LAST with FIRST below LAST, such as 100:110, or none."
    return None


class EvaluationSet(NamedTuple):
    """One set of images that is evaluated."""

    name: str  # its columns are NAME_top1, ...
    directory: str | None  # a dataset; None: the one that is trained on
    split: str


SETS_FORM = "NAME=SPLIT or NAME=DIRECTORY:SPLIT, with commas between, or none"


def read_sets(text: str) -> list[EvaluationSet]:
    """Read the value of `evaluation.sets`.

    Raises:
        ValueError: naming the part that has another form, or the name that comes twice.
    """
    found: dict[str, EvaluationSet] = {}
    for part in [] if text == "none" else text.split(","):
        name, _, place = (piece.strip() for piece in part.partition("="))
        directory, _, split = place.rpartition(":")
        if not re.fullmatch("[a-z][a-z0-9-]*", name) or not split or name in ("train", "data"):
            raise ValueError(f"cannot read {part.strip()!r}")
        if name in found:
            raise ValueError(f"the name {name!r} comes twice")
        found[name] = EvaluationSet(name, directory or None, split)
    return list(found.values())


def sets_form(value: str) -> str | None:
    try:
        read_sets(value)
    except ValueError as error:
        return f"Use {SETS_FORM} ({error}; names are lower-case letters, digits and hyphens)."
    return None


@dataclasses.dataclass(frozen=True)
class DataRecipe:
    """Images for training, and what is cut from them."""

    directory: str = key(
        "data/imagenet21k", "packed dataset to train on", may_change=True, may_differ=True
    )
    train_split: str = key("train", "split to train on")
    synthetic_per_class: int = key(
        0, "draw this many images per class into an empty directory; 0: none", check=at_least(0)
    )
    order: Literal["global", "windowed"] = key(
        "global", "shuffle all records, or mix runs of 3 MB for disks that seek slowly"
    )
    crop: Literal["region", "plain"] = key(
        "region", "training crop: a random region of any size, or a random window of fixed size"
    )
    crop_fraction: float = key(
        224 / 256,
        "side of the crop over the short side (plain and evaluation)",
        check=above_zero(1),
    )
    min_area: float = key(
        0.08, "smallest area of crop 'region', as a fraction of the image", check=above_zero(1)
    )
    mirror: bool = key(True, "mirror half of the training images")
    mirror_order: Literal["random", "alternating"] = key(
        "random", "draw the mirrored half anew each epoch, or take the other half each epoch"
    )
    on_bad_record: Literal["stop", "skip"] = key(
        "stop", "for a training record that cannot be read: stop, or use the next good one",
        may_change=True,
    )  # fmt: skip
    max_bad_fraction: float = key(
        0.001, "stop if more of the records of an epoch are bad", check=fraction, may_change=True
    )
    threads: int = key(
        0, "threads that build batches; 0: one per core",
        check=at_least(0), may_change=True, may_differ=True,
    )  # fmt: skip
    workers: int = key(
        -1, "processes that build batches instead of threads; 0: none; -1: for many images",
        check=at_least(-1), may_change=True, may_differ=True,
    )  # fmt: skip
    max_wait_s: int = key(
        900, "seconds to wait for a batch before the run ends; 0: for ever",
        check=at_least(0), may_change=True, may_differ=True,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ModelRecipe:
    """The network."""

    variant: Literal["full", "standard"] = key(
        "standard", "Inception-BN for 21,841 classes (full) or for 1,000 (standard)"
    )
    revision: Literal["released", "symbol2016", "modern"] = key(
        "released", "details of the published weights of 2015, of the script of 2016, or of today"
    )
    width: float = key(1.0, "number of filters, as a multiple", check=above_zero(4))
    dtype: Literal["float32", "bfloat16"] = key("float32", "type of activations")
    remat: Literal["none", "conv", "block"] = key(
        "none", "activations to compute again in the backward pass, to save memory",
        may_change=True,
    )  # fmt: skip
    init: Literal["uniform", "he_normal"] = key(
        "he_normal", "initial kernels: uniform(-0.01, 0.01) as in 2015, or He et al. 2015"
    )
    bn_momentum: float | Literal["default"] = key(
        0.9, "weight of the old moving average; default: what the revision had",
        check=momentum_range,
    )  # fmt: skip
    sync_bn: bool = key(False, "BatchNorm statistics over all devices instead of each device")
    freeze: str = key(
        "none", "parts that stay as they are: none, trunk, or all up to one, such as stem or 4e",
    )  # fmt: skip
    freeze_bn: bool = key(
        False, "normalise by the moving statistics in training too, and keep them"
    )


@dataclasses.dataclass(frozen=True)
class OptimizerRecipe:
    """How gradients change the parameters (`i21k.train.optimizer`)."""

    name: Literal["sgd", "adamw", "lamb", "muon"] = key(
        "sgd", "SGD, AdamW, LAMB, or Muon for kernels of convolutions and SGD for all others"
    )
    learning_rate: float = key(
        0.1, "learning rate for the global batch; not scaled",
        check=above_zero(1e3), may_change=True, exact=False,
    )  # fmt: skip
    schedule: Literal["constant", "cosine", "linear", "trapezoid"] = key(
        "cosine", "learning rate after the warm-up: constant, or to 0 at the end of the run",
        may_change=NEW_SCHEDULE, exact=False,
    )  # fmt: skip
    warmup_epochs: float = key(
        1.0, "epochs of linear warm-up from 0",
        check=at_least(0), may_change=NEW_SCHEDULE, exact=False,
    )  # fmt: skip
    decay_epochs: float = key(
        0.0, "epochs of linear decay to 0 at the end of schedule 'trapezoid'",
        check=at_least(0), may_change=NEW_SCHEDULE, exact=False,
    )  # fmt: skip
    schedule_from_step: int = key(
        0, "step at which warm-up and schedule start anew; only the step where the run resumes",
        check=at_least(0), may_change=NEW_SCHEDULE, exact=False,
    )  # fmt: skip
    momentum: float = key(0.9, "momentum; of AdamW and LAMB the first beta", check=fraction)
    nesterov: bool = key(True, "Nesterov momentum of SGD and Muon")
    beta2: float = key(0.999, "second beta of AdamW and LAMB", check=fraction)
    weight_decay: float = key(1e-4, "weight decay", check=at_least(0), may_change=True, exact=False)
    decay: Literal["all", "kernels"] = key("kernels", "parameters that decay")
    layer_decay: float = key(
        1.0, "factor of the learning rate for each part further from the head",
        check=above_zero(1), may_change=True, exact=False,
    )  # fmt: skip
    head_epochs: float = key(
        0.0, "epochs at the start in which only the head changes", check=at_least(0)
    )
    clip_norm: float = key(
        0.0, "largest norm of all gradients together; 0: any",
        check=at_least(0), may_change=True, exact=False,
    )  # fmt: skip
    learning_rate_head: float = key(
        1.0, "factor of the learning rate of the classifier head",
        check=at_least(0), may_change=True, exact=False,
    )  # fmt: skip
    learning_rate_norm: float = key(
        1.0, "factor of the learning rate of biases and of BatchNorm's parameters",
        check=at_least(0), may_change=True, exact=False,
    )  # fmt: skip
    weight_decay_head: float = key(
        1.0, "factor of the weight decay of the classifier head",
        check=at_least(0), may_change=True, exact=False,
    )  # fmt: skip
    weight_decay_norm: float = key(
        1.0, "factor of the weight decay of biases and of BatchNorm's parameters",
        check=at_least(0), may_change=True, exact=False,
    )  # fmt: skip
    muon_learning_rate: float = key(
        0.03, "learning rate of Muon; it follows the same schedule",
        check=above_zero(1e3), may_change=True, exact=False,
    )  # fmt: skip
    muon_weight_decay: float = key(
        0.0, "weight decay of the kernels that Muon updates",
        check=at_least(0), may_change=True, exact=False,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class LossRecipe:
    """The training loss (`i21k.train.losses`)."""

    name: Literal["softmax", "sigmoid"] = key(
        "softmax", "cross-entropy of one right class, or of each class by itself"
    )
    smoothing: float = key(0.0, "label smoothing; not in evaluations", check=fraction)
    smooth_to: Literal["all", "near", "ancestors"] = key(
        "all",
        "smooth over all classes, over those near in WordNet, or over sums of ancestors",
    )
    level_decay: float = key(
        0.5, "for near and ancestors: weight of a level of WordNet over the level below it",
        check=above_zero(1),
    )  # fmt: skip
    prior_weight: float = key(
        0.0, "logit adjustment: weight of log class frequencies on the logits in training; 0: none",
        check=at_least(0),
    )  # fmt: skip
    prior_for: str = key(
        "uniform", "class frequencies that the model shall expect: uniform, or those of a split"
    )


@dataclasses.dataclass(frozen=True)
class AugmentRecipe:
    """Changes of training batches on the devices (`i21k.train.augment`)."""

    mixup: float = key(
        0.0, "blend pairs of images, with a share from Beta(value, value); 0: do not",
        check=at_least(0),
    )  # fmt: skip
    cutmix: float = key(
        0.0, "paste boxes of other images, area from Beta(value, value); with mixup: half each",
        check=at_least(0),
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class EmaRecipe:
    """The moving average of the weights (`i21k.train.ema`). Columns such as `val_ema_top1`."""

    decay: float = key(
        0.0, "weight of the old average in each step, such as 0.999; 0: no average", check=fraction
    )
    use: bool = key(
        True, "evaluate, predict with and export the average instead of the last weights",
        may_change=True,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class EvaluationRecipe:
    """What is evaluated, and how often."""

    sets: str = key(
        "val=val", f"sets to evaluate: {SETS_FORM}",
        check=sets_form, may_change=True, may_differ=True,
    )  # fmt: skip
    batch_size: int = key(
        256, "images per evaluation batch, over all devices", check=at_least(1), may_change=True
    )
    every_steps: int = key(
        0, "steps from one evaluation to the next inside an epoch; 0: only at its end",
        check=at_least(0), may_change=True,
    )  # fmt: skip
    image_size: int = key(
        0, "side of the square that the network sees in evaluations, in pixels; 0: as at the end"
        " of training", check=at_least(0), may_change=True,
    )  # fmt: skip
    recalibrate_bn: int | Literal["auto"] = key(
        "auto",
        "compute BatchNorm statistics from N training images first; auto: only after few steps",
        check=images_or_auto, may_change=True,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class LogRecipe:
    """What is written, and how often."""

    every_steps: int = key(
        50,
        "steps per line of the log; at least a line every 30 s",
        check=at_least(1),
        may_change=True,
    )
    keep_checkpoints: int = key(
        2, "checkpoints of epochs to keep; 0: all", check=at_least(0), may_change=True
    )
    keep_best: str = key(
        "val_top1", "also keep the checkpoint with the best value of this column; none: do not",
        may_change=True,
    )  # fmt: skip
    checkpoint_minutes: float = key(
        15.0, "minutes between checkpoints inside an epoch; 0: only at its end",
        check=at_least(0), may_change=True,
    )  # fmt: skip
    profile_steps: str = key(
        "none", "steps to trace with JAX's profiler, such as 100:110; or none",
        check=steps_form, may_change=True,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A whole recipe. `parse` makes one and checks it."""

    init_from: str = key(
        "none", "what to start from: a run, an imported model or a safetensors export; or none",
    )  # fmt: skip
    init_head: Literal["auto", "mapped", "new"] = key(
        "auto",
        "head of `init_from`: by class ids where any are in common, always, or never",
    )
    seed: int = key(0, "seed of initial weights, order and crops", check=seed_range)
    epochs: int = key(
        10, "epochs to train",
        check=at_least(1), may_change=f"optimizer.schedule=constant or {NEW_SCHEDULE}",
    )  # fmt: skip # the shape of a cosine depends on its length
    batch_size: int = key(64, "images per step, over all devices", check=at_least(1))
    accumulate_steps: int = key(
        1, "micro-batches per device and step, to save memory",
        check=at_least(1), may_change=True, exact=False,
    )  # fmt: skip
    devices: int = key(0, "devices of all processes; 0: all", check=at_least(0), may_change=True)
    reduce_dtype: Literal["float32", "bfloat16"] = key(
        "float32", "type in which devices exchange gradients", may_change=True, exact=False
    )
    image_size: int | str = key(
        224, f"side of the square that the network sees, in pixels: {sizes.FORM}",
        check=sizes.sizes_form,
    )  # fmt: skip
    data: DataRecipe = DataRecipe()
    model: ModelRecipe = ModelRecipe()
    optimizer: OptimizerRecipe = OptimizerRecipe()
    loss: LossRecipe = LossRecipe()
    augment: AugmentRecipe = AugmentRecipe()
    ema: EmaRecipe = EmaRecipe()
    evaluation: EvaluationRecipe = EvaluationRecipe()
    log: LogRecipe = LogRecipe()

    @property
    def evaluation_size(self) -> int:
        """Side of the square that the network sees in evaluations, in pixels."""
        return self.evaluation.image_size or sizes.last(self.image_size)


# Keys that have another name now. What a stored recipe or an old recipe file gives is renamed.
RENAMES: dict[str, str] = {}
# Keys of version one, whose recipes stated every key. `_upgrade` maps their values.
_VERSION_ONE = ("data.val_split", "evaluation.second_directory", "evaluation.second_split")


class KeyInfo(NamedTuple):
    """What `launch.py --help` and the documentation show of a key."""

    name: str
    type: str
    default: Any
    help: str
    may_change: bool | str


def describe_keys() -> list[KeyInfo]:
    """Return all keys in the order of the dataclasses."""
    return [
        KeyInfo(
            name,
            _type_text(hint),
            field.default,
            field.metadata["help"],
            field.metadata["may_change"],
        )
        for name, hint, field in _keys()
    ]


def is_renamed(name: str) -> bool:
    """Return whether an earlier version had a key of this name."""
    return name in RENAMES or name in _VERSION_ONE


def markdown_table() -> str:
    """Return the keys as a Markdown table."""
    lines = [
        "| key | type | default | may change on resume | meaning |",
        "| --- | --- | --- | --- | --- |",
    ]
    for info in describe_keys():
        if isinstance(info.may_change, bool):
            change = "yes" if info.may_change else "no"
        else:
            change = f"with {info.may_change}"
        default = f"{info.default:g}" if isinstance(info.default, float) else info.default
        lines.append(f"| `{info.name}` | {info.type} | `{default}` | {change} | {info.help} |")
    return "\n".join(lines) + "\n"


def keys_that_may_change(recipe: Recipe, new_schedule: bool = False) -> set[str]:
    """Return the keys that a resumed run of this recipe may change.

    Args:
        recipe: with which the run resumes.
        new_schedule: whether its schedule starts anew at the step of the checkpoint.
    """
    values = flat(dataclasses.asdict(recipe))

    def holds(condition: str) -> bool:
        if condition == NEW_SCHEDULE:
            return new_schedule
        name, _, value = condition.partition("=")
        return str(values[name]) == value

    def allows(may_change: bool | str) -> bool:
        if isinstance(may_change, bool):
            return may_change
        return any(map(holds, may_change.split(" or ")))

    return {name for name, _, field in _keys() if allows(field.metadata["may_change"])}


def keys_that_may_differ() -> set[str]:
    """Return the keys in which the processes of one run may differ."""
    return {name for name, _, field in _keys() if field.metadata["may_differ"]}


def inexact_keys() -> list[str]:
    """Return the keys whose change on resume gives other bits than an uninterrupted run."""
    return [name for name, _, field in _keys() if not field.metadata["exact"]]


def default_config() -> ConfigDict:
    """Return a recipe that holds every key with its default. Recipe files start from it."""
    config = ConfigDict()
    for name, hint, field in _keys():
        *groups, last = name.split(".")
        group = config
        for part in groups:
            if part not in group:
                group[part] = ConfigDict()
            group = group[part]
        several = len(_kinds(hint)) > 1  # `object` takes values of each type
        group[last] = FieldReference(field.default, field_type=object) if several else field.default
    return config


def complete(config: ConfigDict) -> ConfigDict:
    """Return a locked copy with the defaults of all keys that `config` does not state.

    After that the command line can override any key. Nothing is checked here.
    """
    if not isinstance(config, ConfigDict):
        return config
    whole = default_config()
    kinds = {name: hint for name, hint, _ in _keys()}
    with whole.ignore_type():
        for name, value in _upgrade(flat(config.to_dict())).items():
            *groups, last = name.split(".")
            group = whole
            for part in groups:
                if not isinstance(group.get(part), ConfigDict):
                    group[part] = ConfigDict()
                group = group[part]
            group[last] = float(value) if kinds.get(name) is float and _is_int(value) else value
    return whole.lock()


def parse(config: ConfigDict) -> Recipe:
    """Read and check a recipe. Keys that it does not state have their defaults.

    Raises:
        UserError: naming the key, its value, and what to use instead.
    """
    if not isinstance(config, ConfigDict):
        raise UserError(f"config is {config!r}. Return a ConfigDict from get_config().")
    return _read(_upgrade(flat(config.to_dict())))


def from_stored(stored: Mapping[str, Any]) -> Recipe:
    """Return the recipe of a checkpoint, of whatever version: keys that do not exist any more are
    dropped."""
    known = {name for name, _, _ in _keys()}
    values = stored_values(stored)
    return _read({name: value for name, value in values.items() if name in known})


def to_config(stored: Mapping[str, Any]) -> ConfigDict:
    """Return a stored recipe, of whatever version, in the form in which a file gives one."""
    return complete(ConfigDict(dataclasses.asdict(from_stored(stored))))


def _read(values: Mapping[str, Any]) -> Recipe:
    known = [name for name, _, _ in _keys()]
    for name, value in values.items():
        if any(other.startswith(f"{name}.") for other in known):
            if value == {}:
                continue
            raise UserError(f"config.{name} is {value!r}. Use a group of keys.")
        if name in _VERSION_ONE:
            raise UserError(f"config.{name} does not exist any more. Use config.evaluation.sets.")
        if name not in known:
            near = difflib.get_close_matches(name, known, 1, cutoff=0)[0]
            raise UserError(f"config.{name} is not a key. Did you mean config.{near}?")
    groups: dict[str, dict[str, Any]] = {"": {}}
    for name, hint, field in _keys():
        group, _, last = name.rpartition(".")
        value = _checked(name, hint, values.get(name, field.default), field.metadata["check"])
        groups.setdefault(group, {})[last] = value
    sections = typing.get_type_hints(Recipe)
    top = groups.pop("")
    return Recipe(**top, **{name: sections[name](**group) for name, group in groups.items()})


def stored_values(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the flat recipe of a checkpoint: renamed keys mapped, missing ones filled in."""
    defaults = {name: field.default for name, _, field in _keys()}
    return defaults | _upgrade(flat(stored))


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested dictionaries by dotted name; an empty one is a leaf."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        inner = flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) and value else None
        found |= {prefix + name: value} if inner is None else inner
    return found


def _keys() -> Iterator[tuple[str, Any, dataclasses.Field[Any]]]:
    """Yield dotted name, type and field of each key."""

    def of(kind: type, prefix: str) -> Iterator[tuple[str, Any, dataclasses.Field[Any]]]:
        hints = typing.get_type_hints(kind)
        for field in dataclasses.fields(kind):
            if dataclasses.is_dataclass(hint := hints[field.name]):
                yield from of(typing.cast(type, hint), f"{field.name}.")
            else:
                yield prefix + field.name, hint, field

    yield from of(Recipe, "")


def _upgrade(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values with the names and meanings of today."""
    new = {RENAMES.get(name, name): value for name, value in values.items()}
    if "evaluation.sets" in new or not any(name in new for name in _VERSION_ONE):
        return new
    split, directory, second = (new.pop(name, None) for name in _VERSION_ONE)
    sets = [] if split == "none" else [f"val={split or 'val'}"]
    if directory not in (None, "none"):
        sets.append(f"second={directory}:{second or 'val'}")
    new["evaluation.sets"] = ", ".join(sets) or "none"
    if new.get("model.bn_momentum") == 0:  # meant what "default" means now
        new["model.bn_momentum"] = "default"
    return new


def _checked(name: str, hint: Any, value: Any, check: Check | None) -> Any:
    """Return the value in the type of its key.

    Raises:
        UserError: if it has another type, or `check` refuses it.
    """
    for kind in _kinds(hint):
        if typing.get_origin(kind) is Literal and value in typing.get_args(kind):
            break
        if kind is float and _is_int(value):
            value = float(value)
        if type(value) is kind:
            break
    else:
        raise UserError(f"config.{name} is {value!r}. Use {_type_text(hint)}.")
    if check is not None and (advice := check(value)):
        raise UserError(f"config.{name} is {value!r}. {advice}")
    return value


def _kinds(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the one type."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def _type_text(hint: Any) -> str:
    if len(kinds := _kinds(hint)) > 1:
        return " or ".join(map(_type_text, kinds))
    if typing.get_origin(hint) is Literal:
        return " or ".join(map(repr, typing.get_args(hint)))
    return {int: "an integer", float: "a number", bool: "True or False", str: "text"}[hint]


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
