"""The checkpoints of a working directory: the only use of Orbax.

Saves are synchronous, because an asynchronous save hides a full disk and loses the next one too.
A checkpoint is removed by renaming it first, so that a reader beside the run finds it whole or not
at all.
"""

import contextlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util

from i21k import files, log
from i21k.checkpoints.checkpoint import Checkpoint, flatten
from i21k.checkpoints.integrity import (
    FORMAT,
    INVENTORY,
    SUSPICIOUS,
    DamagedError,
    digest,
    digest_of_meta,
    digests_of_files,
    find_damage,
    read_meta,
)
from i21k.errors import UserError

_BEST = "best.json"  # beside the checkpoints: the step of the best one, and by which metric
_REMOVED = ".deleted"  # how the names of checkpoints end that are being removed
_MAX_STEP = 2**63  # a larger number in a file is damage
_LATE_S = 0.5  # our choice: how long files may still come after a save has failed
_MAX_READS = 100  # our choice: a reader that a run outpaces more often has another problem
Which = int | Literal["last", "best"]  # the checkpoint of a step, the newest intact one, the best


class _GoneError(Exception):
    """A checkpoint was there, and a run has removed it since."""


class NotFiniteError(UserError):
    """A state with infinities or NaN; `path` is the first array that has any."""

    def __init__(self, path: str, step: int) -> None:
        super().__init__(
            f"{path} is not finite at step {step}. It is not saved; earlier checkpoints stay."
        )
        self.path = path


