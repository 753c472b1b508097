"""Checkpoints and evaluations inside an epoch: what is kept, and that a resumed run is the same."""

import json
import os
import shutil
import signal

import pytest

from i21k.checkpoints import Checkpoints
from i21k.errors import UserError
from i21k.train import interruption, loop
from i21k.train.best import Best, best_row
from i21k.train.report import read_metrics
from i21k.trained import load
from tests.helpers.runs import assert_same_checkpoint, metrics, signal_at

pytestmark = pytest.mark.usefixtures("few_blocks")
OFTEN = 1e-7  # minutes: a checkpoint after every step


class Killed(BaseException):
    """Ends a run as kill -9 would: nothing is saved after it."""


def kill_at(monkeypatch, step: int) -> None:
    """End the run when it has done `step` steps, before it saves or reports them."""
    do = loop._one_step

    def one_step(run, feeder):
        wait_s = do(run, feeder)
        if run.step == step:
            raise Killed
        return wait_s

    monkeypatch.setattr(loop, "_one_step", one_step)


@pytest.fixture
def often(recipe):
    """The recipe with evaluations and checkpoints inside epochs."""
    recipe.log.checkpoint_minutes, recipe.evaluation.every_steps = OFTEN, 4
    return recipe


@pytest.fixture(scope="module")
def undisturbed(few_blocks, dataset, tmp_path_factory):
    """A run with evaluations inside epochs, and with checkpoints only at their ends."""
    from tests.conftest import recipe

    config = recipe.__wrapped__(dataset)
    config.evaluation.every_steps = 4
    config.log.checkpoint_minutes, config.log.keep_best = 0.0, "none"
    workdir = tmp_path_factory.mktemp("runs") / "undisturbed"
    loop.run(config, workdir)
    return workdir


def test_rows_inside_epochs_are_keyed_by_step(undisturbed):
    rows = read_metrics(undisturbed)
    # 44 images by 8: epochs end at steps 6 and 11.
    assert [(row["epoch"], row["step"]) for row in rows] == [
        ("0.727272727", "4"), ("1", "6"), ("1.454545455", "8"), ("2", "11"),
    ]  # fmt: skip
    assert all(row["val_top1"] and row["train_loss"] for row in rows)
    records = [json.loads(x) for x in (undisturbed / "metrics.jsonl").read_text().splitlines()]
    kinds = [(r["kind"], r["step"]) for r in records if r["kind"] != "step"]
    assert kinds == [("evaluation", 4), ("epoch", 6), ("evaluation", 8), ("epoch", 11)]
    assert Checkpoints(undisturbed / "checkpoints").steps() == [6, 11]
    with pytest.raises(UserError, match=r"no checkpoint .* is marked as the best"):
        load(undisturbed, "best")


@pytest.mark.parametrize("step", [3, 8, 9])
def test_a_run_killed_inside_an_epoch_loses_one_step_at_most(
    undisturbed, often, tmp_path, monkeypatch, step, capsys
):
    """Step 8 is one where the run evaluates: its checkpoint exists before its row."""
    with monkeypatch.context() as killing, pytest.raises(Killed):
        kill_at(killing, step)
        loop.run(often, tmp_path / "w")
    assert Checkpoints(tmp_path / "w" / "checkpoints").steps()[-1] == step - 1
    loop.run(often, tmp_path / "w")
    assert f"resuming at step {step - 1} of 11" in capsys.readouterr().out
    assert metrics(tmp_path / "w") == metrics(undisturbed)
    assert_same_checkpoint(tmp_path / "w", undisturbed)
    # What remains are the ends of epochs, and the best row.
    best = best_row(read_metrics(undisturbed), "val_top1")
    kept = Checkpoints(tmp_path / "w" / "checkpoints").steps()
    assert kept == sorted({6, 11, best.step})
    assert load(tmp_path / "w", "best").origin.step == best.step


