"""A run that resumes with another recipe, and one that branches from another run."""

import json
import shutil

import numpy as np
import pytest

from i21k.checkpoints import Checkpoints
from i21k.errors import UserError
from i21k.train import loop
from i21k.train.compare import describe, find_runs
from i21k.train.history import (
    Parent,
    read_changes,
    read_parent,
    read_recipe,
    read_run,
    record_changes,
    record_start,
)
from i21k.train.optimizer import make_schedule
from i21k.train.recipe import default_config, parse, to_config
from i21k.train.report import read_metrics
from i21k.trained import load
from tests.helpers.datasets import write_dataset
from tests.helpers.runs import assert_same_checkpoint, metrics

pytestmark = pytest.mark.usefixtures("few_blocks")


@pytest.fixture(scope="module")
def one_epoch(few_blocks, dataset, tmp_path_factory):
    """A run of one epoch, to step 6."""
    from tests.conftest import recipe

    config = recipe.__wrapped__(dataset)
    config.epochs = 1
    workdir = tmp_path_factory.mktemp("runs") / "one_epoch"
    loop.run(config, workdir)
    return workdir


@pytest.fixture
def copied(one_epoch, tmp_path):
    return shutil.copytree(one_epoch, tmp_path / "w")


def test_a_run_documents_its_start(one_epoch, dataset):
    (start,) = read_run(one_epoch)["starts"]
    assert start["step"] == 0 and start["command"] and start["host"] and start["date"]
    assert start["versions"]["jax"] and start["devices"]["count"] == 4
    assert start["environment"]["JAX_NUM_CPU_DEVICES"] == "4"
    assert "dirty" in start and start["data"]["directory"] == str(dataset)
    assert len(start["data"]["fingerprint"]) >= 32
    events = b"".join(p.read_bytes() for p in (one_epoch / "tensorboard").glob("events*"))
    assert b"| optimizer.learning_rate | 0.01 |" in events and b"epoch/val_loss" in events


@pytest.mark.parametrize(
    "junk",
    [
        "[" * 100_000,
        '{"step": Infinity, "changes": {}, "starts": []}',
        '{"starts": [1], "parent": null}',
        '{"starts": [], "parent": "abc"}',
        '{"starts": [], "parent": {"workdir": 5, "step": []}}',
        '{"starts": [], "parent": {}}',
        "\ufeff[]",
    ],
)
def test_damaged_descriptions_of_a_run_are_not_used(one_epoch, tmp_path, junk):
    work = tmp_path / "w"
    shutil.copytree(one_epoch, work)
    for name in ("run.json", "changes.jsonl"):
        (work / name).write_text(junk)
    assert not read_run(work).get("starts") and read_changes(work) == []
    assert "w" in describe(find_runs(work))
    record_start(work, 6, {}, None)
    record_changes(work, 6, {"epochs": (1, 2)})
    assert [start["step"] for start in read_run(work)["starts"]] == [6]
    assert [change.step for change in read_changes(work)] == [6]


def test_more_epochs_and_another_rate_are_recorded_and_drawn(copied, capsys):
    config = to_config(read_recipe(copied))
    config.epochs, config.optimizer.learning_rate = 2, 0.002
    before = (copied / "learning_curve.png").read_bytes()
    loop.run(config, copied)
    out = capsys.readouterr().out
    assert "config.optimizer.learning_rate was 0.01 and is 0.002: not bit for bit" in out
    (change,) = read_changes(copied)
    assert change.step == 6
    assert change.keys == {"epochs": (1, 2), "optimizer.learning_rate": (0.01, 0.002)}
    assert [row["lr"] for row in read_metrics(copied)] == ["0.01", "0.002"]
    assert [start["step"] for start in read_run(copied)["starts"]] == [0, 6]
    assert before != (copied / "learning_curve.png").read_bytes()
    assert read_recipe(copied)["optimizer"]["learning_rate"] == 0.002
    loop.run(config, copied)  # nothing has changed since
    assert read_changes(copied) == [change]


