"""A training run: epochs of steps, checkpoints, evaluations and rows of metrics.

An epoch has a fixed order: train to its last step, save a checkpoint, evaluate, write the row of
metrics. A run that stops in between resumes from the checkpoint and does what is missing, so that
every epoch has one row. Inside an epoch there are more checkpoints and evaluations. A resumed run
repeats the steps after its checkpoint, with the same result.

Several processes all do this, each with its part of every batch. They hold the same state, and only
the first one writes. Decisions such as stopping are made together (`i21k.train.processes`).

While a run lasts, JAX refuses implicit transfers between host and devices. While it trains, it also
refuses explicit ones, except under `transfers("allow")` and in the thread that sends batches.
"""

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

import jax
from ml_collections import ConfigDict

from i21k import log
from i21k.data.load import loader
from i21k.errors import UserError
from i21k.train import conflicts, feed, history, interruption, processes, sizes, startup, workdir
from i21k.train.clock import Clock
from i21k.train.devices import (
    check_donated,
    connect,
    find_devices,
    peak_memory,
    put_state,
    transfers,
)
from i21k.train.evaluating import evaluate
from i21k.train.metrics import Sums, Totals
from i21k.train.opening import Run, open_run
from i21k.train.recipe import flat, parse
from i21k.train.report import duration, step_line
from i21k.train.saving import check_finite, learning_rate, save, save_and_leave, save_before_error
from i21k.train.state import DeviceBatch

_LINE_EVERY_S = 30.0  # at most between two lines, also if `log.every_steps` is larger


def run(
    config: ConfigDict, directory: str | Path, branch_from: history.Parent | None = None
) -> Path:
    """Train by a recipe in a working directory, or resume the run in it.

    Args:
        config: of a file in `configs/`.
        directory: the working directory; created if it is missing.
        branch_from: checkpoint of another run with which a new run starts.

    Returns:
        The working directory.

    Raises:
        UserError: for anything that the user can fix.
        interruption.Interrupted: after SIGTERM or SIGINT; the state is saved.
    """
    cfg = parse(config)
    conflicts.check(cfg)
    kind = jax.local_devices()[0].device_kind
    processes.check_same(
        "recipe",
        flat({"config": dataclasses.asdict(cfg)})
        | workdir.versions()
        | {"device": kind, "branch_from": branch_from and str(branch_from.which)},
    )
    devices = find_devices(cfg)
    directory = Path(directory)
    with (
        workdir.held(directory),
        _logged(directory),
        interruption.watch(processes.say) as interrupted,
    ):
        interrupted.may_leave_now = processes.count() == 1
        if processes.count() > 1:
            connect(devices)
        train_split, sets = feed.open_data(cfg)
        conflicts.check_with_data(cfg, train_split, len(devices))
        if processes.Agreement(interrupted)():  # while synthetic images were drawn
            interrupted.leave()
        startup.say_run(processes.say, cfg, directory, devices, train_split, sets)
        with (
            open_run(cfg, directory, devices, train_split, sets, interrupted, branch_from) as this,
            transfers("disallow"),
        ):
            _run_epochs(this)
    return directory


@contextlib.contextmanager
def _logged(directory: Path) -> Iterator[None]:
    """Write everything that is printed to `log.txt`; remove it again if nothing came of the run."""
    if processes.index() != 0:
        yield
        return
    path = directory / "log.txt"
    was_there = path.exists()
    try:
        with log.tee(path):
            try:
                yield
            except interruption.Interrupted:
                log.info(f"resume with: {interruption.resume_command()}", wrap=False)
                raise
    finally:
        if not was_there and {p.name for p in directory.iterdir()} <= {"log.txt", "lock"}:
            path.unlink(missing_ok=True)


def _run_epochs(run: Run) -> None:
    if run.is_branch:  # so that it can be resumed without its parent
        save(run, run.epoch_of(run.step))
    for epoch in range(run.cfg.epochs):
        if run.step > run.epoch_end(epoch):
            continue
        if run.step < run.epoch_end(epoch):
            _train_epoch(run, epoch)
            save(run, epoch)
            run.interruption.may_leave_now = processes.count() == 1
        if run.report.row_of(run.step) is None:
            evaluate(run, epoch)
        _start_sums(run)  # not before the row of this epoch, which needs the old ones, is written
    whole = [row for row in run.report.rows if row["epoch"].isdecimal()]
    trained_s = sum(float(row["train_s"]) for row in whole)
    run.report.say(
        f"done: {run.cfg.epochs} epochs, {duration(trained_s)} of training |"
        f" {peak_memory(run.devices)}"
    )


def _start_sums(run: Run) -> None:
    with transfers("allow"):
        run.state = run.state.replace(sums=put_state(Sums.zero(), run.devices))
    run.clock = Clock()


def _train_epoch(run: Run, epoch: int) -> None:
    since, window, first = Totals.fetch(run.state.sums), Clock(), run.step
    for segment in sizes.segments(run.cfg.image_size, first, run.epoch_end(epoch), run.num_steps):
        since, window = _train_segment(run, epoch, segment, since, window)


