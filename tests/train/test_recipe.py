import importlib
import json

import pytest
from ml_collections import ConfigDict

from i21k.train import recipe as recipes
from i21k.train.recipe import parse
from tests.helpers.paths import ROOT

NAMES = sorted(p.stem for p in (ROOT / "configs").glob("*.py"))


@pytest.mark.parametrize("name", NAMES)
def test_every_config_builds(name):
    config = importlib.import_module(f"configs.{name}").get_config()
    cfg = parse(config)
    json.dumps(
        config.to_dict()
    )  # no lists, no None: every leaf can be overridden on the command line
    assert all(
        isinstance(value, bool | int | float | str)
        for _, value in config.iteritems()
        if not isinstance(value, ConfigDict)
    )
    assert cfg.epochs >= 1


def test_the_recipe_of_2015(recipe):
    from configs.i21k_inception import get_config

    cfg = parse(get_config())
    assert (cfg.epochs, cfg.batch_size, cfg.devices, cfg.image_size) == (9, 64, 4, 224)
    assert (cfg.optimizer.learning_rate, cfg.optimizer.momentum, cfg.optimizer.weight_decay) == (
        0.05,
        0.9,
        1e-5,
    )
    assert (cfg.optimizer.schedule, cfg.optimizer.decay, cfg.model.init) == (
        "constant",
        "all",
        "uniform",
    )
    assert (cfg.model.variant, cfg.model.revision, cfg.model.remat, cfg.model.sync_bn) == (
        "full",
        "released",
        "block",
        False,
    )
    assert (cfg.data.crop, cfg.data.crop_fraction * 256) == ("plain", 224)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("epochs", 0, "config.epochs is 0; expected at least 1"),
        ("seed", -1, "config.seed is -1"),
        ("accumulate_steps", 0, "config.accumulate_steps is 0; expected at least 1"),
        (
            "reduce_dtype",
            "float16",
            "config.reduce_dtype is 'float16'; expected one of 'float32', 'bfloat16'",
        ),
        ("batch_size", "8", "config.batch_size is '8'; expected int"),
        (
            "model.revision",
            "2016",
            "config.model.revision is '2016'; expected one of 'released', 'symbol2016'",
        ),
        ("model.width", 0.0, "config.model.width is 0.0; expected above 0"),
        ("model.bn_momentum", 1.0, "config.model.bn_momentum is 1.0"),
        (
            "data.crop_fraction",
            1.5,
            "config.data.crop_fraction is 1.5; expected above 0 and at most 1",
        ),
        (
            "data.order",
            "stored",
            "config.data.order is 'stored'; expected one of 'global', 'windowed'",
        ),
        (
            "data.on_bad_record",
            "ignore",
            "config.data.on_bad_record is 'ignore'; expected one of 'stop', 'skip'",
        ),
        (
            "data.max_bad_fraction",
            1.0,
            "config.data.max_bad_fraction is 1.0; expected 0 up to below 1",
        ),
        ("data.mirror", 1, "config.data.mirror is 1; expected bool"),
        ("optimizer.learning_rate", float("nan"), "config.optimizer.learning_rate is nan"),
        ("optimizer.schedule", "linear", "config.optimizer.schedule is 'linear'"),
        ("log.every_steps", 0, "config.log.every_steps is 0"),
        ("seed", 2**63, "config.seed is 9223372036854775808; expected below"),
        ("optimizer.warmup_epochs", float("inf"), "config.optimizer.warmup_epochs is inf"),
        ("optimizer.momentum", 5.0, "config.optimizer.momentum is 5.0; expected 0 up to below 1"),
    ],
)
def test_bad_values_are_named(recipe, key, value, message):
    *groups, name = key.split(".")
    group = recipe
    for part in groups:
        group = group[part]
    with recipe.ignore_type():
        group[name] = value
    with pytest.raises(ValueError, match=message):
        parse(recipe)


def test_unknown_and_missing_keys_are_named(recipe):
    recipe.optimizer.learning_rat = 0.1
    del recipe.optimizer.momentum
    with pytest.raises(
        ValueError,
        match=r"unknown key config.optimizer.learning_rat; missing key config.optimizer.momentum; expected exactly",
    ):
        parse(recipe)
    with recipe.ignore_type():
        recipe.data = 3
    with pytest.raises(ValueError, match=r"config.data is 3; expected a group of keys"):
        parse(recipe)


def test_every_key_is_read_somewhere():
    """`parse` refuses keys that are not in the dataclasses; here: that the code reads each field of those."""
    source = "\n".join(
        p.read_text() for p in (ROOT / "i21k" / "train").glob("*.py") if p.name != "config.py"
    )
    kinds = (
        recipes.Config,
        recipes.DataConfig,
        recipes.ModelConfig,
        recipes.OptimizerConfig,
        recipes.EvaluationConfig,
        recipes.LogConfig,
    )
    unread = [
        f"{kind.__name__}.{field}"
        for kind in kinds
        for field in kind.__dataclass_fields__
        if f".{field}" not in source
    ]
    assert unread == []
