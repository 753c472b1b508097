"""The comparison of recipes: what its rungs have in common, and in what they differ."""

import dataclasses
import json
from pathlib import Path

import pytest

from benchmarks import ladder
from configs import i21k_inception
from i21k.train import conflicts
from i21k.train.recipe import flat, parse


@pytest.fixture
def recipes():
    made = {rung: ladder.recipe_of(rung, Path("data"), 3, 0.25, 7) for rung in ladder.RUNGS}
    return {rung: parse(config) for rung, config in made.items()}


def values(cfg) -> dict:
    return flat(dataclasses.asdict(cfg))


def test_all_rungs_can_be_trained_and_have_the_same_width_and_images(recipes):
    for rung, cfg in recipes.items():
        conflicts.check(cfg)
        assert (cfg.epochs, cfg.model.width, cfg.model.variant) == (3, 0.25, "standard")
        assert (cfg.seed, cfg.data.directory) == (7, "data")
        assert cfg.evaluation_size == (96 if rung.startswith("R2") else 64)


def test_the_first_rung_is_the_recipe_of_2015_and_the_second_repairs_its_accidents(recipes):
    old = values(parse(i21k_inception.get_config()))
    first, second = values(recipes["R0"]), values(recipes["R1"])
    adapted = {key for key in old if first[key] != old[key]}
    shaping = {key for key in adapted if key.startswith(("model", "optimizer", "loss", "data"))}
    assert shaping == {
        "data.directory", "data.threads", "model.remat", "model.variant", "model.width",
    }  # fmt: skip
    assert {key for key in first if first[key] != second[key]} == {
        "model.bn_momentum", "model.init", "optimizer.decay", "optimizer.nesterov",
        "optimizer.schedule", "optimizer.warmup_epochs",
    }  # fmt: skip


def test_lines_are_read_and_shown(tmp_path):
    line = {
        "rung": "R0", "epochs": 3, "cpu_s": 720, "val_top1": 0.1, "val_top5": 0.3,
        "val_loss": 4.0, "curve": [[1.0, 0.05], [2.0, 0.1]],
    }  # fmt: skip
    path = tmp_path / "ladder.jsonl"
    assert ladder.read_lines(path) == []
    path.write_text(json.dumps(line) + "\n")
    lines = ladder.read_lines(path)
    assert "| R0 | 2015: " in ladder.table(lines) and "| 3 | 12 | 10.0% |" in ladder.table(lines)
    ladder.draw(lines, tmp_path / "ladder.png")
    assert (tmp_path / "ladder.png").stat().st_size > 1000


def test_the_last_rung_has_the_time_of_the_first():
    assert ladder.epochs_in_the_time_of({"cpu_s": 900}, {"cpu_s": 500, "epochs": 3}) == 5
    assert ladder.epochs_in_the_time_of({"cpu_s": 100}, {"cpu_s": 500, "epochs": 3}) == 1
