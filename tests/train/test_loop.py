import errno
import json
import os
import shutil
import signal
import socket
import time

import jax
import numpy as np
import pytest

from i21k.checkpoints import Checkpoints
from i21k.data.format.readers import RecordReader
from i21k.data.format.splits import open_split
from i21k.data.load import loader, order
from i21k.errors import UserError
from i21k.evaluation.evaluate import evaluate_checkpoint
from i21k.images.decode import decode
from i21k.labels import ClassList
from i21k.train import interruption, loop, passes, steps
from i21k.train.devices import put_state
from i21k.train.report import read_metrics
from i21k.trained import load_checkpoint
from i21k.wordnet.class_lists import named
from tests.helpers.datasets import CLASSES, NUM_TRAIN, NUM_VAL, write_dataset
from tests.helpers.runs import assert_same_checkpoint, metrics, signal_at

pytestmark = pytest.mark.usefixtures("few_blocks")

STEPS = 11  # two epochs of 44 images by 8


@pytest.fixture(scope="module")
def finished(few_blocks, dataset, tmp_path_factory):
    """A run that nobody disturbed."""
    from tests.conftest import recipe

    workdir = tmp_path_factory.mktemp("runs") / "finished"
    loop.run(recipe.__wrapped__(dataset), workdir)
    return workdir


def test_a_run_leaves_what_it_promises(finished, capsys):
    rows = read_metrics(finished)
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "6"), ("2", "11")]
    assert (
        0
        <= float(rows[1]["val_top1"])
        <= float(rows[1]["val_top5"])
        <= float(rows[1]["val_top20"])
        == 1
    )
    assert float(rows[1]["images_per_s"]) > 0 and 0 <= float(rows[1]["data_wait_fraction"]) <= 1
    assert {p.name for p in finished.iterdir()} >= {
        "config.json",
        "metrics.csv",
        "metrics.jsonl",
        "learning_curve.png",
        "tensorboard",
    }
    assert json.loads((finished / "config.json").read_text())["batch_size"] == 8
    assert Checkpoints(finished / "checkpoints").steps() == [6, 11]
    meta = load_checkpoint(finished).checkpoint.meta
    assert meta["classes"] == list(CLASSES.ids) and meta["classes_hash"] == CLASSES.hash
    kinds = [
        json.loads(line)["kind"] for line in (finished / "metrics.jsonl").read_text().splitlines()
    ]
    assert kinds == ["step", "step", "epoch", "step", "step", "epoch"]


@pytest.mark.parametrize(
    ("name", "smoothing", "epochs"),
    [("softmax", 0.1, 8), pytest.param("sigmoid", 0.0, 20, marks=pytest.mark.slow)],
)
def test_a_run_learns_to_classify(recipe, tmp_path, name, smoothing, epochs):
    recipe.loss.name, recipe.loss.smoothing = name, smoothing
    recipe.epochs, recipe.optimizer.learning_rate = epochs, 0.02
    loop.run(recipe, tmp_path / "w")
    # Chance is 1 of 4 classes: 14 of 21 images are right by chance in 1 of 10,000 runs.
    assert float(read_metrics(tmp_path / "w")[-1]["val_top1"]) >= 14 / NUM_VAL
    assert load_checkpoint(tmp_path / "w").probability == name


def test_starting_a_finished_run_changes_nothing(finished, recipe, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "w")
    loop.run(recipe, tmp_path / "w")
    assert "resuming at step 11 of 11" in capsys.readouterr().out
    assert (tmp_path / "w" / "metrics.csv").read_text() == (finished / "metrics.csv").read_text()


def test_evaluate_repeats_the_row_of_the_run_and_counts_every_picture(finished, dataset):
    result = evaluate_checkpoint(finished, dataset, "val", batch_size=4).summary()
    assert (result["count"], result["step"]) == (NUM_VAL, STEPS)
    row, means = read_metrics(finished)[-1], result["table"]["all"]
    assert means["top1"] == pytest.approx(float(row["val_top1"])) and means[
        "loss"
    ] == pytest.approx(float(row["val_loss"]), rel=1e-5)


