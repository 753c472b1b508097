"""Evaluate a trained model on a dataset split. Every image is counted exactly once."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from i21k import log
from i21k.checkpoints import Which
from i21k.data.format.readers import all_records, labels_in
from i21k.data.format.records import labels_of
from i21k.data.format.splits import Split, open_split, split_names
from i21k.data.load import loader
from i21k.errors import UserError
from i21k.evaluation import priors
from i21k.evaluation.predictions import PredictionFile
from i21k.evaluation.real import read_real, right_by_real
from i21k.evaluation.scores import Scores
from i21k.labels import ClassList
from i21k.train import feed, steps
from i21k.train.devices import put_state
from i21k.train.passes import log_probabilities
from i21k.train.recalibration import AUTO_IMAGES, few_steps, recalibrate
from i21k.train.recipe import from_stored
from i21k.trained import CheckpointModel, TrainedModel, load_if_path
from i21k.wordnet.class_lists import named

BATCH_SIZE = 256  # of all devices, our choice


class Evaluation(NamedTuple):
    """What was evaluated on which data, and the resulting sums."""

    about: dict[str, Any]
    scores: Scores
    sizes: np.ndarray | None  # of the model's classes in training, or numbers in their order

    def summary(self) -> dict[str, Any]:
        """Return all numbers but those of single classes, ready for JSON."""
        return self.about | self.scores.summary(self.sizes)


def evaluate_checkpoint(
    model: str | Path | TrainedModel,
    data: str | Path,
    split: str = "val",
    batch_size: int = BATCH_SIZE,
    over: ClassList | None = None,
    recalibrate_bn: int = 0,
    flip: bool = False,
    real: str | Path | None = None,
    sizes_of: str | None = None,
    step: Which = "last",
    predictions: str | Path | None = None,
    generality: float | None = None,
    prior: str | Path | None = None,
    tau: float = 1.0,
    recalibrate_data: str | Path | None = None,
) -> Evaluation:
    """Evaluate a model; classes are matched by their ids. A checkpoint uses all local devices.

    Args:
        model: the working directory of a run, an ONNX file, or what `i21k.trained.load` returned.
        data: a packed directory, or another TFDS dataset of labelled images.
        split: its name. The whole split is evaluated.
        batch_size: over all devices; changes only speed and memory.
        over: a subset of classes to rank too, such as the 1,000 of ILSVRC. Those that the model
            lacks are ignored. By default the data's classes, where they are not the model's.
        recalibrate_bn: compute BatchNorm's statistics first, from at least this many images of the
            split `train` of `recalibrate_data`; 0: use those of the checkpoint.
        flip: average the probabilities of each image and its mirror image.
        real: JSON file of the ReaL labels of ILSVRC's validation set, see `read_real`.
        sizes_of: split of `data` whose labels are counted, to tell large classes from small ones.
            By default they are the class counts in the checkpoint. Without them a model with all
            classes of fall11 takes their order of 2015 (`released2015`), and others have no sizes.
        step: which checkpoint of the run, as for `i21k.trained.load`.
        predictions: file for the best answers to each image, see `PredictionFile`.
        generality: of the hedged answer in that file, see `i21k.wordnet.hedge`; None: it is empty.
        prior: the class frequencies to expect, as for `i21k.evaluation.priors.offsets_of`.
        tau: strength of the correction for them.
        recalibrate_data: dataset for `recalibrate_bn`; by default `data`.

    Raises:
        UserError: if checkpoint or data are missing, they have no class in common, or a number or
            file is wrong.
    """
    for name, value, least in (
        ("batch_size", batch_size, 1),
        ("recalibrate_bn", recalibrate_bn, 0),
    ):
        if value < least:
            raise UserError(f"{name} is {value}. Use at least {least}.")
    opened = open_split(data, split)
    loaded = load_if_path(model, step)
    if over is None and set(loaded.classes.ids) != set(opened.classes.ids):
        over = opened.classes
    if not opened.num_records:
        raise UserError(
            f"split {split!r} of {data} has no images; choose another one of "
            f"{', '.join(split_names(data))}"
        )
    scores = Scores(loaded.classes, opened.classes, over)
    right_of = None if real is None else right_by_real(read_real(real), opened)
    all_labels = list(map(labels_of, all_records(opened))) if opened.has_labels else None
    sizes, sizes_from = _sizes(loaded, open_split(data, sizes_of) if sizes_of else None)
    offsets = priors.offsets_of(loaded, prior, tau, data)
    table = (
        PredictionFile(Path(predictions), loaded.classes, opened, generality)
        if predictions
        else None
    )
    if isinstance(loaded, CheckpointModel):
        train = open_split(recalibrate_data or data, "train") if recalibrate_bn else None
        found, recalibrated_on = _on_devices(
            loaded, opened, batch_size, train, recalibrate_bn, flip
        )
    elif recalibrate_bn:
        raise UserError(
            f"{loaded.origin.path} is not a checkpoint of i21k, so its BatchNorm cannot be"
            " recalibrated. Omit --recalibrate-bn."
        )
    else:
        found, recalibrated_on = _on_host(loaded, opened, batch_size, flip), 0
    with table or contextlib.nullcontext(), log.progress("evaluate", opened.num_records) as bar:
        for log_probabilities, labels in found:
            these = slice(scores.count, scores.count + len(labels))
            log_probabilities = priors.adjusted(log_probabilities, offsets)
            ranks = scores.add(
                log_probabilities,
                labels,
                None if right_of is None else right_of[these],
                None if all_labels is None else all_labels[these],
            )
            if table is not None:
                table.add(log_probabilities, labels, ranks)
            bar.advance(len(labels))
    about = {
        "checkpoint": loaded.origin.path,
        "step": loaded.origin.step,
        "digest": loaded.origin.digest,
        "data": str(data),
        "split": split,
        "fingerprint": opened.fingerprint,
        "recalibrated_on": recalibrated_on,
        "tta": "flip" if flip else "none",
        "real": None if real is None else str(real),
        "sizes_of": sizes_of or sizes_from,
        "prior": None if prior is None else str(prior),
        "tau": None if offsets is None else tau,
    }
    return Evaluation(about, scores, sizes)


_Batches = Iterator[tuple[np.ndarray, np.ndarray]]  # log-probabilities [b, K] and labels [b]


def _on_devices(
    loaded: CheckpointModel,
    opened: Split,
    batch_size: int,
    train: Split | None,
    recalibrate_bn: int,
    flip: bool,
) -> tuple[_Batches, int]:
    """Return the batches of a checkpoint on all local devices, and on how many images it was
    recalibrated."""
    devices = jax.local_devices()
    network, variables = loaded.network, loaded.variables
    recalibrated_on = 0
    if train is not None:
        if not _all_adapt(loaded):
            raise UserError(
                f"{loaded.origin.path} was trained with frozen BatchNorm statistics, which must"
                " stay. Omit --recalibrate-bn."
            )
        options = _recalibration_options(loaded, batch_size)
        recalibrated_on = whole_batches(recalibrate_bn, options.batch_size, len(devices))
        variables = recalibrate(
            steps.make_statistics_step(network, devices),
            variables,
            train,
            options,
            devices,
            recalibrate_bn,
            network.moments,
        )
    elif 0 < loaded.checkpoint.step < (few := few_steps(network.momentum)) and _all_adapt(loaded):
        log.warning(
            f"the checkpoint is of step {loaded.checkpoint.step:,}. Its moving averages of"
            f" BatchNorm need about {few:,} steps; until then"
            f" --recalibrate-bn {AUTO_IMAGES} is more accurate."
        )
    faster, convert = network.for_inference(devices[0].platform)
    folded = convert(jax.device_get(variables))
    step = steps.make_log_probabilities_step(faster, devices, flip, loaded.probability)
    options = loader.eval_options(batch_size, loaded.image_size, loaded.crop_fraction, len(devices))
    found = log_probabilities(step, put_state(folded, devices), opened, options, devices)
    return found, recalibrated_on


def _on_host(model: TrainedModel, opened: Split, batch_size: int, flip: bool) -> _Batches:
    """Yield the batches of any other trained model."""
    contract = model.preprocessing
    options = loader.eval_options(batch_size, contract.image_size, contract.crop_fraction)
    with loader.batches(opened, options) as batches, np.errstate(divide="ignore"):
        for batch in batches:
            real = batch.weights > 0
            images = batch.images[real]
            found = model.probabilities(images)
            if flip:
                found = (found + model.probabilities(np.ascontiguousarray(images[:, :, ::-1]))) / 2
            yield np.log(found), batch.labels[real]


def _recalibration_options(loaded: CheckpointModel, batch_size: int) -> loader.LoaderOptions:
    """Return what the run itself uses. An imported model has no run: it gets plain crops."""
    if (config := loaded.checkpoint.meta.get("config")) is not None:
        return feed.recalibration_options(from_stored(config))
    return loader.LoaderOptions(
        batch_size, loaded.image_size, crop="plain", crop_fraction=loaded.crop_fraction
    )


def _sizes(model: TrainedModel, counted: Split | None) -> tuple[np.ndarray | None, str | None]:
    """Return the sizes of a model's classes in training, and where they are from."""
    classes = model.classes
    if counted is not None:
        known = np.array(
            [classes.label_of.get(class_id, len(classes)) for class_id in counted.classes.ids]
        )
        return np.bincount(known[list(labels_in(counted))], minlength=len(classes) + 1)[:-1], None
    if model.class_counts is not None:
        return model.class_counts, "train"
    order = named("released2015")
    if not set(order.ids) <= set(classes.ids):
        return None, None
    sizes = np.array([-order.label_of.get(class_id, len(order)) for class_id in classes.ids])
    return sizes, "released2015"


def whole_batches(num_images: int, batch_size: int, num_devices: int) -> int:
    """Return how many images whole batches of all devices hold where `num_images` are wanted."""
    per_batch = -(-batch_size // num_devices) * num_devices
    return -(-num_images // per_batch) * per_batch


def _all_adapt(model: CheckpointModel) -> bool:
    """Return whether all moving averages of a model changed in training."""
    if "config" not in model.checkpoint.meta:
        return True
    own = from_stored(model.checkpoint.meta["config"]).model
    return own.freeze == "none" and not own.freeze_bn