def _train_segment(
    run: Run, epoch: int, segment: sizes.Segment, since: Totals, window: Clock
) -> tuple[Totals, Clock]:
    """Train with images of one size. Return the sums at the last line, and the clock since then."""
    last, stop = run.epoch_end(epoch), processes.Agreement(run.interruption)
    options, said_at = feed.train_options(run.cfg, segment.size), time.monotonic()
    reads = loader.batches(
        run.train_split, options, segment.first, segment.stop, run.report.complain
    )
    with (
        reads as batches,
        feed.Feeder(batches, run.devices) as feeder,
        transfers("disallow_explicit"),
    ):
        jax.block_until_ready(run.state.step)
        for clock in (run.clock, window):
            clock.settle()  # of the size before
            (clock.start if segment.size in run.compiled else clock.stop)()
        if segment.first > run.epoch_end(epoch - 1):  # a run that was stopped before it evaluated
            _pause(run, epoch, window)
        while run.step < segment.stop:
            try:
                wait_s = _one_step(run, feeder)
            except feed.NoBatchError:
                save_and_leave(run, epoch)
            except (UserError, OSError):  # a batch cannot be read, or a worker has died
                save_before_error(run, epoch)
                raise
            for clock in (run.clock, window):
                clock.lap(run.cfg.batch_size, wait_s)
            is_due = window.steps > 0 and time.monotonic() - said_at >= _LINE_EVERY_S
            if run.step % run.cfg.log.every_steps == 0 or run.step == last or is_due:
                with transfers("allow"):
                    since, window = _log_step(run, epoch, since, window)
                said_at = time.monotonic()
            if stop():
                save_and_leave(run, epoch)
            if run.step < last:
                _pause(run, epoch, window)
    return since, window


def _pause(run: Run, epoch: int, window: Clock) -> None:
    """Do what is due inside an epoch: a checkpoint, an evaluation. The clocks do not count it."""
    every, minutes = run.cfg.evaluation.every_steps, run.cfg.log.checkpoint_minutes
    evaluation_due = every > 0 and run.step % every == 0 and run.report.row_of(run.step) is None
    # Only the first process saves, so only its time counts. The others wait at the next step.
    save_due = minutes > 0 and time.monotonic() - run.saved_at >= 60 * minutes
    if not (evaluation_due or save_due):
        return
    with transfers("allow"):
        jax.block_until_ready(run.state.step)
        for clock in (run.clock, window):
            clock.settle()
        check_finite(run, Totals.fetch(run.state.sums))
        if save_due and run.saved_step != run.step:
            save(run, epoch)
    if evaluation_due:
        with transfers("disallow"):
            evaluate(run, epoch)
    for clock in (run.clock, window):
        if clock.is_running():
            clock.start()


def _one_step(run: Run, feeder: feed.Feeder) -> float:
    """Start a step when the previous one is done.

    Returns:
        The seconds for which the devices waited for data.
    """
    jax.block_until_ready(run.state.step)
    run.profile.after(run.step)
    started = time.perf_counter()
    batch, on_devices = feeder.take(run.interruption)
    wait_s = time.perf_counter() - started
    run.profile.before(run.step + 1)
    if (image_size := batch.images.shape[1]) in run.compiled:
        run.interruption.may_leave_now = False  # the state is about to change
        with jax.no_tracing(True):  # batches of a size have one shape: compiling again is a bug
            run.state = run.train_step(run.state, on_devices)
    else:
        _first_step(run, batch, on_devices, started)
        run.compiled.add(image_size)
    run.step += 1
    return wait_s


def _first_step(run: Run, batch: loader.Batch, on_devices: DeviceBatch, started: float) -> None:
    """Compile the step for a size of images and do it once. The clocks start after it."""
    startup.say_first_batch(run.report.say, batch)
    donated = run.state
    with log.waiting(
        "compiling the train step", "seconds on a GPU and minutes on a CPU are normal; cached after"
    ):
        run.state = run.train_step(donated, on_devices)
        check_donated(donated)
        jax.block_until_ready(run.state.step)
    run.interruption.may_leave_now = False
    seconds = time.perf_counter() - started
    run.report.say(f"first step {seconds:.1f} s | {peak_memory(run.devices)}")


def _log_step(run: Run, epoch: int, since: Totals, window: Clock) -> tuple[Totals, Clock]:
    """Report the steps since the last line. Return the sums so far, and a new window."""
    now = Totals.fetch(run.state.sums)
    for clock in (run.clock, window):
        clock.settle()  # fetching waited for the last step
    check_finite(run, now)
    means, lr = (now - since).means(), learning_rate(run)
    num_laps = max(window.steps, 1)
    line = step_line(
        epoch=epoch,
        epochs=run.cfg.epochs,
        step=run.step,
        num_steps=run.num_steps,
        means=means,
        lr=lr,
        images_per_s=window.images_per_s(),
        step_s=window.train_s / num_laps,
        wait_s=window.wait_s / num_laps,
    )
    speed = {
        "images_per_s": window.images_per_s(),
        "data_wait_fraction": window.wait_fraction(),
    }
    run.report.step({"step": run.step, "epoch": epoch + 1, "lr": lr, **means, **speed}, line)
    return now, window.next()
