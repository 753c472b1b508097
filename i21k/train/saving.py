"""Save the state of a run, and end the run after a signal, or if it cannot be saved."""

import math
import time
from typing import NoReturn

import jax
import numpy as np
from flax import serialization
from flax.traverse_util import flatten_dict

from i21k.checkpoints import NotFiniteError
from i21k.errors import UserError
from i21k.train import processes
from i21k.train.best import best_row
from i21k.train.devices import transfers
from i21k.train.metrics import Totals
from i21k.train.opening import Run


def save(run: Run, epoch: int) -> None:
    """Save the state of this step as a checkpoint; only the first process writes."""
    run.saved_at, run.saved_step = time.monotonic(), run.step
    if processes.index() > 0:
        return
    start = time.perf_counter()
    tree = serialization.to_state_dict(run.state)
    meta = {"epoch_done": run.step == run.epoch_end(epoch), "clock": run.clock.state(), **run.meta}
    try:
        run.checkpoints.save(run.step, tree, meta)
    except NotFiniteError as error:
        _stop_diverged(run, f"{error.path} is not finite")
    run.saved_at = time.monotonic()
    run.report.say(f"checkpoint of step {run.step:,} saved in {time.perf_counter() - start:.1f} s")


def save_and_leave(run: Run, epoch: int) -> NoReturn:
    """Save the state in the middle of an epoch, and end the run after a signal."""
    with transfers("allow"):
        check_finite(run, Totals.fetch(run.state.sums))
        save(run, epoch)
    run.interruption.leave()


def save_before_error(run: Run, epoch: int) -> None:
    """Save the steps since the last checkpoint. An error of the data is about to end the run."""
    if run.step in (0, run.saved_step):
        return
    try:
        with transfers("allow"):
            save(run, epoch)
    except (UserError, OSError) as error:
        run.report.say(f"warning: step {run.step:,} is not saved: {error}")


def mark_if_best(run: Run, epoch: int) -> None:
    """Mark the checkpoint of this step, if its row is the best of all that have a checkpoint."""
    if processes.index() > 0:
        return
    best = best_row(run.report.rows, run.cfg.log.keep_best, [*run.checkpoints.steps(), run.step])
    if best is not None and best.step == run.step:
        if run.saved_step != run.step:
            save(run, epoch)
        run.checkpoints.mark_best(run.step, run.cfg.log.keep_best, best.value)


def check_finite(run: Run, totals: Totals) -> None:
    """Stop if the loss or the normalisation statistics are not finite.

    An infinite variance makes zeros of a layer, and the loss stays finite. Other parts of the state
    show in the next loss, and are checked before they are saved.
    """
    if not math.isfinite(totals.loss):
        _stop_diverged(run, f"the loss is {totals.loss}")
    for path, values in flatten_dict(jax.device_get(run.state.batch_stats), sep="/").items():
        if not np.isfinite(values).all():
            _stop_diverged(run, f"batch_stats/{path} is not finite")


def _stop_diverged(run: Run, what: str) -> NoReturn:
    steps_saved = run.checkpoints.steps()
    last = f"step {steps_saved[-1]:,}" if steps_saved else "none"
    raise UserError(
        f"{what} at step {run.step:,}, learning rate {learning_rate(run):g}; the last good"
        f" checkpoint is {last}. Try a lower --config.optimizer.learning_rate or more"
        " warmup_epochs, in another --workdir, or with --branch-from and this one."
    )


def learning_rate(run: Run) -> float:
    """Return the learning rate of the last step."""
    with transfers("allow"):
        return float(run.schedule(run.step - 1))
