"""Loss and accuracy of a checkpoint over a split, every picture counted once: what stands behind `i21k evaluate`."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from i21k.data import loader, shards
from i21k.labels import ClassList
from i21k.model import inference
from i21k.model.inception_bn import InceptionBN
from i21k.train import steps
from i21k.train.checkpoint import Checkpoint, Checkpoints
from i21k.train.evaluation import eval_options, evaluate
from i21k.train.recalibration import recalibrate

BATCH_SIZE = 256  # of all devices, chosen here


class Loaded(NamedTuple):
    """A trained network, ready to be applied."""

    checkpoint: Checkpoint
    model: InceptionBN
    variables: dict[str, Any]
    image_size: int  # px, that it was trained at
    crop_fraction: float  # of the short side, that it was evaluated with

    @property
    def classes(self) -> ClassList:
        """The class list its outputs stand for."""
        return self.checkpoint.classes


def load(workdir: str | Path) -> Loaded:
    """Load the newest intact checkpoint of a run, or of an imported model.

    Raises:
        ValueError: if there is none, or all are damaged.
    """
    checkpoint = Checkpoints(Path(workdir) / "checkpoints").newest()
    if checkpoint is None:
        raise ValueError(f"{workdir} holds no checkpoint; expected the working directory of a run, such as runs/quickstart")
    try:
        described = checkpoint.meta["model"]
        model = InceptionBN(num_classes=len(checkpoint.classes), **(described | {"dtype": jnp.dtype(described["dtype"])}))
        variables = {key: checkpoint.tree[key] for key in ("params", "batch_stats")}
        return Loaded(checkpoint, model, variables, **checkpoint.meta["input"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"checkpoint {checkpoint.step} of {workdir} does not describe a network ({error!r}); train it again") from error


def evaluate_checkpoint(
    workdir: str | Path,
    data: str | Path,
    split: str = "val",
    batch_size: int = BATCH_SIZE,
    over: ClassList | None = None,
    recalibrate_bn: int = 0,
) -> dict[str, Any]:
    """Evaluate a run's newest checkpoint on the local devices.

    Args:
        workdir: of the run.
        data: a packed directory, or another TFDS dataset with the same classes.
        split: to evaluate, whole.
        batch_size: over all devices; changes nothing but speed and memory.
        over: rank only these classes, as the note did with the 1,000 of ILSVRC; those the model lacks are passed over.
        recalibrate_bn: pictures of the split `train` of `data` from which BatchNorm's statistics are computed first; 0: as they are.

    Returns:
        `loss` (nats; None where it is infinite, as for a picture whose class is not ranked), `top1`, `top5`, `top20` (fractions),
        `count`, and what was evaluated on what.

    Raises:
        ValueError: if checkpoint or data are missing, or their class lists differ.
    """
    for name, value, least in (("batch_size", batch_size, 1), ("recalibrate_bn", recalibrate_bn, 0)):
        if value < least:
            raise ValueError(f"{name} is {value}; expected at least {least}")
    opened, loaded = shards.open_split(data, split), load(workdir)
    if difference := loaded.classes.difference(opened.classes):
        raise ValueError(f"{data} has another class list than the checkpoint in {workdir}: {difference}; evaluate on data of its classes")
    columns = None if over is None else _columns(loaded.classes, over)
    devices = jax.local_devices()
    model, variables = loaded.model, loaded.variables
    if recalibrate_bn:
        options = loader.LoaderOptions(batch_size, loaded.image_size, crop="plain", crop_fraction=loaded.crop_fraction)
        statistics_step = steps.make_statistics_step(model, devices)
        variables = recalibrate(statistics_step, variables, shards.open_split(data, "train"), options, devices, recalibrate_bn)
    folded = inference.fold(jax.device_get(variables), model.revision)  # the same function without BatchNorm
    eval_step = steps.make_eval_step(inference.folded(model, devices[0].platform), devices, columns)
    options = eval_options(batch_size, loaded.image_size, loaded.crop_fraction, len(devices))
    totals = evaluate(eval_step, steps.put_state(folded, devices), opened, options, devices)
    assert totals is not None
    means: dict[str, float | None] = {**totals.means()}
    if not math.isfinite(totals.loss):
        means["loss"] = None
    return {
        "checkpoint": str(workdir),
        "step": loaded.checkpoint.step,
        "data": str(data),
        "split": split,
        "recalibrated_on": recalibrate_bn,
        "ranked_classes": len(loaded.classes) if columns is None else int(columns.sum()),
        "count": totals.count,
        **means,
    }


def _columns(classes: ClassList, over: ClassList) -> np.ndarray:
    columns = np.array([class_id in over.label_of for class_id in classes.ids])
    if not columns.any():
        raise ValueError(f"none of the {len(over)} classes to rank is one of the model's {len(classes)}; choose another list")
    return columns
