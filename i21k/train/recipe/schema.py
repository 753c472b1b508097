"""The keys of a recipe: defaults, types, checks, help. All else about a key follows from here.

To add a key, add one field with `key(...)`. Runs that were started before resume with its default.
"""

import dataclasses
from typing import Literal

from i21k.train import sizes
from i21k.train.recipe.declare import (
    NEW_SCHEDULE,
    above_zero,
    at_least,
    between,
    fraction,
    images_or_auto,
    key,
    momentum_range,
    seed_range,
)
from i21k.train.recipe.forms import SETS_FORM, sets_form, steps_form


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
        check=between(0, 1024), may_change=True, may_differ=True,
    )  # fmt: skip
    workers: int = key(
        -1, "processes that build batches instead of threads; 0: none; -1: for many images",
        check=between(-1, 1024), may_change=True, may_differ=True,
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
        " of training", check=between(0, sizes.MOST_PX), may_change=True,
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