def test_ranking_fewer_classes(finished, dataset):
    """The best of the two is right, or the image is of another class and always wrong."""
    two = ClassList(CLASSES.ids[:2])
    table = evaluate_checkpoint(finished, dataset, over=two).summary()["table"]
    loaded, devices = load_checkpoint(finished), jax.local_devices()
    options = loader.eval_options(8, 32, loaded.crop_fraction, len(devices))
    parts = passes.log_probabilities(
        steps.make_log_probabilities_step(loaded.network, devices),
        put_state(loaded.variables, devices),
        open_split(dataset, "val"),
        options,
        devices,
    )
    answers, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
    assert table["all"]["top1"] == pytest.approx(np.mean(answers.argmax(axis=1) == labels))
    best_of_two = answers[:, :2].argmax(axis=1)
    assert table["over"]["top1"] == pytest.approx(np.mean(best_of_two == labels))
    with pytest.raises(ValueError, match="none of the 1 classes to rank is one of the model's 4"):
        evaluate_checkpoint(finished, dataset, over=ClassList(("n99999999",)))


@pytest.fixture(scope="module")
def stopped(few_blocks, dataset, tmp_path_factory):
    """A run that a signal stopped after step 8, in the middle of its second epoch."""
    from tests.conftest import recipe

    workdir = tmp_path_factory.mktemp("runs") / "stopped"
    with pytest.MonkeyPatch.context() as monkeypatch:
        signal_at(monkeypatch, 8)
        with pytest.raises(interruption.Interrupted, match="SIGTERM") as caught:
            loop.run(recipe.__wrapped__(dataset), workdir)
    assert caught.value.exit_code == 143
    return workdir


def test_a_windowed_run_goes_on_bit_exact_and_stays_windowed(recipe, tmp_path, monkeypatch):
    recipe.data.order = "windowed"
    recipe.evaluation.sets = "none"
    loop.run(recipe, tmp_path / "whole")
    with (
        monkeypatch.context() as stopping,
        pytest.raises(interruption.Interrupted, match="SIGTERM"),
    ):
        signal_at(stopping, 8)
        loop.run(recipe, tmp_path / "w")
    recipe.data.workers = 2
    loop.run(recipe, tmp_path / "w")
    assert_same_checkpoint(tmp_path / "w", tmp_path / "whole")
    recipe.data.order = "global"
    with pytest.raises(
        ValueError, match=r"another recipe: config.data.order was 'windowed' and is 'global'"
    ):
        loop.run(recipe, tmp_path / "w")


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_going_on_in_mid_epoch_is_bit_exact_with_any_number_of_workers(
    stopped, finished, recipe, tmp_path, workers, capsys
):
    assert Checkpoints(stopped / "checkpoints").steps() == [6, 8]
    shutil.copytree(stopped, tmp_path / "w")
    recipe.data.workers = workers
    loop.run(recipe, tmp_path / "w")
    assert "resuming at step 8 of 11" in capsys.readouterr().out
    assert_same_checkpoint(tmp_path / "w", finished)
    assert metrics(tmp_path / "w") == metrics(finished)
    assert Checkpoints(tmp_path / "w" / "checkpoints").steps() == [6, 11]
    # Times add up too: 2 steps before and 3 after, of which the first, that compiled, is left out.
    assert load_checkpoint(tmp_path / "w").checkpoint.meta["clock"]["images"] == 32
    assert load_checkpoint(finished).checkpoint.meta["clock"]["images"] == 40


def test_a_signal_during_evaluation_loses_nothing(finished, recipe, tmp_path, monkeypatch):
    evaluate = passes.evaluate

    def interrupted(*args):
        should_stop = args[5]
        os.kill(os.getpid(), signal.SIGINT)
        while not should_stop():
            pass
        return evaluate(*args)

    monkeypatch.setattr(passes, "evaluate", interrupted)
    with pytest.raises(interruption.Interrupted, match="SIGINT") as caught:
        loop.run(recipe, tmp_path / "w")
    assert caught.value.exit_code == 130
    assert metrics(tmp_path / "w") == [] and Checkpoints(
        tmp_path / "w" / "checkpoints"
    ).steps() == [6]
    monkeypatch.setattr(passes, "evaluate", evaluate)
    loop.run(recipe, tmp_path / "w")
    assert metrics(tmp_path / "w") == metrics(finished)
    assert_same_checkpoint(tmp_path / "w", finished)


