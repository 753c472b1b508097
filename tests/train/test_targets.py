"""Runs with the ingredients of `targets` and `augment`: exact resume, and nothing when off."""

import jax
import numpy as np
import pytest

from i21k.data.format.splits import open_split
from i21k.train import interruption, loop, steps
from i21k.train.augment import make_augmentation
from i21k.train.devices import put_batch, put_state
from i21k.train.losses import SoftmaxLoss
from i21k.train.recipe import Recipe, parse
from i21k.train.state import init_state, make_network
from i21k.train.targets import loss_of
from tests.helpers.stepping import KEEP_GRADIENT, initial, make_batch, make_small_network
from tests.train.test_loop import assert_same_checkpoint, signal_at

pytestmark = pytest.mark.usefixtures("few_blocks")


def test_a_run_with_everything_resumes_exactly(recipe, tmp_path, monkeypatch):
    recipe.loss.smoothing, recipe.loss.smooth_to, recipe.loss.prior_weight = 0.1, "near", 1.0
    recipe.augment.mixup, recipe.augment.cutmix = 0.2, 1.0
    recipe.data.mirror_order = "alternating"
    recipe.evaluation.sets = "none"
    loop.run(recipe, tmp_path / "whole")
    with monkeypatch.context() as stopping, pytest.raises(interruption.Interrupted):
        signal_at(stopping, 8)
        loop.run(recipe, tmp_path / "w")
    loop.run(recipe, tmp_path / "w")
    assert_same_checkpoint(tmp_path / "whole", tmp_path / "w")


def lowered(**options) -> str:
    devices = jax.local_devices()[:1]
    network = make_small_network()
    step = steps.make_train_step(network, KEEP_GRADIENT, devices, **options)
    batch = put_batch(make_batch(4), devices)
    return step.lower(put_state(initial(network), devices), batch).as_text()


def test_a_step_without_ingredients_is_that_of_the_plain_loss(recipe, dataset):
    cfg, split = parse(recipe), open_split(dataset, "train")
    off = {"loss": loss_of(cfg.loss, split), "augment": make_augmentation(cfg.augment), "seed": 5}
    assert off["loss"] == SoftmaxLoss() and off["augment"] is None
    assert lowered(**off) == lowered()
    recipe.augment.mixup = 0.2
    assert lowered(augment=make_augmentation(parse(recipe).augment)) != lowered()


def test_a_sigmoid_run_starts_with_the_probability_of_chance():
    cfg = Recipe()
    network = make_network(cfg.model, 4)
    state = init_state(network, KEEP_GRADIENT, 32, "he_normal", 0, head_bias=-np.log(4))
    plain = init_state(network, KEEP_GRADIENT, 32, "he_normal", 0)
    for path, array in jax.tree_util.tree_leaves_with_path(state.params):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        same = plain.params[path[0].key][path[1].key]
        if name == "fc1/bias":
            np.testing.assert_allclose(array, -np.log(4), rtol=1e-6)
        else:
            assert np.array_equal(array, same), name


def test_frequencies_may_be_those_of_a_split(recipe, dataset):
    recipe.loss.prior_weight = 0.5
    split = open_split(dataset, "train")
    uniform = loss_of(parse(recipe).loss, split)
    recipe.loss.prior_for = "val"
    of_val = loss_of(parse(recipe).loss, split)
    train, val = np.array([11, 11, 11, 11]) / 44, np.array([6, 5, 5, 5]) / 21
    np.testing.assert_allclose(uniform.offsets, 0, atol=1e-6)
    np.testing.assert_allclose(of_val.offsets, 0.5 * np.log(train / val), rtol=1e-5)
