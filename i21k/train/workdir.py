"""The working directory of a run: its lock, its recipe, and the check before it is resumed."""

import contextlib
import dataclasses
import importlib.metadata
import json
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from i21k import files
from i21k.checkpoints import Checkpoint
from i21k.data.format.class_counts import stored_counts
from i21k.data.format.splits import Split
from i21k.errors import UserError
from i21k.models.network import Network
from i21k.train import processes
from i21k.train.history import Parent
from i21k.train.losses import make_loss
from i21k.train.recipe import Recipe, flat, keys_that_may_change, stored_values
from i21k.train.sizes import read_sizes
from i21k.trained import Preprocessing

_SHARED_S = 10.0  # our choice: until one machine sees what another one has written
PACKAGES = (
    "i21k",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "array-record",
    "tensorflow-datasets",
    "numpy",
)


def locked(directory: Path) -> contextlib.AbstractContextManager[None]:
    """Hold the working directory for this process; make it if it is missing.

    Raises:
        UserError: if it cannot be written or locked, or another run holds it.
    """
    return files.locked(directory, "working directory", "--workdir")


@contextlib.contextmanager
def held(directory: Path) -> Iterator[None]:
    """Hold the directory for all processes: the first locks it, the others check that they see it.

    Raises:
        UserError: as `locked` does, or if a process sees another directory, or none.
    """
    with locked(directory) if processes.index() == 0 else contextlib.nullcontext():
        lock = directory / "lock"
        first = processes.share("lock", lock.read_text() if processes.index() == 0 else None)
        until = time.monotonic() + _SHARED_S
        while not lock.is_file() or lock.read_text() != first:
            if time.monotonic() > until:
                raise UserError(
                    f"working directory {directory} is not the one that process 0"
                    f" ({first.strip()}) holds under this name. Use a --workdir on a file system"
                    " that all processes share."
                )
            time.sleep(0.2)
        yield


def write_config(directory: Path, cfg: Recipe) -> None:
    """Write `config.json`."""
    with files.replaced(directory / "config.json") as temporary:
        temporary.write_text(json.dumps(dataclasses.asdict(cfg), indent=2) + "\n")


def check_checkpoint(
    directory: Path, checkpoint: Checkpoint, cfg: Recipe, split: Split, num_steps: int
) -> None:
    """Refuse to resume with another recipe or other data than the checkpoint's.

    The directory of the data may be another one.

    Raises:
        UserError: naming each difference, with both values.
    """
    check_is_run(directory, checkpoint)
    _check_recipe(directory, checkpoint, cfg)
    if difference := checkpoint.classes.difference(split.classes):
        raise UserError(
            f"{split.directory} has another class list than the checkpoint: {difference}. Use the"
            " data that it was trained on."
        )
    data = checkpoint.meta["data"]
    if data["fingerprint"] != split.fingerprint:
        raise UserError(
            f"{split.directory} holds other images than the checkpoint was trained on: it had"
            f" {data['num_records']:,} records of fingerprint {data['fingerprint'][:12]}, this has"
            f" {split.num_records:,} of {split.fingerprint[:12]}. Use the old data, or choose"
            " another --workdir."
        )
    if checkpoint.step > num_steps:
        raise UserError(
            f"the checkpoint is of step {checkpoint.step:,} and this recipe ends at step"
            f" {num_steps:,}. Increase config.epochs."
        )


def check_is_run(directory: Path, checkpoint: Checkpoint) -> None:
    """Refuse an imported model, which has no state of an optimizer.

    Raises:
        UserError: saying so.
    """
    if "data" not in checkpoint.meta:
        raise UserError(
            f"{directory} holds an imported model, which is not a run to resume. Choose another"
            " --workdir."
        )


def changes_since(checkpoint: Checkpoint, cfg: Recipe) -> dict[str, tuple[Any, Any]]:
    """Return old and new value of each key that differs from the recipe of a checkpoint."""
    before, now = stored_values(checkpoint.meta["config"]), flat(dataclasses.asdict(cfg))
    return {key: (before[key], now[key]) for key in sorted(now) if before[key] != now[key]}


