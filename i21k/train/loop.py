"""A run: open data, model and checkpoints, then epochs; stopped at any moment, it goes on where it was.

The order of an epoch is a contract: train to its last step -> checkpoint -> evaluate -> row of metrics. A run that dies in between
comes back to the checkpoint and does what is missing, so that every epoch has one row and every row a checkpoint.

Of several processes each does all of this with its part of every batch; they hold the same state, so that the first alone writes it. Where
they have to decide something, such as whether to stop, they ask each other (`i21k.train.processes`).

Between host and devices nothing travels by accident: while a run lasts only what is sent or fetched by name, and while it trains only in
the places marked `steps.transfers("allow")` and in the thread that sends batches.
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
from ml_collections import ConfigDict

from i21k.checkpoints import Checkpoint, Checkpoints, NotFiniteError
from i21k.data.format.splits import Split
from i21k.data.load import loader, order
from i21k.errors import UserError
from i21k.train import facts, feed, interruption, processes, steps, workdir
from i21k.train.evaluators import Evaluator, make_evaluators
from i21k.train.metrics import Sums, Totals
from i21k.train.optimizer import make_optimizer, make_schedule
from i21k.train.recalibration import recalibrate
from i21k.train.recipe import Recipe, flat, inexact_keys, parse, stored_values
from i21k.train.report import Clock, Listener, Report, duration, step_line


@dataclasses.dataclass
class Run:
    """What stays the same while a run lasts, and its one changing thing: the state."""

    cfg: Recipe
    report: Listener  # of the first process, a `Report`
    checkpoints: Checkpoints
    interruption: interruption.Interruption
    devices: list[jax.Device]  # of all processes
    train_split: Split
    evaluators: list[Evaluator]
    train_step: Callable[[steps.TrainState, steps.DeviceBatch], steps.TrainState]
    statistics_step: Callable[[Any, steps.DeviceBatch], Any]
    schedule: optax.Schedule
    num_steps: int
    state: steps.TrainState
    step: int  # steps done; the state's own number stays on the device
    clock: Clock  # of the epoch
    compiled: bool  # whether the train step has run in this process
    meta: dict[str, Any]  # kept in every checkpoint

    def epoch_end(self, epoch: int) -> int:
        return order.epoch_end(epoch, self.train_split.num_records, self.cfg.batch_size)


def run(config: ConfigDict, directory: str | Path) -> Path:
    """Train by a recipe in a working directory, or go on with what is there.

    Args:
        config: as the files in `configs/` make it.
        directory: the working directory; made if it is missing.

    Returns:
        The working directory.

    Raises:
        ValueError: for anything the user can mend.
        interruption.Interrupted: after SIGTERM or SIGINT, when the state is saved.
    """
    cfg = parse(config)
    kind = jax.local_devices()[0].device_kind
    processes.check_same(
        "recipe",
        flat({"config": dataclasses.asdict(cfg)}) | workdir.versions() | {"device": kind},
    )
    devices = facts.find_devices(cfg)
    directory = Path(directory)
    with workdir.held(directory), interruption.watch(processes.say) as interrupted:
        if processes.count() > 1:
            steps.connect(devices)
        train_split, sets = feed.open_data(cfg)
        if processes.Agreement(interrupted)():  # while pictures were drawn
            _leave(interrupted)
        facts.say_run(processes.say, cfg, directory, devices, train_split, sets)
        with (
            _open_run(cfg, directory, devices, train_split, sets, interrupted) as this,
            steps.transfers("disallow"),
        ):
            _run_epochs(this)
    return directory


def _run_epochs(run: Run) -> None:
    for epoch in range(run.cfg.epochs):
        if run.step > run.epoch_end(epoch):
            continue
        if run.step < run.epoch_end(epoch):
            _train_epoch(run, epoch)
            _save(run, epoch)
        if run.report.row_of(run.step) is None:
            _finish_epoch(run, epoch)
        # The next epoch's sums start at zero, but not before the row that needs the old ones is written.
        with steps.transfers("allow"):
            run.state = run.state.replace(sums=steps.put_state(Sums.zero(), run.devices))
        run.clock = Clock()
    trained_s = sum(float(row["train_s"]) for row in run.report.rows)
    run.report.say(
        f"done: {run.cfg.epochs} epochs, {duration(trained_s)} of training | {facts.peak_memory(run.devices)}"
    )


def _train_epoch(run: Run, epoch: int) -> None:
    last, stop = run.epoch_end(epoch), processes.Agreement(run.interruption)
    since, window = Totals.fetch(run.state.sums), Clock()
    with (
        loader.batches(
            run.train_split, feed.train_options(run.cfg), run.step, last, run.report.complain
        ) as batches,
        feed.Feeder(batches, run.devices) as feeder,
        steps.transfers("disallow_explicit"),
    ):
        if run.compiled:
            run.clock.start()
            window.start()
        while run.step < last:
            wait_s = _one_step(run, feeder)
            for clock in (run.clock, window):
                clock.lap(run.cfg.batch_size, wait_s)
            if run.step % run.cfg.log.every_steps == 0 or run.step == last:
                with steps.transfers("allow"):
                    since, window = _log_step(run, epoch, since, window)
            if stop():
                with steps.transfers("allow"):
                    _check_finite(run, Totals.fetch(run.state.sums))
                    _save(run, epoch)
                _leave(run.interruption)


def _one_step(run: Run, feeder: feed.Feeder) -> float:
    """Start a step when the one before is done; return the seconds that the devices were idle for want of data."""
    jax.block_until_ready(run.state.step)
    started = time.perf_counter()
    batch, on_devices = feeder.take()
    wait_s = time.perf_counter() - started
    if not run.compiled:
        facts.say_first_batch(run.report.say, batch)
    donated = run.state
    with jax.no_tracing(
        run.compiled
    ):  # all batches have one shape: a second compilation is a mistake, and an error
        run.state = run.train_step(donated, on_devices)
    run.step += 1
    if not run.compiled:
        steps.check_donated(donated)
        jax.block_until_ready(run.state.step)
        run.compiled = True  # and the clocks, which were not running yet, start with their next lap
        run.report.say(
            f"first step {time.perf_counter() - started:.1f} s | {facts.peak_memory(run.devices)}"
        )
    return wait_s


def _leave(interrupted: interruption.Interruption) -> NoReturn:
    assert interrupted.signum is not None
    raise interruption.Interrupted(interrupted.signum)


def _log_step(run: Run, epoch: int, since: Totals, window: Clock) -> tuple[Totals, Clock]:
    """Fetch the sums, say what the steps since the last line did, and start a new window."""
    now = Totals.fetch(run.state.sums)
    for clock in (run.clock, window):
        clock.settle()  # the fetch has waited for the last step
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
    numbers = {"step": run.step, "epoch": epoch + 1, "lr": lr, **means}
    run.report.step(
        numbers
        | {"images_per_s": window.images_per_s(), "data_wait_fraction": window.wait_fraction()},
        line,
    )
    return now, window.next()


def _finish_epoch(run: Run, epoch: int) -> None:
    """Evaluate and write the epoch's row."""
    means = Totals.fetch(run.state.sums).means()
    row = {"epoch": epoch + 1, "step": run.step, "lr": _learning_rate(run)}
    row |= {"train_loss": means["loss"], "train_top1": means["top1"], "train_top5": means["top5"]}
    line = f"epoch {epoch + 1}/{run.cfg.epochs} done | train loss {means['loss']:.3f} top1 {means['top1']:.1%}"
    stop = processes.Agreement(run.interruption)
    variables = {"params": run.state.params, "batch_stats": run.state.batch_stats}
    if run.evaluators and (num_images := run.cfg.evaluation.recalibrate_bn):
        variables = recalibrate(
            run.statistics_step,
            variables,
            run.train_split,
            feed.recalibration_options(run.cfg),
            run.devices,
            num_images,
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
    """Stop at a loss that is not finite, or at moving statistics that are not: an infinite variance makes zeros of a layer and no NaN.

    The rest of the state shows in the next loss, and is looked at before it is saved.
    """
    if not math.isfinite(totals.loss):
        _stop_diverged(run, f"the loss is {totals.loss}")
    for layer, statistics in jax.device_get(run.state.batch_stats).items():
        for name, values in statistics.items():
            if not np.isfinite(values).all():
                _stop_diverged(run, f"{name} of {layer} is not finite")


def _stop_diverged(run: Run, what: str) -> NoReturn:
    steps_saved = run.checkpoints.steps()
    last = f"step {steps_saved[-1]:,}" if steps_saved else "none"
    raise UserError(
        f"{what} at step {run.step:,}, learning rate {_learning_rate(run):g}; the last good checkpoint is {last};"
        " try a lower --config.optimizer.learning_rate or more warmup_epochs in another --workdir"
    )


def _learning_rate(run: Run) -> float:
    """Return the learning rate of the last step."""
    with steps.transfers("allow"):
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
    model = steps.make_model(cfg.model, len(train_split.classes))
    optimizer = make_optimizer(
        cfg.optimizer, schedule, fixed_gamma=cfg.model.revision == "symbol2016"
    )
    checkpoints = Checkpoints(directory / "checkpoints", cfg.log.keep_checkpoints)
    state = steps.init_state(model, optimizer, cfg.image_size, cfg.model.init, cfg.seed)
    facts.say_model(processes.say, model, state, cfg.image_size)
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
    options = feed.eval_options(cfg, len(devices))
    evaluators = make_evaluators(sets, model, train_split.classes, options, devices)
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
                model, optimizer, devices, cfg.accumulate_steps, cfg.reduce_dtype
            ),
            statistics_step=steps.make_statistics_step(model, devices),
            schedule=schedule,
            num_steps=num_steps,
            state=steps.put_state(state, devices),
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
