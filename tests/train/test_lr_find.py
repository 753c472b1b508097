"""The search for a learning rate."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from i21k import cli
from i21k.errors import UserError
from i21k.train import lr_find
from i21k.train.recipe import default_config, parse
from i21k.train.recipe_file import read_file
from i21k.train.state import make_network


def test_a_search_sees_a_tenth_of_an_epoch():
    assert lr_find.num_steps(14_000_000, 1024) == 40
    assert lr_find.num_steps(50_000, 256) == 19
    assert lr_find.num_steps(200, 32) == 12


@pytest.fixture
def network():
    cfg = dataclasses.replace(parse(default_config()).model, width=0.125)
    return make_network(cfg, 5)


def test_changes_are_norms_of_updates_over_norms_of_kernels(network):
    """Against NumPy, for kernels outside the head; updates and state are those of the optimizer."""
    params = network.initial(63, "he_normal", 0)["params"]
    generator = np.random.default_rng(0)
    gradients = [_like(params, generator), _like(params, generator)]
    inner = optax.sgd(0.1, momentum=0.9)
    measured = lr_find.with_changes(inner, network)
    state, own = measured.init(params), inner.init(params)
    for gradient in gradients:
        updates, state = measured.update(gradient, state, params)
        expected, own = inner.update(gradient, own, params)
    np.testing.assert_array_equal(_flat(updates), _flat(expected))
    np.testing.assert_array_equal(_flat(state.inner), _flat(own))
    ratios = [
        0.1 * np.linalg.norm(0.9 * first + second) / np.linalg.norm(kernel)
        for (path, kernel), (_, first), (_, second) in zip(
            *map(_kernels, (params, *gradients)), strict=True
        )
        if not path.startswith("fc1")
    ]
    np.testing.assert_allclose(np.sort(state.changes), np.sort(ratios), rtol=1e-5)


def _like(tree, generator):
    return jax.tree.map(lambda x: jnp.asarray(generator.normal(size=x.shape), jnp.float32), tree)


def _flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def _kernels(tree):
    flat = flatten_dict(tree, sep="/")
    return [(path, np.asarray(flat[path])) for path in sorted(flat) if flat[path].ndim > 1]


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


def test_the_rate_does_not_depend_on_that_of_the_recipe(config, few_blocks):
    """40 images: the gradient of a batch of 8 that are nearly equal changes by rounding alone."""
    flags = ["--config.optimizer.name=sgd", "--config.batch_size=40"]
    found = [lr_find.find(read_file(config, [*flags, *_rates(rate)])) for rate in (0.02, 0.4)]
    assert found[0].learning_rate == pytest.approx(found[1].learning_rate, rel=0.02)
    assert found[1].own_change == pytest.approx(20 * found[0].own_change, rel=0.02)
    assert found[0].change == lr_find.CHANGE["sgd"]


def test_the_rate_of_lamb_is_the_change_itself(config, few_blocks):
    """LAMB scales each update to the norm of its kernel, so the answer is known."""
    found = lr_find.find(read_file(config, ["--config.optimizer.name=lamb"]))
    assert found.own_change == pytest.approx(0.1, rel=1e-3)
    assert found.learning_rate == pytest.approx(lr_find.CHANGE["lamb"], rel=1e-3)


def _rates(rate):
    return [
        f"--config.optimizer.learning_rate={rate}",
        f"--config.optimizer.muon_learning_rate={rate / 8}",
    ]


def test_the_command_finds_rates_of_a_recipe(config, few_blocks, capsys):
    assert cli.main(["lr-find", "--config", config, "--config.devices=2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["steps"], found["num_images"]) == (12, 12 * 8)
    assert found["learning_rate"] * found["own_change"] == pytest.approx(0.1 * found["change"])
    assert found["muon_learning_rate"] == pytest.approx(0.3 * found["learning_rate"])


def test_the_command_prints_flags(config, monkeypatch, capsys):
    found = lr_find.Found(0.04, 0.012, 0.03, 0.075, 12, 96, 0.048)
    monkeypatch.setattr(lr_find, "find", lambda *_: found)
    assert cli.main(["lr-find", "--config", config]) == 0
    measured, flags = capsys.readouterr().out.splitlines()[-2:]
    assert measured == (
        "12 batches of 8, 0.048 epochs: a step with the recipe's rate 0.1 changes kernels by 7.5%,"
        " the aim is 3.0%"
    )
    assert flags == (
        "train with: --config.optimizer.learning_rate=0.04"
        " --config.optimizer.muon_learning_rate=0.012"
    )


def test_kernels_that_do_not_change_are_refused(config, few_blocks, monkeypatch):
    monkeypatch.setattr(lr_find, "make_optimizer", lambda *_: optax.set_to_zero())
    with pytest.raises(
        UserError, match="changes the kernels by 0 of their norm at a learning rate"
    ):
        lr_find.find(read_file(config, []))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "gone.py"], "there is no config gone.py"),
        (["--config", "{config}", "--config.widht=1"], "Did you mean --config.model.width=1?"),
        (["--config", "{config}", "--config.init_from=runs/x"], "The search starts from random"),
        (["--config", "{config}", "--config.model.freeze=trunk"], "config.model.freeze is 'trunk'"),
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