def _check_recipe(directory: Path, checkpoint: Checkpoint, cfg: Recipe) -> None:
    changes, from_step = changes_since(checkpoint, cfg), cfg.optimizer.schedule_from_step
    new_schedule = "optimizer.schedule_from_step" in changes and from_step == checkpoint.step
    refused = changes.keys() - keys_that_may_change(cfg, new_schedule)
    has_stages = len(read_sizes(cfg.image_size)) > 1  # by fraction of the run
    if has_stages and "epochs" in changes:
        refused |= {"epochs"}
    if not refused:
        return
    differences = "; ".join(
        f"config.{key} was {changes[key][0]!r} and is {changes[key][1]!r}"
        for key in sorted(refused)
    )
    ways = f"To continue it with its own recipe, use --resume {directory}."
    may_change = keys_that_may_change(cfg, new_schedule=True) - (
        {"epochs"} if has_stages else set()
    )
    if not refused - may_change:
        ways += (
            " To start a new schedule at the step of its checkpoint, add"
            f" --config.optimizer.schedule_from_step={checkpoint.step}."
        )
    ways += (
        " To train with the new values from its checkpoint, use"
        f" --branch-from {directory}@{checkpoint.step} and another --workdir."
    )
    raise UserError(f"{directory} was started with another recipe: {differences}. {ways}")


def check_branch(parent: Path, checkpoint: Checkpoint, split: Split, num_steps: int) -> None:
    """Refuse to start from a checkpoint that this recipe and data cannot continue.

    Raises:
        UserError: if it is of an imported model, of other classes, or behind the last step.
    """
    check_is_run(parent, checkpoint)
    if difference := checkpoint.classes.difference(split.classes):
        raise UserError(
            f"{split.directory} has another class list than the checkpoint of {parent}:"
            f" {difference}. Branch to data of the same classes."
        )
    if checkpoint.step >= num_steps:
        raise UserError(
            f"the checkpoint of {parent} is of step {checkpoint.step:,} and this recipe ends at"
            f" step {num_steps:,}. Increase config.epochs."
        )


def check_same_branch(directory: Path, checkpoint: Checkpoint, parent: Parent) -> None:
    """Refuse a working directory that has branched from something else, or from nothing.

    Raises:
        UserError: saying what to do instead.
    """
    before = checkpoint.meta.get("parent") or {}
    same_step = parent.which in (before.get("step"), "last", "best")
    if before.get("workdir") != str(parent.directory.resolve()) or not same_step:
        raise UserError(
            f"{directory} holds another run already. Use --resume {directory} to continue it, or"
            " choose another --workdir for the branch."
        )


def meta(
    cfg: Recipe, model: Network, split: Split, devices: Sequence[jax.Device]
) -> dict[str, Any]:
    """Return what every checkpoint of a run stores beside the arrays."""
    counts = stored_counts(split)
    return {
        "config": dataclasses.asdict(cfg),
        "model": model.describe(),
        "weights": "average" if cfg.ema.use and cfg.ema.decay else "last",
        "probability": make_loss(cfg.loss.name).probability,
        "preprocessing": Preprocessing.from_split(
            split, cfg.evaluation_size, cfg.data.crop_fraction
        ).to_json(),
        "classes": list(split.classes.ids),
        "classes_hash": split.classes.hash,
        "class_counts": None if counts is None else counts.tolist(),
        "data": {
            "fingerprint": split.fingerprint,
            "num_records": split.num_records,
            "split": split.split,
        },
        "devices": device_facts(devices),
        "versions": versions(),
    }


def facts(meta: Mapping[str, Any], split: Split) -> dict[str, Any]:
    """Return what `run.json` says of a start beside the command: versions, devices and data."""
    commit = meta["versions"].get("commit", "")
    return {
        "versions": meta["versions"],
        "commit": commit.removesuffix("-dirty") or None,
        "dirty": commit.endswith("-dirty"),
        "devices": meta["devices"],
        "processes": jax.process_count(),
        "data": {"directory": str(split.directory), **meta["data"]},
    }


def device_facts(devices: Sequence[jax.Device]) -> dict[str, Any]:
    """Return number and kind of the devices."""
    return {"count": len(devices), "kind": devices[0].device_kind}


def versions() -> dict[str, str]:
    """Return the versions of the packages that affect a result, and the commit of a checkout."""
    found = {package: importlib.metadata.version(package) for package in PACKAGES}
    git = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--dirty",
        "--exclude=*",
    ]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        found["commit"] = subprocess.run(
            git, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    return found
