"""A training run: epochs of steps, checkpoints, evaluations and rows of metrics.

An epoch has a fixed order: train to its last step, save a checkpoint, evaluate, write the row of
metrics. A run that stops in between resumes from the checkpoint and does what is missing, so that
every epoch has one row and every row a checkpoint.

Several processes all do this, each with its part of every batch. They hold the same state, and only
the first one writes. Decisions such as stopping are made together (`i21k.train.processes`).

While a run lasts, JAX refuses implicit transfers between host and devices. While it trains, it also
refuses explicit ones, except under `transfers("allow")` and in the thread that sends batches.
"""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
import optax
from flax import serialization
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from i21k import log
from i21k.checkpoints import Checkpoint, Checkpoints, NotFiniteError
from i21k.data.format.splits import Split
from i21k.data.load import loader, order
from i21k.errors import UserError
from i21k.models.network import Network
from i21k.train import feed, interruption, processes, startup, steps, workdir
from i21k.train.clock import Clock
from i21k.train.devices import (
    check_donated,
    connect,
    find_devices,
    peak_memory,
    put_state,
    transfers,
)
from i21k.train.evaluators import Evaluator, make_evaluators
from i21k.train.losses import make_loss
from i21k.train.metrics import Sums, Totals
from i21k.train.optimizer import make_optimizer, make_schedule
from i21k.train.recalibration import recalibrate
from i21k.train.recipe import Recipe, flat, inexact_keys, parse, stored_values
from i21k.train.report import Listener, Report, duration, step_line
from i21k.train.state import DeviceBatch, TrainState, init_state, make_network


@dataclasses.dataclass
class Run:
    """What a run consists of. `state`, `step`, `clock` and `compiled` change while it lasts."""

    cfg: Recipe
    report: Listener  # a `Report` in the first process
    checkpoints: Checkpoints
    interruption: interruption.Interruption
    devices: list[jax.Device]  # of all processes
    train_split: Split
    evaluators: list[Evaluator]
    train_step: Callable[[TrainState, DeviceBatch], TrainState]
    statistics_step: Callable[[Any, DeviceBatch], Any]
    network: Network
    schedule: optax.Schedule
    num_steps: int
    state: TrainState
    step: int  # steps done; the state's own counter stays on the device
    clock: Clock  # of the epoch
    compiled: bool  # whether the train step has run in this process
    meta: dict[str, Any]  # kept in every checkpoint

    def epoch_end(self, epoch: int) -> int:
        return order.epoch_end(epoch, self.train_split.num_records, self.cfg.batch_size)