def test_a_change_that_was_taken_back_before_a_step_is_forgotten(copied):
    config = to_config(read_recipe(copied))
    config.epochs = 2
    config.optimizer.weight_decay = 0.5
    with pytest.raises(UserError, match="keep_best"):
        config.log.keep_best = "typo"
        loop.run(config, copied)
    assert read_changes(copied) == [] and read_recipe(copied)["epochs"] == 1
    config.log.keep_best, config.optimizer.weight_decay = "val_top1", 1e-5
    loop.run(config, copied)
    assert [change.keys for change in read_changes(copied)] == [{"epochs": (1, 2)}]


@pytest.mark.slow
def test_a_cosine_is_extended_only_by_a_new_schedule(recipe, tmp_path):
    recipe.epochs, recipe.optimizer.schedule = 1, "cosine"
    loop.run(recipe, tmp_path / "w")
    recipe.epochs = 2
    with pytest.raises(UserError, match=r"add --config.optimizer.schedule_from_step=6\. To train"):
        loop.run(recipe, tmp_path / "w")
    recipe.optimizer.schedule_from_step = 5
    with pytest.raises(UserError, match=r"schedule_from_step was 0 and is 5\. .*_from_step=6\."):
        loop.run(recipe, tmp_path / "w")
    recipe.optimizer.schedule_from_step = 6
    loop.run(recipe, tmp_path / "w")
    assert read_changes(tmp_path / "w")[0].keys == {
        "epochs": (1, 2),
        "optimizer.schedule_from_step": (0, 6),
    }
    loop.run(recipe, tmp_path / "w")  # the new schedule is the run's own now
    recipe.seed = 1
    with pytest.raises(UserError) as caught:  # a new schedule would not help
        loop.run(recipe, tmp_path / "w")
    assert "schedule_from_step" not in str(caught.value) and "--branch-from" in str(caught.value)