def test_recalibrated_statistics_repair_the_evaluation_and_leave_the_training_alone(
    stopped, finished, recipe, dataset, tmp_path
):
    shutil.copytree(stopped, tmp_path / "w")
    recipe.evaluation.recalibrate_bn = 20  # rounded up to 3 batches
    loop.run(recipe, tmp_path / "w")
    assert_same_checkpoint(tmp_path / "w", finished)
    assert float(read_metrics(tmp_path / "w")[1]["val_loss"]) != float(
        read_metrics(finished)[1]["val_loss"]
    )

    loaded = load_checkpoint(finished).checkpoint
    planted = jax.tree.map(
        lambda x: 10 * x + 3, loaded.tree["batch_stats"]
    )  # moving averages that are far off
    meta = {
        key: value
        for key, value in loaded.meta.items()
        if key not in ("digests", "meta_digest", "step", "format")
    }
    Checkpoints(tmp_path / "w" / "checkpoints").save(
        STEPS + 1, {**loaded.tree, "batch_stats": planted}, meta
    )

    def loss(workdir, recalibrate_bn=0):
        return evaluate_checkpoint(
            workdir, dataset, batch_size=8, recalibrate_bn=recalibrate_bn
        ).summary()["table"]["all"]["loss"]

    plain, broken = loss(finished), loss(tmp_path / "w")
    assert abs(broken - plain) > 0.01 * plain
    good, repaired = loss(finished, 20), loss(tmp_path / "w", 20)
    assert repaired == good  # what was planted is gone without a trace


def test_few_steps_are_recalibrated_by_default_and_evaluate_warns_of_them(
    stopped, finished, recipe, dataset, tmp_path, capsys
):
    val_losses = []
    for name, setting in (("auto", "auto"), ("all", NUM_TRAIN)):
        shutil.copytree(stopped, tmp_path / name)
        recipe.evaluation.recalibrate_bn = setting
        loop.run(recipe, tmp_path / name)
        val_losses.append(read_metrics(tmp_path / name)[1]["val_loss"])
    assert val_losses[0] == val_losses[1] != read_metrics(finished)[1]["val_loss"]

    capsys.readouterr()
    evaluate_checkpoint(finished, dataset, batch_size=8)
    printed = capsys.readouterr()
    assert f"the checkpoint is of step {STEPS:,}" in printed.out + printed.err
    assert "--recalibrate-bn 1024" in printed.out + printed.err


def test_another_number_of_devices_may_go_on_and_is_said(stopped, recipe, tmp_path, capsys):
    shutil.copytree(stopped, tmp_path / "w")
    recipe.devices = 2
    loop.run(recipe, tmp_path / "w")
    assert "trained on 4 x cpu before, 2 x cpu now" in capsys.readouterr().out
    assert load_checkpoint(tmp_path / "w").checkpoint.step == STEPS


@pytest.mark.parametrize("slow", ["decode", "disk"])
def test_the_wait_for_data_is_what_the_devices_were_idle(
    recipe, tmp_path, monkeypatch, capsys, slow
):
    delay_s = 0.3  # a batch, far longer than the step

    def delayed(function, seconds):
        def call(*args):
            time.sleep(seconds)
            return function(*args)

        return call

    if slow == "decode":
        monkeypatch.setattr("i21k.images.decode.decode", delayed(decode, delay_s / 8))
    else:
        monkeypatch.setattr(
            RecordReader, "__getitem__", delayed(RecordReader.__getitem__, delay_s / 8)
        )

    train_split = open_split(recipe.data.directory, "train")
    recipe.data.threads, recipe.epochs = 1, 2
    recipe.evaluation.sets = "none"
    loop.run(recipe, tmp_path / "w")
    row = read_metrics(tmp_path / "w")[1]
    waited_s = float(row["data_wait_fraction"]) * float(row["train_s"])
    num_timed = order.epoch_end(1, train_split.num_records, 8) - order.epoch_end(
        0, train_split.num_records, 8
    )
    assert 0.5 * delay_s * num_timed < waited_s < float(row["train_s"])
    assert "input-bound" in capsys.readouterr().out
    assert float(row["images_per_s"]) == pytest.approx(
        8 * num_timed / float(row["train_s"]), rel=1e-6
    )


def test_a_bad_record_stops_a_run_which_goes_on_when_it_may_be_skipped(recipe, tmp_path, capsys):
    split = open_split(write_dataset(tmp_path / "d", {"train": 44, "val": 8}), "train")
    content = bytearray(split.shard_paths[1].read_bytes())
    content[content.find(b"\xff\xd8\xff") + 200] ^= 1
    split.shard_paths[1].write_bytes(content)
    recipe.data.directory, recipe.epochs = str(tmp_path / "d"), 1
    with pytest.raises(ValueError, match=r"record 0 of .*-00001-of-00003: it cannot be read"):
        loop.run(recipe, tmp_path / "w")
    (step,) = Checkpoints(tmp_path / "w" / "checkpoints").steps()
    assert 0 < step < 6  # what was trained before the record is not lost
    recipe.data.on_bad_record, recipe.data.max_bad_fraction = (
        "skip",
        0.05,
    )  # of 44: two, for it may come again in the last batch
    loop.run(recipe, tmp_path / "w")
    out = capsys.readouterr().out
    assert "skipped bad record 1: record 0 of" in out and f"resuming at step {step} of" in out
    assert len(read_metrics(tmp_path / "w")) == 1


