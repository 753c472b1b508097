"""Keys of a recipe that do not fit each other."""

import pytest

from i21k.errors import UserError
from i21k.labels import ClassList
from i21k.train import conflicts, loop
from i21k.train.recipe import default_config, parse
from tests.helpers.datasets import write_dataset


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"optimizer.schedule": "trapezoid"},
            "schedule is 'trapezoid' and config.optimizer.decay_epochs is 0, .*decay_epochs=0.4",
        ),
        (
            {"optimizer.decay_epochs": 1.0},
            "decay_epochs is 1 and config.optimizer.schedule is 'constant', which does not use it",
        ),
        (
            {
                "optimizer.schedule": "trapezoid",
                "optimizer.decay_epochs": 1.5,
                "optimizer.warmup_epochs": 1.0,
            },
            "warmup_epochs and config.optimizer.decay_epochs are 2.5 together, and config.epochs",
        ),
        (
            {"image_size": "32@0 48@0.5", "model.revision": "released"},
            "image_size is '32@0 48@0.5' and config.model.revision is 'released'. .* nearest, 38",
        ),
        (
            {"evaluation.image_size": 20},
            "config.evaluation.image_size is 20 and config.model.revision is 'symbol2016'",
        ),
        (
            {"optimizer.muon_weight_decay": 0.1},
            "muon_weight_decay is 0.1 and config.optimizer.name is 'sgd', which does not use it",
        ),
        (
            {"optimizer.decay": "kernels", "optimizer.weight_decay_norm": 0.5},
            "weight_decay_norm is 0.5 and config.optimizer.decay is 'kernels'",
        ),
    ],
)
def test_combinations_that_cannot_work_are_refused_with_both_keys(
    recipe, tmp_path, changes, message
):
    conflicts.check(parse(recipe))
    with recipe.ignore_type():
        for name, value in changes.items():
            *groups, last = name.split(".")
            group = recipe
            for part in groups:
                group = group[part]
            group[last] = value
    with pytest.raises(UserError, match=message):
        loop.run(recipe, tmp_path / "w")
    assert not (tmp_path / "w").exists()


BROKEN = [
    ({"loss.smooth_to": "near"}, "loss.smooth_to is 'near'", "loss.smoothing is 0.0"),
    (
        {"loss.smooth_to": "ancestors", "loss.smoothing": 0.1, "loss.name": "sigmoid"},
        "loss.smooth_to is 'ancestors'",
        "loss.name is 'sigmoid'",
    ),
    (
        {"loss.prior_weight": 1.0, "loss.name": "sigmoid"},
        "loss.prior_weight is 1.0",
        "loss.name is 'sigmoid'",
    ),
    (
        {"optimizer.name": "adamw", "optimizer.head_epochs": 1.0},
        "optimizer.head_epochs is 1.0",
        "optimizer.name is 'adamw'",
    ),
    ({"loss.prior_for": "val"}, "loss.prior_for is 'val'", "loss.prior_weight is 0.0"),
    (
        {"data.mirror": False, "data.mirror_order": "alternating"},
        "data.mirror_order is 'alternating'",
        "data.mirror is False",
    ),
]


def changed(config, values):
    for name, value in values.items():
        group, _, key = name.rpartition(".")
        (config[group] if group else config)[key] = value
    return config


@pytest.mark.parametrize(("values", "one", "other"), BROKEN)
def test_both_keys_are_named(values, one, other, tmp_path):
    config = changed(default_config(), values)
    with pytest.raises(UserError) as error:
        loop.run(config, tmp_path / "w")
    assert one in str(error.value) and other in str(error.value)
    assert not (tmp_path / "w").exists()


def test_every_rule_is_tested_and_the_defaults_break_none():
    broken = [parse(changed(default_config(), values)) for values, _, _ in BROKEN]
    for rule in conflicts.RULES:
        assert any(rule.is_broken(cfg) for cfg in broken), rule.keys
        assert not rule.is_broken(parse(default_config()))


def test_one_image_cannot_be_mixed(recipe, tmp_path):
    recipe.augment.mixup, recipe.accumulate_steps = 0.2, 2
    with pytest.raises(
        UserError, match=r"augment.mixup is 0.2 and config.batch_size is 8. That is 1"
    ):
        loop.run(recipe, tmp_path / "w")


def test_classes_outside_wordnet_have_no_levels(recipe, tmp_path):
    classes = ClassList(("apple", "banana", "cherry", "date"))
    write_dataset(tmp_path / "data", {"train": 8, "val": 4}, 1, classes)
    recipe.data.directory = str(tmp_path / "data")
    recipe.loss.smooth_to, recipe.loss.smoothing = "near", 0.1
    with pytest.raises(UserError, match=r"smooth_to is 'near', and of config.data.directory"):
        loop.run(recipe, tmp_path / "w")
