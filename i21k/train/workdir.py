"""The working directory of a run: who holds it, what it was started with, and what may change when it goes on."""

import contextlib
import dataclasses
import fcntl
import importlib.metadata
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from i21k.checkpoints import Checkpoint
from i21k.data.format.splits import Split
from i21k.errors import UserError
from i21k.models.network import Network
from i21k.train import processes
from i21k.train.recipe import Recipe, flat, keys_that_may_change, stored_values
from i21k.trained import Preprocessing

_SHARED_S = 10.0  # until what one machine has written is seen on another
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


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the directory for this process, making it if it is missing.

    Raises:
        ValueError: if it cannot be written, or another run holds it.
    """
    path, was_there = directory / "lock", directory.exists()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    except OSError as error:
        raise UserError(
            f"working directory {directory} cannot be written ({error.strerror}); choose another one with --workdir"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise UserError(
                f"working directory {directory} is held by {holder}; wait for it, or choose another one with --workdir"
            ) from error
        except OSError as error:
            raise UserError(
                f"working directory {directory} cannot be locked ({error.strerror}); choose a --workdir on a file system with flock"
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        os.fsync(file.fileno())  # or another machine of a shared file system sees it much later
        try:
            yield
        finally:
            file.truncate(
                0
            )  # the empty file stays where a run does: removing it would race with the next one
            if not was_there and [p.name for p in directory.iterdir()] == ["lock"]:
                path.unlink()
                directory.rmdir()


@contextlib.contextmanager
def held(directory: Path) -> Iterator[None]:
    """Hold the directory for all processes, of which the first does it and the others see that it is the same directory.

    Raises:
        ValueError: as `locked` does, or if a process sees another directory, or none.
    """
    with locked(directory) if processes.index() == 0 else contextlib.nullcontext():
        lock = directory / "lock"
        first = processes.share("lock", lock.read_text() if processes.index() == 0 else None)
        until = time.monotonic() + _SHARED_S
        while not lock.is_file() or lock.read_text() != first:
            if time.monotonic() > until:
                raise UserError(
                    f"working directory {directory} is not the one that process 0 ({first.strip()}) holds under this name; expected"
                    " a --workdir on a file system that all processes share"
                )
            time.sleep(0.2)
        yield


def write_config(directory: Path, cfg: Recipe) -> None:
    """Write `config.json`, whole or not at all."""
    temporary = directory / "config.json.tmp"
    temporary.write_text(json.dumps(dataclasses.asdict(cfg), indent=2) + "\n")
    temporary.replace(directory / "config.json")


def check_checkpoint(
    directory: Path, checkpoint: Checkpoint, cfg: Recipe, split: Split, num_steps: int
) -> None:
    """Refuse to go on with another recipe or other data than the checkpoint's; the place where the data lies does not matter.

    Raises:
        ValueError: naming each difference, with both values.
    """
    if "data" not in checkpoint.meta:
        raise UserError(
            "the working directory holds an imported model, not a run to go on with; choose another --workdir"
        )
    before, now = stored_values(checkpoint.meta["config"]), flat(dataclasses.asdict(cfg))
    fixed = now.keys() - keys_that_may_change(cfg)
    different = [key for key in sorted(fixed) if before[key] != now[key]]
    if different:
        changes = "; ".join(
            f"config.{key} was {before[key]!r} and is {now[key]!r}" for key in different
        )
        raise UserError(
            f"{directory} was started with another recipe: {changes}; go on with the old values, or choose another --workdir"
        )
    if difference := checkpoint.classes.difference(split.classes):
        raise UserError(
            f"{split.directory} has another class list than the checkpoint: {difference}; use the data it was trained on"
        )
    data = checkpoint.meta["data"]
    if data["fingerprint"] != split.fingerprint:
        raise UserError(
            f"{split.directory} holds other pictures than the checkpoint was trained on: it had {data['num_records']:,} records of"
            f" fingerprint {data['fingerprint'][:12]}, this has {split.num_records:,} of {split.fingerprint[:12]}; use the old data, or"
            " choose another --workdir"
        )
    if checkpoint.step > num_steps:
        raise UserError(
            f"the checkpoint is of step {checkpoint.step:,}, beyond the {num_steps:,} of this recipe; set more config.epochs"
        )


def meta(
    cfg: Recipe, model: Network, split: Split, devices: Sequence[jax.Device]
) -> dict[str, Any]:
    """Return what stands beside the arrays in every checkpoint of a run."""
    return {
        "config": dataclasses.asdict(cfg),
        "model": model.describe(),
        "preprocessing": Preprocessing.from_split(
            split, cfg.image_size, cfg.data.crop_fraction
        ).to_json(),
        "classes": list(split.classes.ids),
        "classes_hash": split.classes.hash,
        "data": {
            "fingerprint": split.fingerprint,
            "num_records": split.num_records,
            "split": split.split,
        },
        "devices": device_facts(devices),
        "versions": versions(),
    }


def device_facts(devices: Sequence[jax.Device]) -> dict[str, Any]:
    """Return number and kind of the devices."""
    return {"count": len(devices), "kind": devices[0].device_kind}


def versions() -> dict[str, str]:
    """Return the versions of the packages that shape a result, and the commit if this is a checkout."""
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
