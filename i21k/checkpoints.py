"""Checkpoints that are whole or absent: the only use of Orbax, which is good at writing trees and silent about what goes wrong.

A wrapper repairs what was seen to go wrong: saves are synchronous (an asynchronous one hides a full disk and loses the next save too), a
digest of every array is verified on restore (Orbax restores flipped bits without a word), the newest intact checkpoint is
taken when a newer one is not, and a save that Orbax skips is an error. Of several processes, which hold the same state, each reads and the
first writes for itself: none waits for another in here.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import serialization

from i21k.errors import UserError
from i21k.labels import ClassList

FORMAT = 1
_DAMAGE = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    FileNotFoundError,
    NotADirectoryError,
)  # what damaged files become when read
Flat = dict[str, np.ndarray]  # arrays by path, such as params/conv_conv1/kernel


class FormatError(UserError):
    """A checkpoint that another version of i21k has written."""


class NotFiniteError(UserError):
    """A state with infinities or NaN; `path` is the first array that has any."""

    def __init__(self, path: str, step: int) -> None:
        super().__init__(
            f"{path} is not finite at step {step}; it is not saved, and earlier checkpoints stay"
        )
        self.path = path


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What a restore gives: the arrays as a nested dict of NumPy arrays, and what stands beside them."""

    step: int
    tree: dict[str, Any]
    meta: dict[str, Any]

    @property
    def classes(self) -> ClassList:
        """The class list the network's outputs stand for."""
        return ClassList(tuple(self.meta["classes"]))

    def into(self, state: Any) -> Any:
        """Return `state` with its arrays replaced by the checkpoint's.

        Raises:
            ValueError: naming the first array that is missing or has another shape or type.
        """
        got = _flatten(self.tree)

        def fill(wanted: Any, path: str) -> Any:
            if isinstance(wanted, Mapping):
                return {
                    key: fill(value, f"{path}/{key}" if path else key)
                    for key, value in wanted.items()
                }
            array = got.get(path)
            if array is None or array.shape != wanted.shape or array.dtype != wanted.dtype:
                there = "none" if array is None else f"{array.dtype}{list(array.shape)}"
                raise UserError(
                    f"the checkpoint of step {self.step} has {there} at {path}; expected {wanted.dtype}{list(wanted.shape)}"
                )
            return array

        return serialization.from_state_dict(state, fill(serialization.to_state_dict(state), ""))


