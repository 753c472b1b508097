import jax
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from i21k.data.format.splits import open_split
from i21k.data.load.loader import LoaderOptions
from i21k.train import steps
from i21k.train.devices import put_batch, put_state
from i21k.train.recalibration import Population, few_steps, images_for, recalibrate
from i21k.train.recipe import parse
from i21k.train.state import init_state, make_network
from tests.helpers.datasets import write_dataset

MEAN, VARIANCE = ("a", "b", "mean"), ("a", "variance")  # a tree of uneven depth

pytestmark = pytest.mark.usefixtures("few_blocks")


def test_parts_of_a_population_combine_to_the_whole():
    rng = np.random.default_rng(0)
    values = rng.normal(1000, 3, (6, 50, 4)) + rng.normal(
        0, 20, (6, 1, 4)
    )  # six parts whose means differ
    population = None
    for pair in values.reshape(3, 2, 50, 4):
        parts = {"a": {"b": {"mean": pair.mean(axis=1)}, "variance": pair.var(axis=1)}}
        population = population or Population([(MEAN, VARIANCE)])
        population.add(parts)
    combined = flatten_dict(population.statistics())
    np.testing.assert_allclose(combined[MEAN], values.mean(axis=(0, 1)), rtol=1e-6)
    np.testing.assert_allclose(combined[VARIANCE], values.var(axis=(0, 1)), rtol=1e-5)
    assert (
        values.var(axis=1).mean(axis=0) < 0.5 * combined[VARIANCE]
    ).any()  # the mean of variances alone is far off


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    return open_split(write_dataset(tmp_path_factory.mktemp("data") / "d", {"train": 64}), "train")


@pytest.fixture
def trained(recipe):
    network = make_network(parse(recipe).model, 4)
    state = init_state(network, optax.sgd(0.1), 32, "he_normal", 0)
    return network, {"params": state.params, "batch_stats": state.batch_stats}


def test_the_first_layer_gets_the_statistics_of_the_population(split, trained):
    """Statistics of conv1 do not depend on other layers, so all images can be used at once."""
    network, variables = trained
    options = LoaderOptions(8, 32, crop="plain", mirror=False, threads=1)
    devices = jax.local_devices()
    fixed = recalibrate(
        steps.make_statistics_step(network, devices),
        variables,
        split,
        options,
        devices,
        64,
        network.moments,
    )
    from i21k.data.load.loader import batches

    with batches(split, options, 0, 8) as stream:
        images = np.concatenate([batch.images for batch in stream])
    kernel, bias = (np.asarray(variables["params"]["conv_conv1"][k]) for k in ("kernel", "bias"))
    x = jax.lax.conv_general_dilated(
        images.astype(np.float32) - 117,
        kernel,
        (2, 2),
        [(3, 3)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    x = np.asarray(x, np.float64) + bias
    found = fixed["batch_stats"]["bn_conv1"]
    np.testing.assert_allclose(found["moving_mean"], x.mean(axis=(0, 1, 2)), rtol=1e-3, atol=1e-2)
    np.testing.assert_allclose(found["moving_var"], x.var(axis=(0, 1, 2)), rtol=1e-3)
    again = recalibrate(
        steps.make_statistics_step(network, devices),
        variables,
        split,
        LoaderOptions(8, 32, crop="plain", mirror=False, threads=4),
        devices,
        64,
        network.moments,
    )
    assert all(
        np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(fixed), jax.tree.leaves(again), strict=True)
    )


def test_it_repairs_what_momentum_a_tenth_breaks(split, trained):
    """Planted: moving averages of one batch of 2 images, against those of the population."""
    network, variables = trained
    devices = jax.local_devices()
    options = LoaderOptions(8, 32, crop="plain", threads=1)
    step = steps.make_statistics_step(network, devices)
    from i21k.data.load.loader import batches

    with batches(split, options, 0, 8) as stream:
        parts = [
            jax.device_get(step(put_state(variables, devices), put_batch(batch, devices)))
            for batch in stream
        ]
    everything = jax.tree.map(
        lambda *leaves: np.concatenate(leaves), *parts
    )  # [32, channels]: of each device's 2 images
    last = jax.tree.map(
        lambda *leaves: 0.1 * leaves[-2].mean(axis=0) + 0.9 * leaves[-1].mean(axis=0), *parts
    )
    fixed = jax.device_get(
        recalibrate(
            steps.make_statistics_step(network, devices),
            variables,
            split,
            options,
            devices,
            64,
            network.moments,
        )
    )["batch_stats"]
    for layer in ("bn_conv1", "bn_3a_1x1", "bn_5b_proj"):
        truth = everything[layer]["moving_mean"].astype(np.float64).mean(axis=0)
        spread = everything[layer]["moving_mean"].std(axis=0).mean()
        assert np.abs(fixed[layer]["moving_mean"] - truth).mean() < 1e-3 * spread
        assert np.abs(last[layer]["moving_mean"] - truth).mean() > 0.1 * spread
        between = everything[layer]["moving_mean"].var(axis=0).mean()
        within = everything[layer]["moving_var"].mean()
        assert fixed[layer]["moving_var"].mean() == pytest.approx(between + within, rel=1e-3)


def test_auto_recalibrates_until_the_moving_averages_are_of_enough_steps():
    assert (few_steps(0.9), few_steps(0.1), few_steps(0.0)) == (100, 11, 10)
    assert images_for("auto", 99, 0.9, 5000) == 1024
    assert images_for("auto", 99, 0.9, 260) == 260
    assert images_for("auto", 100, 0.9, 5000) == 0
    assert images_for("auto", 100_000, 0.1, 5000) == 1024, "the average of the last batch alone"
    assert images_for(0, 1, 0.9, 5000) == 0
    assert images_for(77, 100_000, 0.9, 5000) == 77
