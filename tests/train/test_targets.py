"""Runs with the ingredients of `targets` and `augment`: exact resume, and nothing when off."""

import jax
import numpy as np
import pytest

from i21k.data.format.splits import open_split
from i21k.errors import UserError
from i21k.train import interruption, loop, passes, steps
from i21k.train.augment import make_augmentation
from i21k.train.devices import put_batch, put_state
from i21k.train.losses import SoftmaxLoss
from i21k.train.metrics import Totals
from i21k.train.recipe import Recipe, parse
from i21k.train.state import init_state, make_network
from i21k.train.targets import loss_of
from tests.helpers.runs import assert_same_checkpoint, signal_at
from tests.helpers.stepping import (
    KEEP_GRADIENT,
    Frozen,
    distance,
    do_step,
    initial,
    make_batch,
    make_small_network,
)

pytestmark = pytest.mark.usefixtures("few_blocks")


@pytest.mark.slow
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
    recipe.loss.prior_for = "test"
    with pytest.raises(UserError, match=r"prior_for is 'test', and .* has the splits train, val\."):
        loss_of(parse(recipe).loss, split)
    train, val = np.array([11, 11, 11, 11]) / 44, np.array([6, 5, 5, 5]) / 21
    np.testing.assert_allclose(uniform.offsets, 0, atol=1e-6)
    np.testing.assert_allclose(of_val.offsets, 0.5 * np.log(train / val), rtol=1e-5)


def with_second_labels(batch):
    """The batch with a second label for every other image."""
    others = np.full((len(batch.labels), 3), -1, np.int32)
    others[::2, 0] = (batch.labels[::2] + 1) % 4
    return batch._replace(others=others)


@pytest.mark.parametrize(("num_devices", "accumulate_steps"), [(1, 1), (2, 2)])
def test_images_of_several_classes_are_trained_on_each_alike(num_devices, accumulate_steps):
    """The gradient is the mean of those with either label, as the loss is linear in targets."""
    network, batch = make_small_network(Frozen), with_second_labels(make_batch(8))
    options = {"accumulate_steps": accumulate_steps}
    state = do_step(network, batch, num_devices, **options)
    second = np.where(batch.others[:, 0] >= 0, batch.others[:, 0], batch.labels)
    either = [
        do_step(network, batch._replace(labels=labels, others=None), num_devices, **options)
        for labels in (batch.labels, second)
    ]
    mean = jax.tree.map(lambda a, b: (a + b) / 2, either[0].opt_state, either[1].opt_state)
    assert distance(state.opt_state, mean) < 1e-5
    assert Totals.fetch(state.sums).hits == Totals.fetch(either[0].sums).hits  # the first label


def test_evaluations_count_any_class_of_an_image_as_right():
    network, batch = make_small_network(), with_second_labels(make_batch(8))
    devices = jax.local_devices()[:2]
    variables = put_state(initial(network).variables, devices)
    answered = steps.make_log_probabilities_step(network, devices)(
        variables, put_batch(batch, devices)
    )
    values = np.asarray(answered).reshape(8, 4)
    sums = steps.make_eval_step(network, devices)(variables, put_batch(batch, devices))
    totals, ranks, losses = Totals.fetch(sums), [], []
    for row, label, others in zip(values, batch.labels, batch.others, strict=True):
        right = [label, *others[others >= 0]]
        ranks.append(min((row > row[k]).sum() for k in right))
        losses.append(-max(row[k] for k in right))
    assert totals.hits[0] == sum(rank == 0 for rank in ranks) and totals.count == 8
    assert totals.loss == pytest.approx(sum(losses), rel=1e-5)


def test_labels_of_other_classes_are_found_among_all_of_an_image():
    batch = with_second_labels(make_batch(8))
    columns = np.array([-1, 1, -1, 0], np.int32)  # the model lacks two of four classes
    found = passes._in_columns(batch, columns)
    for before, more, label, others in zip(
        batch.labels, batch.others, found.labels, found.others, strict=True
    ):
        known = [columns[k] for k in (before, *more) if k >= 0 and columns[k] >= 0]
        assert [k for k in (label, *others) if k >= 0] == known
        assert (label >= 0) == bool(known)