class Checkpoints:
    """The checkpoints of a working directory, by step."""

    def __init__(self, directory: Path, keep: int = 0) -> None:
        """Open the directory.

        Args:
            directory: made if it is missing, by the first save.
            keep: checkpoints of finished epochs to keep, the newest; 0: all.
        """
        self._directory, self._keep = directory.resolve(), keep

    @contextlib.contextmanager
    def _manager(self, **options: Any) -> Iterator[ocp.CheckpointManager]:
        me = jax.process_index()
        alone = ocp.options.MultiprocessingOptions(primary_host=me, active_processes={me})
        options |= {"create": False, "multiprocessing_options": alone}
        with ocp.CheckpointManager(
            self._directory, options=ocp.CheckpointManagerOptions(**options)
        ) as manager:
            yield manager

    def steps(self) -> list[int]:
        """Return the steps there are, oldest first; a save that was cut off does not count."""
        if not self._directory.is_dir():
            return []
        return sorted(int(p.name) for p in self._directory.iterdir() if p.name.isdigit())

    def save(self, step: int, tree: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
        """Write a checkpoint and wait until it is there; then remove the ones that are not kept.

        Args:
            step: those from it on are put aside first (they were damaged, or belong to a run that was rolled back).
            tree: nested dict of arrays.
            meta: JSON; `epoch_done` (bool) says whether this is a finished epoch's.

        Raises:
            NotFiniteError: if an array is not finite: such a state is never saved.
            OSError: if the disk is full, or the save did not happen.
        """
        arrays = _flatten(jax.device_get(tree))
        for path, array in arrays.items():
            if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
                raise NotFiniteError(path, step)
        self._put_aside(step)
        self.check_room(sum(array.nbytes for array in arrays.values()))
        meta = {
            "format": FORMAT,
            "step": step,
            **meta,
            "digests": {path: _digest(array) for path, array in arrays.items()},
        }
        meta["meta_digest"] = _digest_of_meta(meta)
        with self._manager(
            enable_async_checkpointing=False, cleanup_tmp_directories=True
        ) as manager:
            args = ocp.args.Composite(
                state=ocp.args.PyTreeSave(_nest(arrays)), meta=ocp.args.JsonSave(meta)
            )
            if not manager.save(step, args=args, force=True) or step not in self.steps():
                raise OSError(f"the checkpoint of step {step} was not written to {self._directory}")
            for old in self._superfluous(step, bool(meta["epoch_done"])):
                manager.delete(old)

    def _superfluous(self, newest: int, epoch_done: bool) -> list[int]:
        """Return the steps not to keep: those saved in mid-epoch, and epochs beyond the number to keep."""
        epochs: list[int] = []
        superfluous: list[int] = []
        for step in self.steps():
            done = epoch_done if step == newest else self._meta(step).get("epoch_done", False)
            (epochs if done else superfluous).append(step)
        if self._keep:
            superfluous += epochs[: -self._keep]
        return [step for step in superfluous if step != newest]

    def check_room(self, num_bytes: int) -> None:
        """Raise an `OSError` if the disk has no room for a checkpoint of so many bytes; makes the directory."""
        self._directory.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self._directory).free
        if free < 1.1 * num_bytes:
            there = f"{free / 2**20:.0f} MiB free, a checkpoint needs {num_bytes / 2**20:.0f} MiB"
            raise OSError(
                f"{self._directory} has {there}; make room, or keep fewer with --config.log.keep_checkpoints=2"
            )

    def _put_aside(self, step: int) -> None:
        """Rename checkpoints from `step` on: they were passed over as damaged, or belong to a run that was rolled back."""
        for newer in (s for s in self.steps() if s >= step):
            aside = self._directory / f"{newer}.aside"
            shutil.rmtree(aside, ignore_errors=True)
            (self._directory / str(newer)).rename(aside)

    def newest(self) -> Checkpoint | None:
        """Restore the newest intact checkpoint, saying which ones are damaged; None if there is none at all.

        Raises:
            ValueError: if there are checkpoints and all are damaged.
            FormatError: if the newest was written by a version of i21k with another format.
        """
        steps = self.steps()
        faults = []
        for step in reversed(steps):
            try:
                return self._restore(step)
            except FormatError:
                raise
            except _DAMAGE as error:  # others (a disk that does not answer, memory) say nothing about the checkpoint
                faults.append(f"step {step}: {error}".splitlines()[0])
                logging.getLogger("i21k").warning(
                    "checkpoint %s is damaged (%s); trying the one before",
                    self._directory / str(step),
                    error,
                )
        if steps:
            raise UserError(
                f"no intact checkpoint in {self._directory}: {'; '.join(faults)}; move the directory away to start anew"
            )
        return None

    def same(self, step: int, digest: str) -> Checkpoint:
        """Restore the checkpoint that another process has chosen as the newest.

        Args:
            step: of it.
            digest: its `meta["meta_digest"]`.

        Raises:
            ValueError: if it is not there, or is damaged or another one as seen from here.
        """
        try:
            checkpoint, fault = self._restore(step), "it is another one"
        except _DAMAGE as error:
            checkpoint, fault = None, str(error).splitlines()[0]
        if checkpoint is None or checkpoint.meta["meta_digest"] != digest:
            raise UserError(
                f"checkpoint {self._directory / str(step)} is not here what it is in process 0 ({fault}); expected a --workdir on a file"
                " system that all processes share"
            )
        return checkpoint

    def _meta(self, step: int) -> dict[str, Any]:
        try:
            return json.loads((self._directory / str(step) / "meta" / "metadata").read_text())
        except (OSError, ValueError):
            return {}

    def _restore(self, step: int) -> Checkpoint:
        with self._manager(
            read_only=True, save_interval_steps=0
        ) as manager:  # a run may be writing here
            # What was saved as NumPy arrays comes back as NumPy arrays, on any machine.
            args = ocp.args.Composite(state=ocp.args.PyTreeRestore(), meta=ocp.args.JsonRestore())
            restored = manager.restore(step, args=args)
        tree, meta = restored["state"], restored["meta"]
        if meta["format"] != FORMAT:
            raise FormatError(
                f"{self._directory / str(step)} has format {meta['format']!r}; this version of i21k reads {FORMAT}"
            )
        if meta["meta_digest"] != _digest_of_meta(meta):
            raise UserError(
                "what stands beside the arrays is not what was saved (its SHA-256 differs)"
            )
        found = {path: _digest(array) for path, array in _flatten(tree).items()}
        for path in sorted(set(found) | set(meta["digests"])):
            if found.get(path) != meta["digests"].get(path):
                raise UserError(f"{path} is not what was saved (its SHA-256 differs)")
        return Checkpoint(step, tree, meta)


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Flat:
    arrays: Flat = {}
    for key, value in tree.items():
        arrays |= (
            _flatten(value, f"{prefix}{key}/")
            if isinstance(value, Mapping)
            else {prefix + key: np.asarray(value)}
        )
    return arrays


def _nest(arrays: Flat) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, array in arrays.items():
        *parents, name = path.split("/")
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[name] = array
    return tree


def _digest_of_meta(meta: Mapping[str, Any]) -> str:
    canonical = json.dumps(
        {key: value for key, value in meta.items() if key != "meta_digest"}, sort_keys=True
    )
    return hashlib.sha256(canonical.encode()).hexdigest()


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(
        f"{array.dtype.str}{array.shape}".encode() + np.ascontiguousarray(array).tobytes()
    ).hexdigest()
