import dataclasses
import importlib
import json
import subprocess
import sys

import pytest
from ml_collections import ConfigDict

from i21k.data.format.splits import open_split
from i21k.errors import UserError
from i21k.models.network import build
from i21k.train import loop
from i21k.train import recipe as recipes
from i21k.train.inheritance import inherit
from i21k.train.optimizer import make_optimizer
from i21k.train.recipe import default_config, parse
from i21k.train.targets import loss_of
from i21k.trained import load_checkpoint
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
        ("epochs", 0, "config.epochs is 0. Use at least 1."),
        ("seed", -1, "config.seed is -1"),
        ("accumulate_steps", 0, "config.accumulate_steps is 0. Use at least 1."),
        (
            "reduce_dtype",
            "float16",
            "config.reduce_dtype is 'float16'. Use 'float32' or 'bfloat16'.",
        ),
        ("batch_size", "8", "config.batch_size is '8'. Use an integer."),
        (
            "model.revision",
            "2016",
            "config.model.revision is '2016'. Use 'released' or 'symbol2016' or 'modern'.",
        ),
        ("model.width", 0.0, "config.model.width is 0.0. Use a value above 0, at most 4."),
        (
            "model.bn_momentum",
            1.0,
            "config.model.bn_momentum is 1.0. Use a value from 0 to below 1, or 'default'.",
        ),
        (
            "data.crop_fraction",
            1.5,
            "config.data.crop_fraction is 1.5. Use a value above 0, at most 1.",
        ),
        (
            "data.order",
            "stored",
            "config.data.order is 'stored'. Use 'global' or 'windowed'.",
        ),
        (
            "data.on_bad_record",
            "ignore",
            "config.data.on_bad_record is 'ignore'. Use 'stop' or 'skip'.",
        ),
        (
            "data.max_bad_fraction",
            1.0,
            "config.data.max_bad_fraction is 1.0. Use a value from 0 to below 1.",
        ),
        ("data.mirror", 1, "config.data.mirror is 1. Use True or False."),
        ("optimizer.learning_rate", float("nan"), "config.optimizer.learning_rate is nan"),
        ("optimizer.schedule", "step", "config.optimizer.schedule is 'step'"),
        ("log.every_steps", 0, "config.log.every_steps is 0"),
        ("ema.decay", 1.0, "config.ema.decay is 1.0. Use a value from 0 to below 1."),
        ("image_size", "96 128", "config.image_size is '96 128'. Use an integer, or sizes by"),
        ("optimizer.name", "soap", "config.optimizer.name is 'soap'. Use 'sgd' or 'adamw' or"),
        ("optimizer.clip_norm", -1.0, "config.optimizer.clip_norm is -1.0. Use at least 0."),
        (
            "log.profile_steps",
            "9:9",
            "config.log.profile_steps is '9:9'. Use FIRST:LAST with FIRST",
        ),
        ("seed", 2**63, "config.seed is 9223372036854775808. Use a value from 0 to below 2"),
        ("optimizer.warmup_epochs", float("inf"), "config.optimizer.warmup_epochs is inf"),
        ("epochs", 10**20, "config.epochs is 100000000000000000000. Use at most 2,147,483,647."),
        ("data.threads", 10**6, "config.data.threads is 1000000. Use at most 1,024."),
        ("data.workers", 10**6, "config.data.workers is 1000000. Use at most 1,024."),
        ("image_size", 10**11, "Use sizes above 0 px, at most 4,096 px."),
        ("evaluation.image_size", 10**11, "Use at most 4,096."),
        ("evaluation.recalibrate_bn", 10**20, "Use a number of images, 0 or 'auto'."),
        ("log.checkpoint_minutes", float("inf"), "Use at most 2,147,483,647."),
        (
            "optimizer.momentum",
            5.0,
            "config.optimizer.momentum is 5.0. Use a value from 0 to below 1.",
        ),
    ],
)
def test_bad_values_are_named(recipe, key, value, message):
    *groups, name = key.split(".")
    group = recipe
    for part in groups:
        group = group[part]
    with recipe.ignore_type():
        group[name] = value
    with pytest.raises(UserError, match=message):
        parse(recipe)


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("epoch", "epochs"),
        ("optimizer.learning_rat", "optimizer.learning_rate"),
        ("model.batch_norm_momentum", "model.bn_momentum"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest(key, near):
    config = default_config()
    *groups, name = key.split(".")
    (config[groups[0]] if groups else config)[name] = 1
    with pytest.raises(
        UserError, match=rf"^config.{key} is not a key. Did you mean config.{near}\?$"
    ):
        parse(config)


def test_a_group_that_is_none():
    config = default_config()
    with config.ignore_type():
        config.data = 3
    for given in (config, recipes.complete(config)):
        with pytest.raises(UserError, match=r"config.data is 3. Use a group of keys."):
            parse(given)
    with pytest.raises(UserError, match=r"config is 3. Return a ConfigDict from get_config\(\)."):
        parse(recipes.complete(3))


def test_a_recipe_that_states_few_keys():
    few = ConfigDict({"epochs": 3, "optimizer": {"learning_rate": 1}})
    recipe = parse(few)
    assert (recipe.epochs, recipe.optimizer.learning_rate) == (3, 1.0)
    assert recipe == parse(recipes.complete(few))
    whole = recipes.complete(few)
    whole.model.width = 0.5  # it was not stated
    whole.optimizer.learning_rate = 0.25  # a float, although an integer was stated
    assert parse(whole).model.width == 0.5
    assert parse(ConfigDict()) == recipes.Recipe() == parse(default_config())


def test_flags_override_keys_that_a_file_does_not_state(tmp_path):
    """In a process of its own, as the flags are global."""
    (tmp_path / "few.py").write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config():\n"
        "    return ConfigDict({'epochs': 3, 'optimizer': {'learning_rate': 1}})\n"
    )
    program = (
        "import launch, sys\n"
        "from i21k.train.recipe import parse\n"
        "launch.parse(sys.argv)\n"
        "recipe = parse(launch._CONFIG.value)\n"
        "print(recipe.epochs, recipe.model.bn_momentum, recipe.optimizer.learning_rate)\n"
    )

    def run(*flags: str) -> str:
        command = [sys.executable, "-c", program, "--config", str(tmp_path / "few.py"), *flags]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()

    assert run("--config.model.bn_momentum=0.5") == "3 0.5 1.0"
    assert (
        run("--config.model.bn_momentum=default", "--config.optimizer.learning_rate=0.3")
        == "3 default 0.3"
    )


