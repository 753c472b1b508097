"""Loss and accuracy of a checkpoint over a split, every picture counted once: what stands behind `i21k evaluate`."""

from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from i21k.data import shards
from i21k.train import steps
from i21k.train.checkpoint import Checkpoint, Checkpoints
from i21k.train.config import parse
from i21k.train.evaluation import eval_options, evaluate


def load_checkpoint(workdir: str | Path) -> Checkpoint:
    """Restore the newest intact checkpoint of a run.

    Raises:
        ValueError: if there is none, or all are damaged.
    """
    workdir = Path(workdir)
    checkpoint = Checkpoints(workdir / "checkpoints").newest()
    if checkpoint is None:
        raise ValueError(f"{workdir} holds no checkpoint; expected the working directory of a run, such as runs/quickstart")
    return checkpoint


def evaluate_checkpoint(workdir: str | Path, data: str | Path, split: str = "val", batch_size: int = 0) -> dict[str, Any]:
    """Evaluate a run's newest checkpoint on the local devices.

    Args:
        workdir: of the run.
        data: a packed directory, or another TFDS dataset with the same classes.
        split: to evaluate, whole.
        batch_size: over all devices, changes nothing but speed and memory; 0: the recipe's.

    Returns:
        `loss` (nats), `top1`, `top5`, `top20` (fractions), `count`, and what was evaluated on what.

    Raises:
        ValueError: if checkpoint or data are missing, or their class lists differ.
    """
    opened = shards.open_split(data, split)
    checkpoint = load_checkpoint(workdir)
    if difference := checkpoint.classes.difference(opened.classes):
        raise ValueError(f"{data} has another class list than the checkpoint in {workdir}: {difference}; evaluate on data of its classes")
    values = ConfigDict(checkpoint.meta["config"])
    if batch_size:
        values.evaluation.batch_size = batch_size
    cfg = parse(values)
    devices = jax.local_devices()
    eval_step = steps.make_eval_step(steps.make_model(cfg.model, len(checkpoint.classes)), devices)
    variables = {key: checkpoint.tree[key] for key in ("params", "batch_stats")}
    totals = evaluate(eval_step, steps.put_state(variables, devices), opened, eval_options(cfg, len(devices)), devices)
    assert totals is not None
    return {
        "checkpoint": str(workdir),
        "step": checkpoint.step,
        "data": str(data),
        "split": split,
        "count": totals.count,
        **totals.means(),
    }
