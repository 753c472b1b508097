"""What a run consists of, and how it is opened: new, resumed, or branched from another run."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import jax
import optax

from i21k.checkpoints import Checkpoint, Checkpoints, Which
from i21k.data.format.splits import Split
from i21k.data.load import order
from i21k.errors import UserError
from i21k.models.network import Network
from i21k.train import (
    conflicts,
    feed,
    history,
    inheritance,
    interruption,
    processes,
    sizes,
    startup,
    steps,
    workdir,
)
from i21k.train.augment import make_augmentation
from i21k.train.best import best_row, check_best
from i21k.train.clock import Clock
from i21k.train.devices import put_state
from i21k.train.evaluators import Averaged, Evaluator, make_evaluators
from i21k.train.history import Parent
from i21k.train.losses import initial_bias
from i21k.train.metrics import Sums
from i21k.train.optimizer import make_optimizer, make_schedule
from i21k.train.profile import Profile
from i21k.train.recipe import Recipe, flat, inexact_keys, read_steps
from i21k.train.report import Listener, Report
from i21k.train.state import DeviceBatch, TrainState, copied, init_state, make_network
from i21k.train.targets import loss_of
from i21k.trained import Preprocessing


@dataclasses.dataclass
class Run:
    """What a run consists of. The last seven change while it lasts."""

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
    profile: Profile
    num_steps: int
    meta: dict[str, Any]  # kept in every checkpoint
    is_branch: bool  # whether it starts now with the checkpoint of another run
    state: TrainState
    step: int  # steps done; the state's own counter stays on the device
    clock: Clock  # of the epoch
    # Sizes of images (px) for which the train step has run in this process.
    compiled: set[int] = dataclasses.field(default_factory=set)
    saved_at: float = dataclasses.field(default_factory=time.monotonic)  # the last checkpoint
    saved_step: int = -1  # of the last checkpoint that this process has written or restored

    def epoch_end(self, epoch: int) -> int:
        return order.epoch_end(epoch, self.train_split.num_records, self.cfg.batch_size)

    def epoch_of(self, step: int) -> int:
        """Return the epoch to which the last one of `step` steps belongs."""
        return max(0, step * self.cfg.batch_size - 1) // self.train_split.num_records


@contextlib.contextmanager
def open_run(
    cfg: Recipe,
    directory: Path,
    devices: list[jax.Device],
    train_split: Split,
    sets: dict[str, Split],
    interrupted: interruption.Interruption,
    branch_from: Parent | None = None,
) -> Iterator[Run]:
    """Build model and state, restore a checkpoint if there is one, and open the report."""
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
    loss = loss_of(cfg.loss, train_split)
    bias = initial_bias(loss.probability, len(train_split.classes))
    with_ema, size = cfg.ema.decay > 0, sizes.largest(cfg.image_size)
    state = init_state(model, optimizer, size, cfg.model.init, cfg.seed, bias, with_ema)
    startup.say_model(processes.say, model, state, cfg)
    startup.say_frozen(processes.say, model, state, cfg)
    meta = workdir.meta(cfg, model, train_split, devices)
    clock, step, parent, changes = Clock(), 0, None, {}
    restored, is_branch = _restore(checkpoints), False
    if restored is not None:
        if branch_from is not None:
            workdir.check_same_branch(directory, restored, branch_from)
        workdir.check_checkpoint(directory, restored, cfg, train_split, num_steps)
        state, step, parent = restored.into(state), restored.step, restored.meta.get("parent")
        clock.restore(restored.meta["clock"])
        changes = workdir.changes_since(restored, cfg)
        processes.say(f"resuming at step {step:,} of {num_steps:,}")
        _say_differences(restored, devices, changes)
    elif branch_from is not None:
        origin, is_branch = _parent(branch_from, train_split, num_steps), True
        state, step = _branched(state, origin, clock, meta), origin.step
        parent = {
            "workdir": str(branch_from.directory.resolve()),
            "step": step,
            "digest": origin.meta["meta_digest"],
        }
        processes.say(f"branching from {branch_from.directory} at step {step:,} of {num_steps:,}")
    elif cfg.init_from != "none":
        state, parent = _inherited(state, cfg, directory, model, train_split, meta)
        is_branch = True
    conflicts.check_steps(cfg, step, num_steps)
    meta |= {} if parent is None else {"parent": parent}
    options = feed.eval_options(cfg, len(devices))
    evaluators = make_evaluators(sets, model, train_split.classes, options, devices, loss)
    evaluators += [Averaged(evaluator) for evaluator in evaluators if with_ema]
    columns = [column for evaluator in evaluators for column in evaluator.columns]
    check_best(cfg.log.keep_best, columns)
    averaged = cfg.log.keep_best.replace("_", "_ema_", 1)
    if cfg.ema.decay and cfg.ema.use and averaged in columns:
        processes.say(
            f"warning: config.log.keep_best is {cfg.log.keep_best!r}, of the last weights, and the"
            f" average is used. To keep the best average, use --config.log.keep_best={averaged}."
        )
    if processes.index() == 0:
        # Now, not after the first epoch.
        checkpoints.check_room(sum(x.nbytes for x in jax.tree.leaves(state)))
        workdir.write_config(directory, cfg)
        history.record_changes(directory, step, changes)
        history.record_start(directory, step, workdir.facts(meta, train_split), parent)
    steps_per_epoch = train_split.num_records / cfg.batch_size
    report = _open_report(directory, step, num_steps, columns, steps_per_epoch)
    if processes.index() == 0:
        _mark_best(checkpoints, report, cfg.log.keep_best)
    first = read_steps(cfg.log.profile_steps) if processes.index() == 0 else None
    profile = Profile(directory / "tensorboard", first, report.say)
    report.describe(flat(dataclasses.asdict(cfg)))
    with report, profile:
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
                make_augmentation(cfg.augment),
                cfg.seed,
                cfg.ema.decay,
                head_steps=round(cfg.optimizer.head_epochs * steps_per_epoch),
            ),
            statistics_step=steps.make_statistics_step(model, devices),
            network=model,
            schedule=schedule,
            profile=profile,
            num_steps=num_steps,
            meta=meta,
            is_branch=is_branch,
            state=put_state(state, devices),
            step=step,
            clock=clock,
            saved_step=step if restored is not None else -1,
        )


def _restore(checkpoints: Checkpoints, which: Which = "last") -> Checkpoint | None:
    """Restore a checkpoint: the first process finds it, the others read the same."""
    found = checkpoints.find(which) if processes.index() == 0 else None
    chosen = processes.share(
        "checkpoint", None if found is None else [found.step, found.meta["meta_digest"]]
    )
    return found if chosen is None or found is not None else checkpoints.same(*chosen)


def _parent(branch_from: Parent, train_split: Split, num_steps: int) -> Checkpoint:
    """Restore the checkpoint with which a branch starts.

    Raises:
        UserError: if there is none, or this recipe and data cannot continue it.
    """
    directory = branch_from.directory
    origin = _restore(Checkpoints(directory / "checkpoints"), cast(Which, branch_from.which))
    if origin is None:
        raise UserError(
            f"{directory} holds no checkpoint. Give --branch-from the working directory of a run."
        )
    workdir.check_branch(directory, origin, train_split, num_steps)
    return origin


def _branched(state: TrainState, origin: Checkpoint, clock: Clock, meta: dict[str, Any]) -> Any:
    """Return the state of another run's checkpoint.

    A moving average that the other run does not have starts from its weights.
    Its sums over the epoch stay only where the position in the epoch is the same.
    """
    if state.ema and "ema" not in origin.tree:
        own = {key: origin.tree[key] for key in state.ema}
        origin = dataclasses.replace(origin, tree=origin.tree | {"ema": copied(own)})
    filled = origin.into(state)
    same_batch = origin.meta["config"]["batch_size"] == meta["config"]["batch_size"]
    if same_batch and origin.meta["data"]["fingerprint"] == meta["data"]["fingerprint"]:
        clock.restore(origin.meta["clock"])
        return filled
    return filled.replace(sums=Sums.zero())


def _inherited(
    state: TrainState,
    cfg: Recipe,
    directory: Path,
    model: Network,
    train_split: Split,
    meta: dict[str, Any],
) -> tuple[TrainState, dict[str, Any]]:
    """Return the first state of a run that starts from a trained model, and what the model is."""

    def warn(text: str) -> None:
        processes.say(f"warning: {text}")

    inheritance.check_data(warn, train_split)
    model_before = inheritance.open_parent(cfg, directory)
    origin = model_before.origin
    processes.check_same("parent", {"digest": origin.digest})
    if (Path(origin.path) / "lock").exists():
        warn(f"{origin.path} is being written by a run. Its step {origin.step:,} is used.")
    initial = {"params": state.params, "batch_stats": state.batch_stats}
    found = inheritance.inherit(cfg, model, initial, model_before, train_split.classes)
    processes.say(inheritance.describe(found, model_before, model))
    own = Preprocessing.from_json(meta["preprocessing"])
    inheritance.warn_of_differences(warn, model_before, own, model, meta["probability"])
    parent = {
        "workdir": str(Path(origin.path).resolve()),
        "step": origin.step,
        "digest": origin.digest,
        "kind": "init_from",
        "arrays": found.taken,
    }
    average = copied(found.variables) if state.ema else {}
    return state.replace(**found.variables, ema=average), parent


def _say_differences(
    restored: Checkpoint, devices: list[jax.Device], changes: dict[str, tuple[Any, Any]]
) -> None:
    """Print what makes the resumed run another one than an undisturbed run."""
    if (before := restored.meta["devices"]) != (now := workdir.device_facts(devices)):
        processes.say(
            f"trained on {before['count']} x {before['kind']} before, {now['count']} x"
            f" {now['kind']} now: not bit for bit the same run"
        )
    inexact = inexact_keys()
    for key, (old, new) in changes.items():
        note = ": not bit for bit the same run" if key in inexact else ""
        processes.say(f"config.{key} was {old!r} and is {new!r}{note}")


def _mark_best(checkpoints: Checkpoints, report: Listener, metric: str) -> None:
    """Mark the best checkpoint again: the last start was killed before it did, or rolled back."""
    best = best_row(report.rows, metric, checkpoints.steps())
    if best is not None:
        checkpoints.mark_best(best.step, metric, best.value)
    elif checkpoints.best_step() is not None:
        checkpoints.forget_best()


def _open_report(
    directory: Path, step: int, num_steps: int, columns: list[str], steps_per_epoch: float
) -> Listener:
    """Open the report. It drops rows that were written after `step`."""
    if processes.index() > 0:
        return Listener(columns, processes.share("rows", None))
    report = Report(directory, step, num_steps, columns, steps_per_epoch=steps_per_epoch)
    processes.share("rows", report.rows)
    return report