class Checkpoints:
    """The checkpoints of a working directory, by step."""

    def __init__(self, directory: Path, keep: int = 0) -> None:
        """Open the directory.

        Args:
            directory: made if it is missing, by the first save.
            keep: checkpoints of finished epochs to keep, the newest; 0: all. The one that
                `mark_best` has named is kept too.
        """
        self._directory, self._keep = directory.resolve(), keep

    @contextlib.contextmanager
    def _orbax(self, step: int) -> Iterator[tuple[ocp.Checkpointer, Path]]:
        """Give what reads and writes one checkpoint, and the checkpoint's path for it.

        Orbax's `CheckpointManager` reads the metadata of all checkpoints. A damaged one would make
        all others unreadable.
        """
        me = jax.process_index()
        alone = ocp.options.MultiprocessingOptions(primary_host=me, active_processes={me})
        options = ocp.CompositeOptions(multiprocessing_options=alone)
        handler = ocp.CompositeCheckpointHandler(composite_options=options)
        with (
            files.plainly_named(self._directory) as directory,
            ocp.Checkpointer(handler, multiprocessing_options=alone) as checkpointer,
        ):
            yield checkpointer, directory / str(step)

    def steps(self) -> list[int]:
        """Return the steps there are, oldest first; a save that was cut off does not count."""
        if not self._directory.is_dir():
            return []
        return sorted(int(p.name) for p in self._directory.iterdir() if p.name.isdigit())

    def save(self, step: int, tree: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
        """Write a checkpoint and wait until it is complete; then remove those that are not kept.

        Args:
            step: number of the step; checkpoints of it and of later steps are renamed first. They
                were damaged, or belong to a run that was rolled back.
            tree: nested dict of arrays.
            meta: JSON; `epoch_done` (bool) is true for the checkpoint of a finished epoch.

        Raises:
            NotFiniteError: if an array is not finite; such a state is never saved.
            OSError: if the disk is full, or Orbax has skipped the save.
        """
        arrays = flatten(jax.device_get(tree))
        for path, array in arrays.items():
            if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
                raise NotFiniteError(path, step)
        self._put_aside(step)
        self.check_room(sum(array.nbytes for array in arrays.values()))
        meta = {
            "format": FORMAT,
            "step": step,
            **meta,
            "digests": {path: digest(array) for path, array in arrays.items()},
        }
        meta["meta_digest"] = digest_of_meta(meta)
        args = ocp.args.Composite(
            state=ocp.args.PyTreeSave(traverse_util.unflatten_dict(arrays, sep="/")),
            meta=ocp.args.JsonSave(meta),
        )
        self._remove_unfinished()  # of a run that was killed
        try:
            with self._orbax(step) as (checkpointer, place):
                checkpointer.save(place, args=args)
        except BaseException:
            self._remove_unfinished(_LATE_S)  # of this save
            raise
        if step not in self.steps():
            self._remove_unfinished()
            raise OSError(f"the checkpoint of step {step} was not written to {self._directory}")
        directory = self._directory / str(step)
        files.write_text(directory / INVENTORY, json.dumps(digests_of_files(directory)))
        for old in self._superfluous(step, bool(meta["epoch_done"])):
            self._rename(old, _REMOVED)
        for removed in self._directory.glob(f"*{_REMOVED}"):  # also of a run that was killed
            shutil.rmtree(removed)

    def _remove_unfinished(self, late_s: float = 0.0) -> None:
        """Remove what saves have not finished. Never raise: the error of a save says more.

        Args:
            late_s: how long to go on, in seconds. After a save has failed, Orbax's threads may
                still write other files of it for a moment.
        """
        until = time.monotonic() + late_s
        while True:
            for unfinished in self._directory.glob(f"*{ocp.utils.TMP_DIR_SUFFIX}*"):
                shutil.rmtree(unfinished, ignore_errors=True)
            if time.monotonic() >= until:
                return
            time.sleep(0.05)

    def _superfluous(self, newest: int, epoch_done: bool) -> list[int]:
        """Return the steps to delete: those saved inside an epoch, and the oldest epochs."""
        epochs: list[int] = []
        superfluous: list[int] = []
        for step in self.steps():
            done = epoch_done if step == newest else self._meta(step).get("epoch_done", False)
            (epochs if done else superfluous).append(step)
        if self._keep:
            superfluous += epochs[: -self._keep]
        return [step for step in superfluous if step not in (newest, self.best_step())]

    def mark_best(self, step: int, metric: str, value: float) -> None:
        """Name the checkpoint that is the best so far. Saves do not delete it."""
        files.write_text(
            self._directory / _BEST,
            json.dumps({"step": step, "metric": metric, "value": value}) + "\n",
        )

    def forget_best(self) -> None:
        """Let saves delete the checkpoint that was the best."""
        (self._directory / _BEST).unlink(missing_ok=True)

    def best_step(self) -> int | None:
        """Return the step that `mark_best` has named last; None if there is none."""
        try:
            step = files.parse_json((self._directory / _BEST).read_bytes())["step"]
        except (OSError, ValueError, KeyError, TypeError):  # damaged: a run writes it again
            return None
        return step if isinstance(step, int) and 0 <= step < _MAX_STEP else None

    def check_room(self, num_bytes: int) -> None:
        """Make the directory; raise an `OSError` if the disk has no room for a checkpoint."""
        self._directory.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self._directory).free
        if free < 1.1 * num_bytes:
            raise OSError(
                f"{self._directory} has {free / 2**20:.0f} MiB free, a checkpoint needs"
                f" {num_bytes / 2**20:.0f} MiB. Make room, or keep fewer checkpoints with"
                " --config.log.keep_checkpoints=2."
            )

    def _put_aside(self, step: int) -> None:
        """Rename the checkpoints from `step` on, so that they are not restored again."""
        for newer in (s for s in self.steps() if s >= step):
            self._rename(newer, ".aside")

    def _rename(self, step: int, suffix: str) -> None:
        target = self._directory / f"{step}{suffix}"
        shutil.rmtree(target, ignore_errors=True)
        (self._directory / str(step)).rename(target)

    def find(self, which: Which) -> Checkpoint | None:
        """Restore the newest intact checkpoint, the best one, or that of a step.

        A run may write and remove checkpoints in the meantime.

        Raises:
            UserError: if there is no such checkpoint, or it is damaged.
        """
        if which == "last":
            return self.newest()
        for _ in range(_MAX_READS):
            step = self.best_step() if which == "best" else which
            if step is None:
                raise UserError(
                    f"no checkpoint in {self._directory} is marked as the best. Train with"
                    " --config.log.keep_best=val_top1, or give a step."
                )
            try:
                return self._restore(step)
            except DamagedError as error:
                raise UserError(
                    f"checkpoint {self._directory / str(step)} is damaged ({error}). Give"
                    f" {self._steps_text(step)}."
                ) from error
            except _GoneError:
                if which != "best" or step == self.best_step():
                    break
        raise UserError(
            f"{self._directory} has no checkpoint of step {step}. Give {self._steps_text()}."
        )

    def _steps_text(self, damaged: int | None = None) -> str:
        steps = ", ".join(str(step) for step in self.steps() if step != damaged)
        return f"another step ({steps}) or 'last'" if steps else "another directory"

    def newest(self) -> Checkpoint | None:
        """Restore the newest intact checkpoint and warn of damaged ones; None if there is none.

        A run may write and remove checkpoints in the meantime.

        Raises:
            UserError: if there are checkpoints and all are damaged.
            FormatError: if the newest was written by a version of i21k with another format.
        """
        for _ in range(_MAX_READS - 1):
            try:
                return self._newest()
            except _GoneError:  # the one that has replaced it is there already
                continue
        return self._newest()

    def _newest(self) -> Checkpoint | None:
        faults = []
        for step in reversed(self.steps()):
            try:
                return self._restore(step)
            except DamagedError as error:
                faults.append(f"step {step}: {error}")
                log.warning(
                    f"checkpoint {self._directory / str(step)} is damaged ({error}). It is skipped."
                )
        if faults:
            raise UserError(
                f"no intact checkpoint in {self._directory}: {'; '.join(faults)}."
                " Move the directory away to start from the beginning."
            )
        return None

    def same(self, step: int, meta_digest: str) -> Checkpoint:
        """Restore the checkpoint that another process has chosen as the newest.

        Args:
            step: the step of that checkpoint.
            meta_digest: its `meta["meta_digest"]`.

        Raises:
            UserError: if this process finds no such checkpoint, a damaged one or another one.
        """
        try:
            checkpoint, fault = self._restore(step), "it is another one"
        except DamagedError as error:
            checkpoint, fault = None, str(error)
        except _GoneError:
            checkpoint, fault = None, "there is none"
        if checkpoint is None or checkpoint.meta["meta_digest"] != meta_digest:
            raise UserError(
                f"checkpoint {self._directory / str(step)} is not the one that process 0 reads"
                f" ({fault}). Use a --workdir on a file system that all processes share."
            )
        return checkpoint

    def _meta(self, step: int) -> dict[str, Any]:
        try:
            meta = files.parse_json((self._directory / str(step) / "meta/metadata").read_bytes())
        except (OSError, ValueError):
            return {}
        return meta if isinstance(meta, dict) else {}

    def _restore(self, step: int) -> Checkpoint:
        """Restore a checkpoint and compare it with its digests.

        Raises:
            DamagedError: if the bytes on disk are not those that were saved. Other errors keep
                their type: a disk that does not answer, too little memory, a bug.
            _GoneError: if it is not there, or was removed while it was read.
        """
        directory = self._directory / str(step)
        try:
            return self._read(step, directory)
        except (DamagedError, OSError, *SUSPICIOUS) as error:
            if not directory.exists():
                raise _GoneError from error
            raise

    def _read(self, step: int, directory: Path) -> Checkpoint:
        meta = read_meta(directory)
        if meta.get("step", step) != step:
            raise DamagedError(f"it is the checkpoint of step {meta['step']}")
        try:
            with self._orbax(step) as (checkpointer, place):
                # What was saved as NumPy arrays comes back as NumPy arrays, on any machine.
                args = ocp.args.Composite(state=ocp.args.PyTreeRestore())
                tree = checkpointer.restore(place, args=args)["state"]
        except SUSPICIOUS as error:
            if (fault := find_damage(directory, meta, error)) is None:
                raise
            raise DamagedError(fault) from error
        found = {path: digest(array) for path, array in flatten(tree).items()}
        for path in sorted(set(found) | set(meta["digests"])):
            if found.get(path) != meta["digests"].get(path):
                raise DamagedError(f"the SHA-256 of {path} differs")
        return Checkpoint(step, tree, meta)
