"""The recipe of fine-tuning: what follows from the model and from the number of images."""

import json
import os
import subprocess
import sys

import pytest

from configs import finetune
from i21k.errors import UserError
from i21k.train.recipe import parse
from i21k.train.starting_point import read_parent_facts
from i21k.trained.checkpoint import load_checkpoint
from tests.helpers.datasets import write_dataset
from tests.helpers.models import save_random_model
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.usefixtures("few_blocks")


@pytest.fixture(scope="module")
def parent(few_blocks, tmp_path_factory):
    return save_random_model(tmp_path_factory.mktemp("runs") / "parent", image_size=38)


def test_network_and_images_are_the_parents(parent, dataset):
    cfg = parse(finetune.get_config(f"{dataset}:{parent}"))
    assert cfg.init_from == str(parent) and cfg.data.directory == str(dataset)
    assert (cfg.model.width, cfg.model.variant, cfg.model.revision) == (
        0.125,
        "standard",
        "symbol2016",
    )
    assert cfg.image_size == 38 and cfg.data.crop_fraction == 0.875


@pytest.mark.parametrize(
    ("num", "batch", "epochs"),
    [(44, 32, 364), (250, 32, 64), (12_500, 32, 5), (100_000, 128, 13), (14_000_000, 512, 5)],
)
def test_steps_and_batch_follow_from_the_number_of_images(parent, monkeypatch, num, batch, epochs):
    monkeypatch.setattr(finetune, "num_images_of", lambda directory: num)
    cfg = parse(finetune.get_config(f"data/x:{parent}"))
    assert (cfg.batch_size, cfg.epochs) == (batch, epochs)
    assert cfg.optimizer.learning_rate == pytest.approx(finetune.RATE * batch / 32)


def test_a_split_smaller_than_a_batch_is_one_batch(parent, tmp_path):
    small = write_dataset(tmp_path / "small", {"train": 9, "val": 4}, num_shards=1)
    assert finetune.get_config(f"{small}:{parent}").batch_size == 9


def test_a_step_of_the_parent_can_be_named(parent):
    facts = read_parent_facts(f"{parent}@0")
    assert (facts.image_size, facts.crop_fraction) == (38, 0.875)
    with pytest.raises(UserError, match="@7 holds no trained model"):
        read_parent_facts(f"{parent}@7")


def test_an_export_says_the_same(parent, tmp_path):
    config = {"network": load_checkpoint(parent).network.describe()}
    config["preprocessing"] = load_checkpoint(parent).preprocessing.to_json()
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_parent_facts(str(tmp_path)) == read_parent_facts(str(parent))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [("{data}", "no model to start from is given"), ("{data}:nothing", "holds no trained model")],
)
def test_what_is_missing_is_said_without_a_traceback(dataset, tmp_path, arguments, message):
    config = f"{ROOT / 'configs' / 'finetune.py'}:{arguments.format(data=dataset)}"
    done = subprocess.run(
        [sys.executable, str(ROOT / "launch.py"), "--config", config],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