def test_a_schedule_that_starts_after_the_first_step_is_refused(recipe, tmp_path):
    """The learning rate of the warm-up before it would be negative."""
    recipe.optimizer.schedule_from_step = 6
    with pytest.raises(UserError, match=r"schedule_from_step is 6 and this run starts at step 0"):
        loop.run(recipe, tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_more_steps_than_devices_can_count_are_refused(recipe, tmp_path):
    recipe.epochs = 2**31 - 1
    with pytest.raises(UserError, match=r"epochs is 2,147,483,647. That is .* Use fewer epochs"):
        loop.run(recipe, tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_a_new_schedule_is_counted_from_its_step():
    config = default_config()
    config.optimizer.learning_rate, config.optimizer.schedule_from_step = 0.4, 900
    schedule = make_schedule(parse(config).optimizer, 100, 1900)
    rates = [float(schedule(step)) for step in (900, 999, 1450, 1900)]
    assert rates == pytest.approx([0.004, 0.4, 0.2, 0], abs=1e-7)


def test_a_branch_with_the_same_recipe_is_the_same_run(one_epoch, recipe, tmp_path, capsys):
    recipe.epochs = 2
    loop.run(recipe, tmp_path / "whole")
    loop.run(recipe, tmp_path / "branch", Parent(one_epoch, "last"))
    assert "branching from" in capsys.readouterr().out
    assert_same_checkpoint(tmp_path / "branch", tmp_path / "whole")
    assert metrics(tmp_path / "branch") == metrics(tmp_path / "whole")  # also of the epoch before
    parent = {
        "workdir": str(one_epoch.resolve()),
        "step": 6,
        "digest": load(one_epoch).origin.digest,
    }
    assert read_run(tmp_path / "branch")["parent"] == parent
    assert load(tmp_path / "branch").checkpoint.meta["parent"] == parent
    loop.run(recipe, tmp_path / "branch", Parent(one_epoch, 6))  # the same command again
    assert "resuming at step 11 of 11" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"holds another run already. Use --resume"):
        loop.run(recipe, tmp_path / "branch", Parent(one_epoch, 5))
    with pytest.raises(UserError, match=r"holds another run already. Use --resume"):
        loop.run(recipe, tmp_path / "whole", Parent(one_epoch, "last"))


def test_a_branch_has_a_checkpoint_of_its_own_before_its_first_step(
    one_epoch, recipe, tmp_path, monkeypatch
):
    recipe.epochs, recipe.batch_size, recipe.optimizer.momentum = 2, 4, 0.5
    monkeypatch.setattr(loop, "_train_epoch", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        loop.run(recipe, tmp_path / "branch", Parent(one_epoch, "last"))
    monkeypatch.undo()
    assert Checkpoints(tmp_path / "branch" / "checkpoints").steps() == [6]
    loop.run(to_config(read_recipe(tmp_path / "branch")), tmp_path / "branch")
    assert [row["step"] for row in read_metrics(tmp_path / "branch")] == ["11", "22"]
    assert load(tmp_path / "branch").checkpoint.meta["parent"]["step"] == 6
    count = load(tmp_path / "branch").checkpoint.tree["sums"]["count"]
    assert np.asarray(count) == 44  # of the second epoch


def test_what_a_branch_cannot_continue(one_epoch, recipe, tmp_path):
    with pytest.raises(UserError, match=r"is of step 6 and this recipe ends at step 6. Increase"):
        recipe.epochs = 1
        loop.run(recipe, tmp_path / "b", Parent(one_epoch, "last"))
    recipe.epochs = 2
    with pytest.raises(UserError, match=r"no checkpoint of step 4. Give another step \(6\)"):
        loop.run(recipe, tmp_path / "b", Parent(one_epoch, 4))
    with pytest.raises(UserError, match=r"holds no checkpoint. Give --branch-from"):
        loop.run(recipe, tmp_path / "b", Parent(tmp_path / "gone", "last"))
    recipe.model.width = 0.25
    with pytest.raises(UserError, match="the checkpoint of step 6 has"):
        loop.run(recipe, tmp_path / "b", Parent(one_epoch, "last"))
    assert not (tmp_path / "b").exists()


def test_a_branch_to_other_data_of_the_same_classes(one_epoch, recipe, tmp_path):
    recipe.data.directory = str(write_dataset(tmp_path / "d", {"train": 80, "val": 8}))
    recipe.epochs = 1
    loop.run(recipe, tmp_path / "b", Parent(one_epoch, "last"))
    assert [row["step"] for row in read_metrics(tmp_path / "b")] == ["10"]
    assert np.asarray(load(tmp_path / "b").checkpoint.tree["sums"]["count"]) == 32


@pytest.mark.parametrize(
    ("text", "parent"),
    [
        ("runs/x", ("runs/x", "last")),
        ("runs/x@120", ("runs/x", 120)),
        ("runs/x@best", ("runs/x", "best")),
        ("runs/me@home/x", ("runs/me@home/x", "last")),
        ("runs/me@home/x@7", ("runs/me@home/x", 7)),
    ],
)
def test_how_a_parent_is_written(text, parent):
    directory, which = read_parent(text)
    assert (str(directory), which) == parent


def test_the_recipe_of_a_run_whose_file_is_gone(copied):
    stored = read_recipe(copied)
    (copied / "config.json").write_text("{")
    assert read_recipe(copied) == stored
    shutil.rmtree(copied / "checkpoints")
    with pytest.raises(UserError, match=r"have no recipe that can be read. Give the recipe again"):
        read_recipe(copied)
    for missing in (copied / "gone", copied / "tensorboard"):
        with pytest.raises(UserError, match=r"holds no run. Give the working directory of a run"):
            read_recipe(missing)


def test_damaged_records_of_a_run_are_skipped(copied):
    (copied / "changes.jsonl").write_text('{"step": 3, "changes": {"epochs": [1, 2]}}\n{"st\n[]\n')
    assert [change.step for change in read_changes(copied)] == [3]
    (copied / "run.json").write_text(json.dumps({"starts": 3}))
    assert read_run(copied) == {}
