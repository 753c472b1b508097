"""Runs and recipes of version one, whose recipes had other keys."""

import json
import tarfile

import pytest
from ml_collections import ConfigDict

from i21k.checkpoints import Checkpoints
from i21k.train import loop
from i21k.train import recipe as recipes
from i21k.train.recipe import EvaluationSet, default_config, parse, read_sets, stored_values
from i21k.train.report import read_metrics
from tests.helpers.paths import ROOT


@pytest.fixture
def version_one(tmp_path, monkeypatch):
    """A dataset and a run that stopped after step 5 of 10, in the current directory."""
    with tarfile.open(ROOT / "tests" / "fixtures" / "version1.tar.xz") as tar:
        tar.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def small_recipe() -> ConfigDict:
    """The recipe of the stored run, in today's keys."""
    config = default_config()
    config.epochs, config.batch_size, config.devices, config.image_size = 2, 4, 1, 32
    config.data.directory, config.data.threads, config.data.crop = "packed_recode", 1, "plain"
    config.model.revision, config.model.width = "symbol2016", 1 / 32
    config.model.bn_momentum = "default"
    config.optimizer.learning_rate, config.optimizer.schedule = 0.01, "constant"
    config.optimizer.warmup_epochs, config.optimizer.nesterov = 0.0, False
    config.optimizer.weight_decay, config.optimizer.decay = 1e-5, "all"
    config.evaluation.batch_size, config.evaluation.recalibrate_bn = 8, 0
    config.data.workers = 0  # the default of version one
    config.log.every_steps, config.log.keep_checkpoints = 2, 0
    return config


def old_recipe(version_one) -> ConfigDict:
    """The recipe of the stored run as version one wrote it."""
    return ConfigDict(json.loads((version_one / "run" / "config.json").read_text()))


def test_an_old_run_resumes(version_one, capsys):
    golden = json.loads((version_one / "golden.json").read_text())["run"]
    path = version_one / "run" / "metrics.csv"
    first = dict(zip(*(line.split(",") for line in path.read_text().splitlines()), strict=True))
    first["second_top1"] = "0.5"  # of a second set, which is not evaluated any more
    path.write_text(",".join(first) + "\n" + ",".join(first.values()) + "\n")
    loop.run(small_recipe(), version_one / "run")
    assert "resuming at step 5 of 10" in capsys.readouterr().out
    rows = read_metrics(version_one / "run")
    assert [row["step"] for row in rows] == ["5", "10"]
    assert [row["second_top1"] for row in rows] == ["0.5", ""] and "second_top5" not in rows[0]
    head, *_, last = golden["metrics_csv"].splitlines()
    expected = dict(zip(head.split(","), last.split(","), strict=True))
    for column in ("train_loss", "train_top1", "val_loss", "val_top1", "val_top20"):
        assert float(rows[1][column]) == pytest.approx(float(expected[column]), rel=1e-2)
    newest = Checkpoints(version_one / "run" / "checkpoints").newest()
    assert newest is not None and newest.step == 10
    # The bits are those of an XLA that optimizes, which the tests switch off.
    assert newest.meta["digests"].keys() == golden["step_10_digests"].keys()


def test_both_forms_are_the_same_recipe(version_one):
    assert parse(old_recipe(version_one)) == parse(small_recipe())


def test_keys_that_an_old_checkpoint_lacks_have_their_defaults():
    """A new key with a default must not make an old run unresumable."""
    values = stored_values({"epochs": 2, "model": {"width": 1 / 32}})
    everything = recipes.flat(default_config().to_dict())
    assert values == everything | {"epochs": 2, "model.width": 1 / 32}


def test_the_second_set_of_an_old_recipe(version_one):
    config = old_recipe(version_one)
    config.evaluation.second_directory = "data/ilsvrc"
    assert read_sets(parse(config).evaluation.sets) == [
        EvaluationSet("val", None, "val"),
        EvaluationSet("second", "data/ilsvrc", "val"),
    ]
    config.data.val_split = "none"
    assert [name for name, *_ in read_sets(parse(config).evaluation.sets)] == ["second"]


def test_a_momentum_of_zero_is_one_today_and_was_the_default(version_one):
    config = old_recipe(version_one)
    assert config.model.bn_momentum == 0 and parse(config).model.bn_momentum == "default"
    new = default_config()
    new.model.bn_momentum = 0.0
    assert parse(new).model.bn_momentum == 0
    assert stored_values({"model": {"bn_momentum": 0.0}})["model.bn_momentum"] == 0