def test_a_set_that_does_not_exist_is_an_error_before_training(recipe, tmp_path):
    recipe.data.directory = str(write_dataset(tmp_path / "d", {"train": 16}))
    for sets in ("val=val", f"val={recipe.data.directory}:vall"):
        recipe.evaluation.sets = sets
        with pytest.raises(UserError, match=r"has no split 'vall?'; expected one of train. Use --"):
            loop.run(recipe, tmp_path / "w")
    recipe.epochs, recipe.evaluation.sets = 1, "none"
    loop.run(recipe, tmp_path / "w")
    row = read_metrics(tmp_path / "w")[0]
    assert "val_loss" not in row and float(row["train_loss"]) > 0


@pytest.mark.parametrize(
    ("every_steps", "what"),
    [(1, r"batch_stats/\w+/moving_var is not finite"), (6, "the loss is (nan|inf)")],
)
def test_a_run_that_diverges_stops_and_is_not_saved(recipe, tmp_path, every_steps, what):
    recipe.optimizer.learning_rate = 1e3
    recipe.log.every_steps = every_steps  # variances overflow first
    recipe.optimizer.weight_decay = 1e3
    recipe.epochs = 8
    with pytest.raises(
        ValueError, match=rf"{what} at step \d+, learning rate 1000; the last good checkpoint is"
    ):
        loop.run(recipe, tmp_path / "w")
    for step in Checkpoints(tmp_path / "w" / "checkpoints").steps():
        assert np.isfinite(
            load_checkpoint(tmp_path / "w").variables["params"]["fc1"]["kernel"]
        ).all(), step


@pytest.mark.slow
def test_the_recipe_of_2015_runs(tmp_path, capsys):
    from configs.i21k_inception import get_config

    config = get_config()
    config.data.directory = str(
        write_dataset(tmp_path / "d", {"train": 16}, classes=named("fall11"))
    )
    config.epochs, config.batch_size = 1, 8
    loop.run(config, tmp_path / "w")
    out = capsys.readouterr().out
    assert "33,619,969 parameters" in out and "batch 8 = 4 x 2" in out and "21,841 classes" in out
    row = read_metrics(tmp_path / "w")[0]
    assert row["step"] == "2" and 9 < float(row["train_loss"]) < 11  # ln 21841 = 9.99


# --------------------------------------------------------------------------------------------------