@pytest.mark.parametrize(
    ("text", "sets"),
    [
        ("none", []),
        ("val=val", [("val", None, "val")]),
        (
            "val=test, ilsvrc-v2=/data/a:b/ilsvrc:val",
            [("val", None, "test"), ("ilsvrc-v2", "/data/a:b/ilsvrc", "val")],
        ),
    ],
)
def test_sets_to_evaluate(text, sets):
    assert recipes.read_sets(text) == sets


@pytest.mark.parametrize("text", ["", "val", "val=", "a_b=val", "train=val", "a=x,a=y", "a=x,,b=y"])
def test_sets_that_cannot_be_read(text):
    config = default_config()
    config.evaluation.sets = text
    with pytest.raises(UserError, match=r"^config.evaluation.sets is '.*'. Use NAME=SPLIT or NAME"):
        parse(config)


def test_old_and_new_keys_together():
    config = default_config()
    config.data.val_split = "test"
    with pytest.raises(
        UserError,
        match=r"config.data.val_split does not exist any more. Use config.evaluation.sets",
    ):
        parse(config)


def test_what_may_change_and_differ():
    cosine, constant = default_config(), default_config()
    constant.optimizer.schedule = "constant"
    changeable = recipes.keys_that_may_change(parse(cosine))
    assert {"data.directory", "model.remat", "log.every_steps"} <= changeable
    assert {"optimizer.learning_rate", "optimizer.weight_decay"} <= changeable
    schedule = {
        "epochs",
        "optimizer.decay_epochs",
        "optimizer.schedule",
        "optimizer.schedule_from_step",
        "optimizer.warmup_epochs",
    }
    assert not {"seed", "batch_size", *schedule} & changeable
    assert recipes.keys_that_may_change(parse(constant)) == changeable | {"epochs"}
    assert recipes.keys_that_may_change(parse(cosine), new_schedule=True) == changeable | schedule
    assert recipes.keys_that_may_differ() == {
        "data.directory",
        "data.max_wait_s",
        "data.threads",
        "data.workers",
        "evaluation.sets",
    }
    inexact = set(recipes.inexact_keys())
    assert {"accumulate_steps", "reduce_dtype", "optimizer.learning_rate"} <= inexact
    assert not {"epochs", "seed", "log.checkpoint_minutes", "evaluation.every_steps"} & inexact


def test_the_description_of_the_keys():
    keys = {info.name: info for info in recipes.describe_keys()}
    assert keys.keys() == recipes.flat(default_config().to_dict()).keys()
    assert keys["model.bn_momentum"].type == "a number or 'default'"
    assert all(0 < len(info.help) <= 120 and "|" not in info.help for info in keys.values())
    table = recipes.markdown_table()
    assert table.count("\n") == len(keys) + 2
    assert "| `seed` | an integer | `0` | no |" in table


def test_every_key_is_read_by_a_run(recipe, tmp_path, monkeypatch, few_blocks):
    """`parse` refuses keys that are not declared; a run must read each one that is.

    What `dataclasses` itself reads, to store the recipe, does not count.
    """
    read = set()

    def spy(section, name):
        if sys._getframe(1).f_globals["__name__"] != "dataclasses":
            read.add((type(section), name))
        return object.__getattribute__(section, name)

    sections = {
        recipes.Recipe: "",
        recipes.DataRecipe: "data",
        recipes.ModelRecipe: "model",
        recipes.OptimizerRecipe: "optimizer",
        recipes.LossRecipe: "loss",
        recipes.AugmentRecipe: "augment",
        recipes.EmaRecipe: "ema",
        recipes.EvaluationRecipe: "evaluation",
        recipes.LogRecipe: "log",
    }
    for section in sections:
        monkeypatch.setattr(section, "__getattribute__", spy)
    recipe.epochs = 1
    loop.run(recipe, tmp_path / "w")
    for name in ("adamw", "muon"):  # they have keys of their own
        cfg = dataclasses.replace(parse(recipe).optimizer, name=name)
        make_optimizer(cfg, lambda step: step, build({}, 4))
    near = dataclasses.replace(parse(recipe).loss, smooth_to="near", smoothing=0.1)
    loss_of(near, open_split(recipe.data.directory, "train"))
    model = load_checkpoint(tmp_path / "w")
    inherit(parse(recipe), model.network, model.variables, model, model.classes)
    names = {f"{sections[kind]}.{name}".lstrip(".") for kind, name in read}
    assert {info.name for info in recipes.describe_keys()} - names == set()