def run(config: ConfigDict, directory: str | Path) -> Path:
    """Train by a recipe in a working directory, or resume the run in it.

    Args:
        config: of a file in `configs/`.
        directory: the working directory; created if it is missing.

    Returns:
        The working directory.

    Raises:
        UserError: for anything that the user can fix.
        interruption.Interrupted: after SIGTERM or SIGINT; the state is saved.
    """
    cfg = parse(config)
    kind = jax.local_devices()[0].device_kind
    processes.check_same(
        "recipe",
        flat({"config": dataclasses.asdict(cfg)}) | workdir.versions() | {"device": kind},
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
        if processes.Agreement(interrupted)():  # while synthetic images were drawn
            _leave(interrupted)
        startup.say_run(processes.say, cfg, directory, devices, train_split, sets)
        with (
            _open_run(cfg, directory, devices, train_split, sets, interrupted) as this,
            transfers("disallow"),
        ):
            _run_epochs(this)
    return directory


def _logged(directory: Path) -> contextlib.AbstractContextManager[None]:
    return log.tee(directory / "log.txt") if processes.index() == 0 else contextlib.nullcontext()


def _run_epochs(run: Run) -> None:
    for epoch in range(run.cfg.epochs):
        if run.step > run.epoch_end(epoch):
            continue
        if run.step < run.epoch_end(epoch):
            _train_epoch(run, epoch)
            _save(run, epoch)
            run.interruption.may_leave_now = processes.count() == 1
        if run.report.row_of(run.step) is None:
            _finish_epoch(run, epoch)
        _start_sums(run)  # not before the row of this epoch, which needs the old ones, is written
    trained_s = sum(float(row["train_s"]) for row in run.report.rows)
    run.report.say(
        f"done: {run.cfg.epochs} epochs, {duration(trained_s)} of training |"
        f" {peak_memory(run.devices)}"
    )


def _start_sums(run: Run) -> None:
    with transfers("allow"):
        run.state = run.state.replace(sums=put_state(Sums.zero(), run.devices))
    run.clock = Clock()


def _train_epoch(run: Run, epoch: int) -> None:
    last, stop = run.epoch_end(epoch), processes.Agreement(run.interruption)
    since, window = Totals.fetch(run.state.sums), Clock()
    options = feed.train_options(run.cfg)
    with (
        loader.batches(run.train_split, options, run.step, last, run.report.complain) as batches,
        feed.Feeder(batches, run.devices) as feeder,
        transfers("disallow_explicit"),
    ):
        if run.compiled:
            run.clock.start()
            window.start()
        while run.step < last:
            try:
                wait_s = _one_step(run, feeder)
            except feed.NoBatchError:
                _save_and_leave(run, epoch)
            for clock in (run.clock, window):
                clock.lap(run.cfg.batch_size, wait_s)
            if run.step % run.cfg.log.every_steps == 0 or run.step == last:
                with transfers("allow"):
                    since, window = _log_step(run, epoch, since, window)
            if stop():
                _save_and_leave(run, epoch)


def _one_step(run: Run, feeder: feed.Feeder) -> float:
    """Start a step when the previous one is done.

    Returns:
        The seconds for which the devices waited for data.
    """
    jax.block_until_ready(run.state.step)
    started = time.perf_counter()
    batch, on_devices = feeder.take(run.interruption)
    wait_s = time.perf_counter() - started
    if run.compiled:
        run.interruption.may_leave_now = False  # the state is about to change
        with jax.no_tracing(True):  # every batch has the same shape: compiling again is a bug
            run.state = run.train_step(run.state, on_devices)
    else:
        _first_step(run, batch, on_devices, started)
    run.step += 1
    return wait_s


def _first_step(run: Run, batch: loader.Batch, on_devices: DeviceBatch, started: float) -> None:
    """Compile the step and do it once. The clocks start with the lap after it."""
    startup.say_first_batch(run.report.say, batch)
    donated = run.state
    run.state = run.train_step(donated, on_devices)
    check_donated(donated)
    jax.block_until_ready(run.state.step)
    run.compiled, run.interruption.may_leave_now = True, False
    seconds = time.perf_counter() - started
    run.report.say(f"first step {seconds:.1f} s | {peak_memory(run.devices)}")


def _save_and_leave(run: Run, epoch: int) -> NoReturn:
    """Save the state in the middle of an epoch, and end the run as a signal asked."""
    with transfers("allow"):
        _check_finite(run, Totals.fetch(run.state.sums))
        _save(run, epoch)
    _leave(run.interruption)


def _leave(interrupted: interruption.Interruption) -> NoReturn:
    interrupted.leave()


def _log_step(run: Run, epoch: int, since: Totals, window: Clock) -> tuple[Totals, Clock]:
    """Report the steps since the last line. Return the sums so far, and a new window."""
    now = Totals.fetch(run.state.sums)
    for clock in (run.clock, window):
        clock.settle()  # fetching waited for the last step
    _check_finite(run, now)
    means, lr = (now - since).means(), _learning_rate(run)
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


def _finish_epoch(run: Run, epoch: int) -> None:
    """Evaluate and write the epoch's row."""
    means = Totals.fetch(run.state.sums).means()
    row = {"epoch": epoch + 1, "step": run.step, "lr": _learning_rate(run)}
    row |= {"train_loss": means["loss"], "train_top1": means["top1"], "train_top5": means["top5"]}
    line = f"epoch {epoch + 1}/{run.cfg.epochs} done | train loss {means['loss']:.3f} top1 {means['top1']:.1%}"
    stop = processes.Agreement(run.interruption)
    variables = run.state.variables
    if run.evaluators and (num_images := run.cfg.evaluation.recalibrate_bn):
        variables = recalibrate(
            run.statistics_step,
            variables,
            run.train_split,
            feed.recalibration_options(run.cfg),
            run.devices,
            num_images,
            run.network.moments,
            stop,
        )
        if variables is None:
            _leave(run.interruption)
    for evaluator in run.evaluators:
        result = evaluator.run(variables, stop)
        if result is None:  # this epoch's checkpoint exists; a resumed run evaluates it
            _leave(run.interruption)
        row |= result.values
        line += f" | {result.text}"
    row |= {
        "images_per_s": run.clock.images_per_s(),
        "data_wait_fraction": run.clock.wait_fraction(),
        "train_s": run.clock.train_s,
    }
    run.report.epoch(row)
    run.report.say(line)


def _save(run: Run, epoch: int) -> None:
    if processes.index() > 0:
        return
    start = time.perf_counter()
    tree = serialization.to_state_dict(run.state)
    meta = {"epoch_done": run.step == run.epoch_end(epoch), "clock": run.clock.state(), **run.meta}
    try:
        run.checkpoints.save(run.step, tree, meta)
    except NotFiniteError as error:
        _stop_diverged(run, f"{error.path} is not finite")
    run.report.say(f"checkpoint of step {run.step:,} saved in {time.perf_counter() - start:.1f} s")


def _check_finite(run: Run, totals: Totals) -> None:
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
        f"{what} at step {run.step:,}, learning rate {_learning_rate(run):g}; the last good"
        f" checkpoint is {last}. Try a lower --config.optimizer.learning_rate or more"
        " warmup_epochs, in another --workdir."
    )


