"""The search for a learning rate."""

import json

import numpy as np
import pytest

from i21k import cli
from i21k.errors import UserError
from i21k.train import lr_find
from i21k.train.recipe_file import read_file

RATES = np.geomspace(1e-3, 10, 81)  # a factor of 1.12 a step


def test_rates_grow_by_the_same_factor():
    schedule = lr_find.growing(0.01, 10.0, 31)
    rates = np.array([float(schedule(step)) for step in range(31)])
    np.testing.assert_allclose(rates, np.geomspace(0.01, 10, 31), rtol=1e-5)


def falling(middle: float) -> np.ndarray:
    """Losses that fall by 2 around a rate, and stay low at higher ones, with noise."""
    noise = np.random.default_rng(0).normal(0, 0.03, len(RATES))
    return 5 - 2 / (1 + (middle / RATES) ** 2) + noise


@pytest.mark.parametrize("middle", [0.01, 0.1, 0.5])
def test_the_rate_is_at_the_end_of_the_steepest_fall(middle):
    """Planted: the fall is over at three times the rate in its middle."""
    rate = lr_find.choose(RATES.tolist(), falling(middle).tolist())
    assert 1.5 * middle < rate < 6 * middle


def test_what_comes_after_a_divergence_does_not_count():
    losses = falling(0.1)
    expected = lr_find.choose(RATES.tolist(), losses.tolist())
    for after in (np.nan, np.inf, 9.0):
        losses[70:] = after
        losses[75:] = 0.1  # it comes back by chance
        assert lr_find.choose(RATES.tolist(), losses.tolist()) == expected
    with pytest.raises(UserError, match="the loss falls at no learning rate from 0.001 to 10"):
        lr_find.choose(RATES.tolist(), (5 + np.log10(RATES)).tolist())
    with pytest.raises(UserError, match="falls fastest at the highest learning rate, 10. Use a"):
        lr_find.choose(RATES.tolist(), (9 - 0.1 * RATES).tolist())


def test_a_search_sees_a_tenth_of_an_epoch():
    assert lr_find.num_steps(14_000_000, 1024) == 300
    assert lr_find.num_steps(50_000, 64) == 78
    assert lr_find.num_steps(200, 32) == 40


@pytest.fixture
def config(tmp_path, dataset):
    path = tmp_path / "small.py"
    path.write_text(
        "from i21k.train.recipe import default_config\n"
        "def get_config(directory):\n"
        "    config = default_config()\n"
        "    config.batch_size, config.image_size = 8, '32@0 40@0.5'\n"
        "    config.data.directory, config.data.threads = directory, 1\n"
        "    config.model.revision, config.model.width = 'modern', 0.125\n"
        "    config.optimizer.name = 'muon'\n"
        "    return config\n"
    )
    return f"{path}:{dataset}"


def test_the_command_finds_rates_of_a_recipe(config, few_blocks, capsys):
    assert cli.main(["lr-find", "--config", config, "--config.devices=2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["rates"]) == len(found["losses"]) <= 40
    assert found["num_images"] == 8 * len(found["rates"])
    assert found["rates"][0] == pytest.approx(0.1 / 64) and found["learning_rate"] in found["rates"]
    assert found["muon_learning_rate"] == pytest.approx(0.3 * found["learning_rate"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "gone.py"], "there is no config gone.py"),
        (["--config", "{config}", "--config.widht=1"], "Did you mean --config.model.width=1?"),
        (["--config", "{config}", "--config.init_from=runs/x"], "The search starts from random"),
        (["--config", "{config}", "--fraction", "0"], "--fraction is 0.0. Use a value above 0"),
        (
            ["--config", "{config}", "--config.model.revision=released"],
            "config.image_size is '32@0 40@0.5' and config.model.revision is 'released'",
        ),
    ],
)
def test_what_is_wrong_is_said(config, capsys, arguments, message):
    assert cli.main(["lr-find", *(text.format(config=config) for text in arguments)]) == 2
    assert message in capsys.readouterr().err


def test_a_recipe_file_is_read_with_changes(config):
    cfg = read_file(
        config, ["--config.optimizer.learning_rate=0.3", "--config.loss.name", "sigmoid"]
    )
    assert cfg.optimizer.learning_rate == 0.3 and cfg.loss.name == "sigmoid"
    assert cfg.data.directory == config.rpartition(":")[2]
    assert read_file("configs/quickstart.py").image_size == 64