def test_fewer_devices_than_asked_for(recipe, tmp_path):
    recipe.devices = 8
    with pytest.raises(
        ValueError,
        match=r"config.devices is 8, and this machine has 4 cpu devices. Use "
        r"--config.devices=4, or simulate 8",
    ):
        loop.run(recipe, tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_a_silent_fall_back_to_the_cpu_is_named(recipe, tmp_path, monkeypatch):
    errors = {
        "tpu": "no libtpu.so",
        "proxy": "no proxy",
        "cuda": "Unable to load cuDNN. Is it installed?\nmore",
    }
    monkeypatch.setattr(jax._src.xla_bridge, "_backend_errors", errors, raising=True)
    recipe.devices = 8
    with pytest.raises(
        ValueError,
        match=r"4 cpu devices \(JAX fell back to the CPU: cuda: Unable to load cuDNN. Is it "
        r"installed\?\)\. Use",
    ):
        loop.run(recipe, tmp_path / "w")


def test_a_batch_that_does_not_divide(recipe, tmp_path):
    recipe.batch_size = 10
    with pytest.raises(
        ValueError,
        match=r"batch_size 10 is not divisible by 4 devices. Use a multiple, for example "
        r"--config.batch_size=12",
    ):
        loop.run(recipe, tmp_path / "w")


def test_a_batch_larger_than_the_data(recipe, tmp_path):
    recipe.batch_size = 48
    with pytest.raises(
        ValueError,
        match=r"batch_size is 48 and split 'train' of .* has 44 images. Use "
        r"--config.batch_size=44 or",
    ):
        loop.run(recipe, tmp_path / "w")


def test_a_size_that_the_network_cannot_take(recipe, tmp_path):
    recipe.model.revision, recipe.image_size = "released", 48
    with pytest.raises(
        ValueError,
        match=r"is 48 x 48 px, .* takes sizes of 32k-1 to 32k.6 px. Use the nearest, 38 px",
    ):
        loop.run(recipe, tmp_path / "w")


def test_missing_data_shows_how_to_pack(recipe, tmp_path):
    recipe.data.directory = str(tmp_path / "gone")
    with pytest.raises(ValueError, match=r"gone does not exist; .*i21k pack SOURCE --out .*gone"):
        loop.run(recipe, tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_a_missing_shard_is_named(recipe, tmp_path):
    directory = write_dataset(tmp_path / "d", {"train": 16})
    open_split(directory, "train").shard_paths[1].unlink()
    recipe.data.directory = str(directory)
    with pytest.raises(ValueError, match="00001-of-00003"):
        loop.run(recipe, tmp_path / "w")


def test_another_recipe_in_the_same_workdir(finished, recipe, tmp_path):
    shutil.copytree(finished, tmp_path / "w")
    recipe.optimizer.momentum = 0.5
    recipe.log.every_steps = 7  # may change
    recipe.seed = 1
    recipe.batch_size = 4
    recipe.data.order = "windowed"
    (tmp_path / "w" / "config.json").unlink()  # the checkpoint knows
    with pytest.raises(
        ValueError,
        match=r"another recipe: config.batch_size was 8 and is 4; config.data.order was "
        r"'global' and is 'windowed';"
        r" config.optimizer.momentum was 0.9 and is 0.5; config.seed was 0 and is 1. To "
        r"continue it with its own"
        r" recipe, use --resume .*w. To train with the new values .* use --branch-from .*w@11 "
        r"and another --workdir",
    ):
        loop.run(recipe, tmp_path / "w")


def test_other_data_behind_a_checkpoint(finished, recipe, tmp_path):
    shutil.copytree(finished, tmp_path / "w")
    recipe.data.directory = str(write_dataset(tmp_path / "fewer", {"train": 40, "val": 4}))
    with pytest.raises(
        ValueError,
        match="holds other images than the checkpoint was trained on: it had 44 records",
    ):
        loop.run(recipe, tmp_path / "w")
    other = ClassList(("n01440764", "n01443537", "n01484850", "n99999999"))
    recipe.data.directory = str(
        write_dataset(tmp_path / "other", {"train": 44, "val": 4}, classes=other)
    )
    with pytest.raises(
        ValueError,
        match=r"another class list than the checkpoint: .*1 only in the second, such as n99999999",
    ):
        loop.run(recipe, tmp_path / "w")


def test_the_same_data_elsewhere_is_fine(finished, recipe, dataset, tmp_path):
    shutil.copytree(dataset, tmp_path / "moved")
    shutil.copytree(finished, tmp_path / "w")
    recipe.data.directory = str(tmp_path / "moved")
    loop.run(recipe, tmp_path / "w")


def test_a_workdir_that_another_run_holds(recipe, tmp_path):
    from i21k.train.workdir import locked

    with (
        locked(tmp_path / "w"),
        pytest.raises(
            ValueError, match=f"is held by process {os.getpid()} on {socket.gethostname()}"
        ),
    ):
        loop.run(recipe, tmp_path / "w")


def test_a_workdir_that_cannot_be_locked(recipe, tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(
        ValueError,
        match=r"cannot be locked \(No locks available\). Choose a --workdir on a file system",
    ):
        loop.run(recipe, tmp_path / "w")


def test_a_workdir_that_cannot_be_written(recipe, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(
        ValueError,
        match=r"working directory .*file/w cannot be written \(Not a directory\). Choose "
        r"another one",
    ):
        loop.run(recipe, tmp_path / "file" / "w")


def test_numbers_that_evaluate_does_not_take(finished, dataset):
    with pytest.raises(ValueError, match="recalibrate_bn is -5. Use at least 0"):
        evaluate_checkpoint(finished, dataset, recalibrate_bn=-5)
    with pytest.raises(ValueError, match="batch_size is 0. Use at least 1"):
        evaluate_checkpoint(finished, dataset, batch_size=0)


def test_no_checkpoint_to_evaluate(dataset, tmp_path):
    with pytest.raises(
        ValueError, match=r"holds no checkpoint\. Give the working directory of a run"
    ):
        evaluate_checkpoint(tmp_path, dataset)


def test_slow_steps_have_a_line_each_whatever_the_recipe_says(
    recipe, tmp_path, monkeypatch, capsys
):
    recipe.log.every_steps, recipe.epochs = 1000, 1
    monkeypatch.setattr(loop, "_LINE_EVERY_S", 0.0)
    loop.run(recipe, tmp_path / "w")
    lines = [line for line in capsys.readouterr().out.splitlines() if "| step " in line]
    assert [line.split("| step ")[1].split("/")[0] for line in lines] == list("23456")[: len(lines)]
    assert len(lines) >= 4  # the first step has no time yet