def _learning_rate(run: Run) -> float:
    """Return the learning rate of the last step."""
    with transfers("allow"):
        return float(run.schedule(run.step - 1))


@contextlib.contextmanager
def _open_run(
    cfg: Recipe,
    directory: Path,
    devices: list[jax.Device],
    train_split: Split,
    sets: dict[str, Split],
    interrupted: interruption.Interruption,
) -> Iterator[Run]:
    """Build model and state, restore the newest checkpoint, and open the report."""
    opened = {"training data": train_split} | sets
    processes.check_same(
        "data",
        {name: [split.fingerprint, split.classes.hash] for name, split in opened.items()},
    )
    num_steps = order.epoch_end(cfg.epochs - 1, train_split.num_records, cfg.batch_size)
    schedule = make_schedule(cfg.optimizer, train_split.num_records / cfg.batch_size, num_steps)
    model = make_network(cfg.model, len(train_split.classes))
    optimizer = make_optimizer(cfg.optimizer, schedule, model)
    checkpoints = Checkpoints(directory / "checkpoints", cfg.log.keep_checkpoints)
    state = init_state(model, optimizer, cfg.image_size, cfg.model.init, cfg.seed)
    startup.say_model(processes.say, model, state, cfg)
    clock, step = Clock(), 0
    if (restored := _restore(checkpoints)) is not None:
        workdir.check_checkpoint(directory, restored, cfg, train_split, num_steps)
        state, step = restored.into(state), restored.step
        clock.restore(restored.meta["clock"])
        processes.say(f"resuming at step {step:,} of {num_steps:,}")
        if (before := restored.meta["devices"]) != (now := workdir.device_facts(devices)):
            processes.say(
                f"trained on {before['count']} x {before['kind']} before, {now['count']} x {now['kind']} now: not bit for bit the same run"
            )
        was, now = stored_values(restored.meta["config"]), flat(dataclasses.asdict(cfg))
        for key in inexact_keys():
            if was[key] != now[key]:
                processes.say(
                    f"config.{key} was {was[key]!r} and is {now[key]!r}: not bit for bit the same run"
                )
    if processes.index() == 0:
        checkpoints.check_room(
            sum(x.nbytes for x in jax.tree.leaves(state))
        )  # now, not after the first epoch
        workdir.write_config(directory, cfg)
    loss = make_loss(cfg.loss.name, cfg.loss.smoothing)
    options = feed.eval_options(cfg, len(devices))
    evaluators = make_evaluators(sets, model, train_split.classes, options, devices, loss)
    columns = [column for evaluator in evaluators for column in evaluator.columns]
    with _open_report(directory, step, num_steps, columns) as report:
        yield Run(
            cfg=cfg,
            report=report,
            checkpoints=checkpoints,
            interruption=interrupted,
            devices=devices,
            train_split=train_split,
            evaluators=evaluators,
            train_step=steps.make_train_step(
                model,
                optimizer,
                devices,
                cfg.accumulate_steps,
                cfg.reduce_dtype,
                loss,
                seed=cfg.seed,
            ),
            statistics_step=steps.make_statistics_step(model, devices),
            network=model,
            schedule=schedule,
            num_steps=num_steps,
            state=put_state(state, devices),
            step=step,
            clock=clock,
            compiled=False,
            meta=workdir.meta(cfg, model, train_split, devices),
        )


def _restore(checkpoints: Checkpoints) -> Checkpoint | None:
    """Restore the newest intact checkpoint: the first process finds it, the others read the same."""
    found = checkpoints.newest() if processes.index() == 0 else None
    chosen = processes.share(
        "checkpoint", None if found is None else [found.step, found.meta["meta_digest"]]
    )
    return found if chosen is None or found is not None else checkpoints.same(*chosen)


def _open_report(directory: Path, step: int, num_steps: int, columns: list[str]) -> Listener:
    """Open the report. It drops rows that were written after `step`."""
    if processes.index() > 0:
        return Listener(columns, processes.share("rows", None))
    report = Report(directory, step, num_steps, columns)
    processes.share("rows", report.rows)
    return report