@pytest.mark.parametrize("where", ["evaluate", "_save"])
def test_a_run_killed_between_checkpoint_and_row_does_what_is_missing(
    undisturbed, often, tmp_path, monkeypatch, where
):
    """Before the evaluation of step 8, and between its row and the mark of the best."""
    do = getattr(loop, where) if where == "evaluate" else Checkpoints.mark_best

    def killed(*args):
        step = args[0].step if where == "evaluate" else args[1]
        if step == (8 if where == "evaluate" else 4):
            raise Killed
        do(*args)

    with monkeypatch.context() as killing, pytest.raises(Killed):
        if where == "evaluate":
            killing.setattr(loop, "evaluate", killed)
        else:
            killing.setattr(Checkpoints, "mark_best", killed)
        loop.run(often, tmp_path / "w")
    loop.run(often, tmp_path / "w")
    assert metrics(tmp_path / "w") == metrics(undisturbed)
    assert_same_checkpoint(tmp_path / "w", undisturbed)
    best = best_row(read_metrics(undisturbed), "val_top1")
    assert load(tmp_path / "w", "best").origin.step == best.step


def test_a_signal_at_an_evaluation_inside_an_epoch(undisturbed, often, tmp_path, monkeypatch):
    often.log.checkpoint_minutes = 0.0
    with monkeypatch.context() as stopping, pytest.raises(interruption.Interrupted):
        signal_at(stopping, 8)  # the checkpoint comes before the evaluation that is due
        loop.run(often, tmp_path / "w")
    assert [row["step"] for row in read_metrics(tmp_path / "w")] == ["4", "6"]
    loop.run(often, tmp_path / "w")
    assert metrics(tmp_path / "w") == metrics(undisturbed)
    assert_same_checkpoint(tmp_path / "w", undisturbed)


def test_a_signal_during_an_evaluation_inside_an_epoch_saves_the_steps_before_it(
    undisturbed, often, tmp_path, monkeypatch
):
    often.log.checkpoint_minutes = 0.0
    evaluate = loop.evaluate

    def interrupted(run, epoch):
        if run.step == 8:
            os.kill(os.getpid(), signal.SIGTERM)
            while not run.interruption:
                pass
        evaluate(run, epoch)

    with monkeypatch.context() as stopping, pytest.raises(interruption.Interrupted):
        stopping.setattr(loop, "evaluate", interrupted)
        loop.run(often, tmp_path / "w")
    assert Checkpoints(tmp_path / "w" / "checkpoints").steps()[-1] == 8
    loop.run(often, tmp_path / "w")
    assert metrics(tmp_path / "w") == metrics(undisturbed)
    assert_same_checkpoint(tmp_path / "w", undisturbed)


def test_the_best_of_a_finished_run_is_found_again(undisturbed, recipe, tmp_path):
    """A run that did not keep it marks the best row of those that have a checkpoint."""
    shutil.copytree(undisturbed, tmp_path / "w")
    recipe.evaluation.every_steps, recipe.log.keep_best = 4, "val_loss"
    loop.run(recipe, tmp_path / "w")
    best = best_row(read_metrics(undisturbed), "val_loss", [6, 11])
    assert load(tmp_path / "w", "best").origin.step == best.step
    recipe.log.keep_best = "none"
    loop.run(recipe, tmp_path / "w")
    assert Checkpoints(tmp_path / "w" / "checkpoints").best_step() is None


def test_a_metric_that_does_not_exist(recipe, tmp_path):
    recipe.log.keep_best = "val_top2"
    with pytest.raises(UserError, match=r"keep_best is 'val_top2'. Use one of train_loss, .*none"):
        loop.run(recipe, tmp_path / "w")


def test_which_row_is_the_best():
    values = [("0.25", "3.0"), ("0.5", "2.0"), ("", ""), ("0.5", "nan"), ("nan", "1.0")]
    rows = [
        {"step": str(step), "val_top1": top1, "val_loss": loss}
        for step, (top1, loss) in enumerate(values)
    ]
    assert best_row(rows, "val_top1") == Best(1, 0.5)  # the first of equal ones
    assert best_row(rows, "val_loss") == Best(4, 1.0)
    assert best_row(rows, "val_loss", [0, 3]) == Best(0, 3.0)
    assert best_row(rows, "other_top1") is None
