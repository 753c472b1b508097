"""What is wrong with `--config.KEY=VALUE` is said with the flag as it was typed."""

import pytest

from configs import quickstart
from i21k.errors import UserError
from i21k.train import overrides


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--config.data.mirror=yes"],
            "--config.data.mirror=yes: config.data.mirror is 'yes'. Use True or False.",
        ),
        (
            ["--config.optimizer=adam"],
            "--config.optimizer=adam: config.optimizer is a group of keys, not a value. Set one of"
            " them, such as --config.optimizer.name=sgd.",
        ),
        (["--config.label_smoothing=0.1"], "Did you mean --config.loss.smoothing=0.1?"),
        (["--config.learning_rate=1"], "Did you mean --config.optimizer.learning_rate=1?"),
        (["--config.data.mirrors=1"], "Did you mean --config.data.mirror=1?"),
        (["--config.optimiser.momentum=1"], "Did you mean --config.optimizer.momentum=1?"),
        (["-config.epoch", "3"], "-config.epoch: config.epoch is not a key."),
        (["--noconfig.mirror"], "--noconfig.mirror: config.mirror is not a key."),
        (["--config.epochs=many"], "config.epochs is 'many'. Use an integer."),
        (["--config.epochs=1.5"], "config.epochs is '1.5'. Use an integer."),
        (["--config.epochs", "x"], "--config.epochs x: config.epochs is 'x'. Use an integer."),
        (["--config.epochs"], "--config.epochs has no value. Use --config.epochs=10, for"),
        (
            ["--config.optimizer.momentum=a\nb"],
            r"config.optimizer.momentum is 'a\nb'. Use a number",
        ),
        (["--config.epochs.x=1"], "config.epochs is a value and has no keys."),
        (["--config.=1"], "is not a key"),
    ],
)
def test_errors_name_the_flag_and_what_to_use(arguments, message):
    with pytest.raises(UserError) as error:
        overrides.check(["--config", "configs/quickstart.py", *arguments])
    assert message in str(error.value)


def test_what_is_right_passes():
    overrides.check(
        [
            "--config",
            "x.py",
            "--config.epochs=3",
            "--config.epochs",
            "3",
            "--config.data.mirror",
            "--noconfig.data.mirror",
            "--config.data.mirror=False",
            "--config.data.mirror=1",
            "--config.optimizer.momentum=1",
            "--config.model.bn_momentum=default",
            "--workdir=w",
            "--config.data.val_split=none",
            "--config.log.keep_best=",
            "--",
            "--config.nothing=1",
        ]
    )


def test_images_are_not_drawn_into_a_mistyped_directory(tmp_path):
    config = quickstart.get_config()
    stated = config.data.directory
    overrides.check_directory([], config, stated)
    config.data.directory = str(tmp_path / "imagnet")
    typed = f"--config.data.directory={config.data.directory}"
    with pytest.raises(UserError, match=r"imagnet', which does not exist. Check the path. To draw"):
        overrides.check_directory([typed], config, stated)
    overrides.check_directory([typed, "--config.data.synthetic_per_class=9"], config, stated)
    (tmp_path / "imagnet").mkdir()
    overrides.check_directory([typed], config, stated)
    config.data.synthetic_per_class = 0
    overrides.check_directory(["--config.data.directory=gone"], config, stated)
