"""The evaluations of a run: at the end of each epoch, and inside long ones."""

from typing import Any, NoReturn

from i21k.train import feed, processes
from i21k.train.evaluators import Averaged
from i21k.train.metrics import Totals
from i21k.train.opening import Run
from i21k.train.recalibration import images_for, recalibrate
from i21k.train.saving import learning_rate, mark_if_best, save


def evaluate(run: Run, epoch: int) -> None:
    """Evaluate and write a row: the epoch's at its end, else one of the epoch so far."""
    means, at_end = Totals.fetch(run.state.sums).means(), run.step == run.epoch_end(epoch)
    row: dict[str, Any] = {"epoch": epoch + 1, "step": run.step, "lr": learning_rate(run)}
    line = f"epoch {epoch + 1}/{run.cfg.epochs} done"
    if not at_end:
        row["epoch"] = run.step * run.cfg.batch_size / run.train_split.num_records
        line = f"step {run.step:,}/{run.num_steps:,}"
    row |= {"train_loss": means["loss"], "train_top1": means["top1"], "train_top5": means["top5"]}
    line += f" | train loss {means['loss']:.3f} top1 {means['top1']:.1%}"
    stop = processes.Agreement(run.interruption)
    recalibrated: dict[bool, Any] = {}
    num_images = images_for(
        run.cfg.evaluation.recalibrate_bn,
        run.step,
        run.network.momentum,
        run.train_split.num_records,
    )
    moments = run.network.moments(run.state.batch_stats)
    if all(run.network.is_frozen("batch_stats", mean) for mean, _ in moments):
        num_images = 0  # all statistics are those of the parent
    for evaluator in run.evaluators:
        averaged = isinstance(evaluator, Averaged)
        if averaged not in recalibrated:
            variables = run.state.ema if averaged else run.state.variables
            recalibrated[averaged] = _variables_to_evaluate(run, epoch, variables, num_images, stop)
        result = evaluator.run(recalibrated[averaged], stop)
        if result is None:
            _leave_unevaluated(run, epoch)
        row |= result.values
        line += f" | {result.text}"
    if run.evaluators and num_images:
        line += f" | BatchNorm recalibrated on {num_images:,} images"
    row |= {
        "images_per_s": run.clock.images_per_s(),
        "data_wait_fraction": run.clock.wait_fraction(),
        "train_s": run.clock.train_s,
    }
    run.report.epoch(row)
    run.report.say(line)
    mark_if_best(run, epoch)


def _variables_to_evaluate(
    run: Run, epoch: int, variables: Any, num_images: int, stop: processes.Agreement
) -> Any:
    if not num_images:
        return variables
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
        _leave_unevaluated(run, epoch)
    return variables


def _leave_unevaluated(run: Run, epoch: int) -> NoReturn:
    """End the run after a signal. The resumed run evaluates the checkpoint of this step."""
    if run.saved_step != run.step:
        save(run, epoch)
    run.interruption.leave()
