import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from i21k.errors import UserError
from i21k.models.network import build

VERSION_ONE = {
    "variant": "standard",
    "revision": "symbol2016",
    "width": 0.125,
    "bn_momentum": None,
    "count_padding": None,
    "dtype": "float32",
}  # in a checkpoint of version one
NETWORK = build(VERSION_ONE, 7)


def test_a_network_is_built_again_from_its_description():
    described = json.loads(json.dumps(NETWORK.describe()))
    assert described == {"network": "inception_bn", **VERSION_ONE}
    assert build(described, 7) == NETWORK and hash(build(described, 7)) == hash(NETWORK)
    changed = NETWORK.with_momentum(0.5).with_remat("conv").with_statistics_over("batch")
    assert build(changed.describe(), 7) == NETWORK.with_momentum(0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": "resnet"}, "There is no network 'resnet'. Use one of 'inception_bn'"),
        ({"depth": 3}, "'depth' describes no network of kind 'inception_bn'"),
        ({"revision": "2016"}, "revision is '2016'. Use one of 'released', 'symbol2016', 'modern'"),
        ({"dtype": "int7"}, "dtype is 'int7'. Use one of"),
        ({"width": "wide"}, "width is 'wide'. Use a number above 0"),
    ],
)
def test_descriptions_of_no_network_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        build(VERSION_ONE | change, 7)


def test_the_classes_of_parameters():
    params = traverse_util.flatten_dict(NETWORK.initial(32, "uniform", 1)["params"])
    head = {path for path in params if path[: len(NETWORK.head)] == NETWORK.head}
    assert {params[path].shape[-1] for path in head} == {7} and len(head) == 2
    assert sum(params[path].ndim > 1 for path in params) == sum(map(NETWORK.is_kernel, params))
    released = build({**VERSION_ONE, "revision": "released"}, 7)
    assert all(map(released.is_trained, params))
    assert {path[-1] for path in params if not NETWORK.is_trained(path)} == {"gamma"}


def test_initial_values_have_their_shapes_and_follow_the_seed():
    shapes = NETWORK.shapes(32)
    first, again, other = (NETWORK.initial(32, "he_normal", seed) for seed in (1, 1, 2))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), first) == jax.tree.map(
        lambda x: (x.shape, x.dtype), shapes
    )
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, first, again)))
    kernels = (tree["params"][NETWORK.head[0]]["kernel"] for tree in (first, other))
    assert not np.array_equal(*kernels)
    with pytest.raises(UserError, match="takes sizes from 32 px"):
        NETWORK.initial(31, "he_normal", 1)


def test_a_network_for_inference_gives_the_same_outputs():
    rng = np.random.default_rng(0)
    variables = jax.device_put(NETWORK.initial(32, "he_normal", 3))
    images = NETWORK.prepare(jnp.asarray(rng.integers(0, 256, (3, 32, 32, 3), np.uint8)))
    trained, statistics = NETWORK.with_momentum(0).apply_train(variables, images)
    assert trained.features.shape == (3, NETWORK.num_features)
    moments = NETWORK.moments(statistics)
    flat = traverse_util.flatten_dict(statistics)
    assert sorted(flat) == sorted(path for pair in moments for path in pair)
    assert all((flat[variance] >= 0).all() for _, variance in moments)

    want = NETWORK.apply(variables, images)
    for platform in ("cpu", "gpu"):
        network, convert = NETWORK.for_inference(platform)
        got = network.apply(jax.device_put(convert(variables)), images)
        for one, other in zip(got, want, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4 * np.abs(other).max())
        assert network.describe() == NETWORK.describe()
