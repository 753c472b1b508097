"""Keys of a recipe that do not fit each other."""

import pytest

from i21k.errors import UserError
from i21k.train import conflicts, loop
from i21k.train.recipe import parse


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
