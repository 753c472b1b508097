"""The moving average of the weights: its definition, its columns, and what uses it."""

import shutil

import jax
import numpy as np
import pytest

from i21k.errors import UserError
from i21k.evaluation.evaluate import evaluate_checkpoint
from i21k.train import ema, interruption, loop
from i21k.train.history import Parent
from i21k.train.report import read_metrics
from i21k.trained import load, load_checkpoint
from tests.helpers.runs import assert_same_checkpoint, metrics, signal_at

pytestmark = pytest.mark.usefixtures("few_blocks")


def test_the_average_is_its_formula():
    values = np.random.default_rng(0).normal(size=(30, 4))
    average, expected = {"a": values[0].astype(np.float32)}, values[0]
    for step, value in enumerate(values[1:]):
        average = ema.moved(average, {"a": value.astype(np.float32)}, step, 0.7)
        old = min(0.7, (1 + step) / (10 + step))
        expected = old * expected + (1 - old) * value
    np.testing.assert_allclose(average["a"], expected, rtol=1e-5)
    assert float(ema.weight_of_old(10**6, 0.999)) == pytest.approx(0.999)


@pytest.fixture
def recipe(recipe):
    recipe.ema.decay = 0.8
    recipe.devices, recipe.accumulate_steps = 2, 2
    recipe.optimizer.name, recipe.optimizer.clip_norm = "muon", 1.0
    recipe.log.keep_best = "val_ema_top1"
    return recipe


@pytest.fixture(scope="module")
def finished(few_blocks, dataset, tmp_path_factory):
    """A run with an average that nobody disturbed."""
    from tests.conftest import recipe as original

    workdir = tmp_path_factory.mktemp("runs") / "finished"
    loop.run(recipe.__wrapped__(original.__wrapped__(dataset)), workdir)
    return workdir


def test_it_is_evaluated_beside_the_weights_and_loaded_instead(finished, dataset):
    row, model = read_metrics(finished)[-1], load(finished)
    assert model.is_average and load(finished).origin == model.origin
    last, average = (load_checkpoint(finished, weights=kind) for kind in ("last", "average"))
    assert not last.is_average and last.origin.digest != average.origin.digest
    for loaded, name in ((last, "val"), (average, "val_ema")):
        table = evaluate_checkpoint(loaded, dataset).summary()["table"]["all"]
        assert table["top1"] == pytest.approx(float(row[f"{name}_top1"]))
        assert table["loss"] == pytest.approx(float(row[f"{name}_loss"]), rel=1e-5)
    assert float(row["val_loss"]) != float(row["val_ema_loss"])


def test_it_lies_between_the_weights_of_the_steps(finished):
    tree = load_checkpoint(finished).checkpoint.tree
    for kind in ("params", "batch_stats"):
        for average, last in zip(
            jax.tree.leaves(tree["ema"][kind]), jax.tree.leaves(tree[kind]), strict=True
        ):
            assert average.shape == last.shape and average.dtype == last.dtype
            assert np.linalg.norm(average - last) < np.linalg.norm(last) + 1e-6


def test_a_stopped_run_resumes_bit_exact(finished, recipe, tmp_path, monkeypatch):
    """With Muon, clipping, micro-batches and two devices too."""
    with monkeypatch.context() as stopping, pytest.raises(interruption.Interrupted):
        signal_at(stopping, 8)
        loop.run(recipe, tmp_path / "w")
    loop.run(recipe, tmp_path / "w")
    assert_same_checkpoint(tmp_path / "w", finished)
    assert metrics(tmp_path / "w") == metrics(finished)


def test_a_best_checkpoint_of_other_weights_than_the_used_ones_is_warned_of(
    finished, recipe, tmp_path, capsys
):
    shutil.copytree(finished, tmp_path / "w")
    recipe.log.keep_best = "val_top1"
    loop.run(recipe, tmp_path / "w")
    assert (
        "keep the best average, use --config.log.keep_best=val_ema_top1" in capsys.readouterr().out
    )


@pytest.mark.slow
def test_a_recipe_may_say_that_the_last_weights_are_used(finished, recipe, tmp_path):
    """It may change on resume, and a branch of a run without an average begins one."""
    recipe.epochs, recipe.ema.decay, recipe.log.keep_best = 1, 0.0, "none"
    loop.run(recipe, tmp_path / "without")
    with pytest.raises(UserError, match="has no moving average of the weights, because config.ema"):
        load(tmp_path / "without", weights="average")
    assert not load(tmp_path / "without").is_average
    recipe.epochs, recipe.ema.decay, recipe.ema.use = 2, 0.8, False
    loop.run(recipe, tmp_path / "branch", Parent(tmp_path / "without", "last"))
    model = load(tmp_path / "branch")
    assert not model.is_average and "ema" in model.checkpoint.tree
    assert "val_ema_top1" in read_metrics(tmp_path / "branch")[-1]
