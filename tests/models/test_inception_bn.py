import functools
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from i21k.interop.mxnet.convert import variables_from_mxnet
from i21k.interop.mxnet.graph import parameter_shapes
from i21k.models.cpu import winograd
from i21k.models.folding import fold, folded
from i21k.models.inception_bn import MEAN, InceptionBN
from i21k.models.inception_tables import REVISIONS, check_size
from i21k.models.layers import BatchNorm, _product
from i21k.models.pools import max_pool
from i21k.models.summary import parameter_table
from tests.golden.make_golden import images as golden_images
from tests.golden.make_golden import labels, parameter
from tests.helpers.arrays import relative
from tests.helpers.paths import GOLDEN as GOLDEN_DIR

# Computed by MXNet 1.9.1 with golden/make_golden.py, seed 0. The environment variable names a
# directory with the files of another seed.
GOLDEN = Path(os.environ.get("I21K_GOLDEN", GOLDEN_DIR))
NETWORKS = [  # of MXNet
    (variant, revision)
    for variant in ("full", "standard")
    for revision in ("released", "symbol2016")
]


@pytest.fixture(autouse=True)
def full_precision():
    with jax.default_matmul_precision("highest"):
        yield


@functools.cache
def golden(variant: str, revision: str):
    """The stored numbers, and the network and images they were computed for."""
    stored = np.load(GOLDEN / f"{variant}_{revision}.npz")
    seed = int(stored["seed"])
    model = InceptionBN(num_classes=int(stored["num_classes"]), variant=variant, revision=revision)
    variables = variables_from_mxnet(
        {name: parameter(name, shape, seed) for name, shape in parameter_shapes(model).items()}
    )
    return stored, model, variables, golden_images(4, seed).astype(np.float32) - np.float32(MEAN)


@functools.cache
def evaluated(variant: str, revision: str):
    _, model, variables, images = golden(variant, revision)
    logits, sown = jax.jit(functools.partial(model.apply, mutable=["intermediates"]))(
        variables, images
    )
    return np.asarray(logits), {
        name: np.asarray(value[0]) for name, value in sown["intermediates"].items()
    }


@pytest.mark.parametrize(("variant", "revision"), NETWORKS)
def test_golden_blocks_features_and_logits(variant, revision):
    stored = golden(variant, revision)[0]
    logits, sown = evaluated(variant, revision)
    blocks = [key.split("/")[1] for key in stored.files if key.endswith("/shape_nchw")]
    assert len(blocks) == 13
    for block in blocks:
        got = sown[block].transpose(0, 3, 1, 2)
        assert got.shape == tuple(stored[f"eval/{block}/shape_nchw"]), block
        np.testing.assert_allclose(
            [got.mean(dtype=np.float64), got.std(dtype=np.float64)],
            stored[f"eval/{block}/mean_std"],
            rtol=1e-5,
        )
        assert relative(got[0, :8, :4, :4], stored[f"eval/{block}/corner_chw"]) < 1e-5, block
    assert relative(sown["flatten"], stored["eval/features"]) < 1e-5
    assert relative(logits, stored["eval/logits"]) < 1e-5


@pytest.mark.parametrize(
    ("variant", "revision"),
    [NETWORKS[0], *(pytest.param(*network, marks=pytest.mark.slow) for network in NETWORKS[1:])],
)
def test_golden_loss_and_gradients(variant, revision):
    stored, model, variables, images = golden(variant, revision)
    label = labels(model.num_classes)
    assert (label == stored["label"]).all()

    def loss_of(params, batch_stats, images):
        logits, _ = model.apply(
            {"params": params, "batch_stats": batch_stats},
            images,
            train=True,
            mutable=["batch_stats"],
        )
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(4), label])

    loss, gradients = jax.jit(jax.value_and_grad(loss_of))(
        variables["params"], variables["batch_stats"], images
    )
    assert abs(float(loss) - stored["train/loss"]) < 1e-5 * stored["train/loss"]
    errors = {}
    for layer, leaves in gradients.items():
        for kind, gradient in leaves.items():
            got = np.linalg.norm(np.asarray(gradient, np.float64))
            want = float(
                stored[f"train/grad_norm/{layer}_{'weight' if kind == 'kernel' else kind}"]
            )
            if layer.startswith("conv_") and kind == "bias":
                # BatchNorm subtracts the mean: the true gradient is 0, and both programs have
                # rounding errors (at most 2e-5 seen). All other gradients have norms from 3e-2.
                assert got < 1e-4 and want < 1e-4, layer
            elif kind == "gamma" and revision == "symbol2016":
                assert got == want == 0, layer
            else:
                errors[f"{layer}/{kind}"] = abs(got - want) / want
    assert len(errors) == 69 * 2 + 2 + (69 if revision == "released" else 0)
    assert np.median(list(errors.values())) < 1e-3
    assert max(errors.values()) < 2e-2, max(errors, key=errors.__getitem__)


@pytest.mark.parametrize(
    ("variant", "num_classes", "total"),
    [("full", 21841, 33_619_969), ("standard", 1000, 11_295_240)],
)
def test_parameter_table(variant, num_classes, total):
    variables = jax.eval_shape(
        InceptionBN(num_classes=num_classes, variant=variant).init,
        jax.random.key(0),
        jnp.zeros((1, 224, 224, 3)),
    )
    table = parameter_table(variables["params"])
    lines = [f"{p.name} {'x'.join(map(str, p.shape))} {p.size}" for p in table]
    assert lines == (GOLDEN_DIR / f"parameters_{variant}.txt").read_text().splitlines()
    assert len(table) == len(jax.tree.leaves(variables["params"])) == 278
    assert (
        sum(p.size for p in table)
        == sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
        == total
    )


@pytest.mark.parametrize(
    ("revision", "old", "new"),
    [("released", 0.1, 0.9), ("symbol2016", 0.9, 0.1), ("modern", 0.9, 0.1)],
)
def test_batch_norm_moves_its_averages_by_the_revision(revision, old, new):
    settings = REVISIONS[revision]
    x = jnp.asarray(np.random.default_rng(0).normal(3, 2, (4, 5, 5, 2)), jnp.float32)
    layer = BatchNorm(settings.epsilon, settings.momentum, settings.fixed_gamma)
    bias = jnp.array([5, -7], jnp.float32)
    variables = layer.init(jax.random.key(0), x, bias, True)
    variables["params"]["gamma"] = jnp.array([2.0, 3.0])
    y, updated = layer.apply(variables, x, bias, True, mutable=["batch_stats"])
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    np.testing.assert_allclose(
        updated["batch_stats"]["moving_mean"], new * (mean + bias), rtol=1e-5
    )
    np.testing.assert_allclose(
        updated["batch_stats"]["moving_var"], old + new * variance, rtol=1e-5
    )
    gamma = 1 if settings.fixed_gamma else np.array([2, 3], np.float32)
    np.testing.assert_allclose(
        y, (x - mean) / np.sqrt(variance + settings.epsilon) * gamma, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("revision", REVISIONS)
def test_the_gradient_of_batch_norm_is_the_derived_one(revision):
    settings = REVISIONS[revision]
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(3, 2, (4, 5, 5, 2)), jnp.float32)
    weights = rng.normal(0, 1, (4, 5, 5, 2)).astype(np.float32)
    layer = BatchNorm(settings.epsilon, settings.momentum, settings.fixed_gamma)
    params = {"gamma": jnp.array([2.0, 3.0]), "beta": jnp.array([0.5, -1.0])}
    stats = layer.init(jax.random.key(0), x, jnp.zeros(2), True)["batch_stats"]

    def ours(params, x, bias):
        y, _ = layer.apply(
            {"params": params, "batch_stats": stats}, x, bias, True, mutable=["batch_stats"]
        )
        return jnp.sum(weights * jnp.sin(y))

    def plain(params, x, bias):
        x = x + bias
        mean = jnp.mean(x, (0, 1, 2))
        scale = jax.lax.rsqrt(jnp.mean((x - mean) ** 2, (0, 1, 2)) + settings.epsilon)
        y = (x - mean) * scale * (1 if settings.fixed_gamma else params["gamma"]) + params["beta"]
        return jnp.sum(weights * jnp.sin(y))

    arguments = params, jnp.asarray(x), jnp.array([5.0, -7.0])
    got, want = (jax.grad(f, argnums=(0, 1, 2))(*arguments) for f in (ours, plain))
    for ours_one, plain_one in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(ours_one, plain_one, rtol=1e-3, atol=1e-4)
    assert not got[2].any()


@pytest.mark.parametrize("revision", REVISIONS)
@pytest.mark.parametrize(
    ("kind", "stride", "padding"), [("max", 2, 0), ("max", 2, 1), ("max", 1, 1), ("avg", 1, 1)]
)
@pytest.mark.parametrize("size", [6, 7])
def test_pools_follow_the_definition(revision, kind, stride, padding, size):
    settings = REVISIONS[revision]
    x = np.random.default_rng(size).random((1, size, size, 1)).astype(np.float32)
    span = size + 2 * padding
    num = (min(span - 3 + stride - 1, span - 1) if settings.ceil_pools else span - 3) // stride + 1
    want = np.zeros((num, num))
    for i in range(num):
        for j in range(num):
            top, left = i * stride - padding, j * stride - padding
            window = x[0, max(top, 0) : top + 3, max(left, 0) : left + 3, 0]
            want[i, j] = (
                window.max()
                if kind == "max"
                else window.sum() / (9 if settings.count_padding else window.size)
            )
    network = InceptionBN(revision=revision)
    got = network.apply({}, jnp.asarray(x), kind, "pool", stride, padding, method="pool")
    np.testing.assert_allclose(got[0, :, :, 0], want, rtol=1e-6)


@pytest.mark.parametrize(("stride", "low", "high"), [(2, 0, 0), (2, 0, 1), (2, 1, 1), (1, 1, 1)])
@pytest.mark.parametrize("size", [7, 8])
def test_the_gradient_of_a_max_pool_is_that_of_xla_where_values_are_equal(size, stride, low, high):
    rng = np.random.default_rng(size)
    x = jnp.asarray(
        rng.integers(-1, 2, (2, size, size + 2, 3)), jnp.float32
    )  # three values: nearly every window has its largest twice
    padding = ((low, high), (low, high))

    def xla(x):
        return lax.reduce_window(
            x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, stride, stride, 1), [(0, 0), *padding, (0, 0)]
        )

    want, pull = jax.vjp(xla, x)
    got, pull_ours = jax.vjp(lambda x: max_pool(x, stride, padding), x)
    assert np.array_equal(got, want) and np.array_equal(max_pool(x, stride, padding), want)
    gradient = jnp.asarray(
        rng.integers(1, 99, want.shape), jnp.float32
    )  # whole numbers: sums are exact in any order
    assert np.array_equal(pull_ours(gradient)[0], pull(gradient)[0])


@pytest.mark.parametrize(
    ("revision", "size", "message"),
    [
        ("released", 30, "nearest, 31 px"),
        ("released", 232, "nearest, 230 px"),
        ("released", 250, "nearest, 255 px"),
        ("symbol2016", 31, "takes sizes from 32 px"),
        ("modern", 31, "revision 'modern' takes sizes from 32 px"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(revision, size, message):
    with pytest.raises(ValueError, match=message):
        check_size(revision, size, size)


@functools.cache
def small(variant: str, revision: str):
    """A narrow network with statistics as after training, and with a few dead channels."""
    model = InceptionBN(num_classes=13, variant=variant, revision=revision, width=0.25)
    arrays = {name: parameter(name, shape, 3) for name, shape in parameter_shapes(model).items()}
    for name in arrays:
        if name.endswith(
            "moving_var"
        ):  # dead: the convolution gives its bias, which is the mean, and the variance is 0
            convolution = name.removesuffix("_moving_var").replace("bn_", "conv_", 1)
            arrays[name][:2] = 0
            arrays[f"{convolution}_weight"][:2] = 0
            arrays[name.replace("_var", "_mean")][:2] = arrays[f"{convolution}_bias"][:2]
    return model, variables_from_mxnet(arrays, variant, 0.25)


# Batches that a CPU takes whole, in equal pieces, and with a padded last piece. Sizes at which
# pools and tiles are incomplete.
@pytest.mark.parametrize(
    ("variant", "revision", "size", "batch"),
    [
        ("full", "released", 36, 9),
        ("standard", "released", 70, 3),
        ("full", "symbol2016", 33, 4),
        ("standard", "symbol2016", 97, 1),
    ],
)
def test_folded_equals_unfolded_where_channels_are_dead(variant, revision, size, batch):
    model, variables = small(variant, revision)
    images = golden_images(batch, 5)[:, :size, :size].astype(np.float32) - np.float32(MEAN)
    want = jax.jit(model.apply)(variables, images)
    params = fold(variables, revision)
    assert set(params["params"]) == {
        layer for layer in variables["params"] if not layer.startswith("bn_")
    }
    assert np.isfinite(want).all()
    for platform in ("cpu", "gpu"):
        got = jax.jit(folded(model, platform).apply)(params, images)
        assert got.shape == want.shape
        assert max(relative(*rows) for rows in zip(got, want, strict=True)) < 1e-5, (
            platform
        )  # each image has its own logits


@pytest.mark.parametrize(
    ("variant", "revision", "platform"),
    [*((*network, "cpu") for network in NETWORKS), ("full", "released", "gpu")],
)
def test_folded_equals_unfolded_at_full_size(variant, revision, platform):
    _, model, variables, images = golden(variant, revision)
    got = jax.jit(folded(model, platform).apply)(fold(variables, revision), images)
    assert relative(got, evaluated(variant, revision)[0]) < 1e-5


def test_only_a_cpu_gets_what_is_arranged_for_one():
    model, variables = small("standard", "symbol2016")
    images = np.zeros((3, 32, 32, 3), np.float32)
    graphs = {
        platform: str(
            jax.make_jaxpr(folded(model, platform).apply)(fold(variables, "symbol2016"), images)
        )
        for platform in ("cpu", "gpu")
    }
    assert "scan" in graphs["cpu"]
    assert (
        "scan" not in graphs["gpu"]
        and graphs["gpu"].count("conv_general_dilated")
        == graphs["cpu"].count("conv_general_dilated") + 1
    )


def test_a_folded_network_cannot_be_trained():
    model, variables = small("standard", "symbol2016")
    params = jax.tree.map(jnp.asarray, fold(variables, "symbol2016"))
    with pytest.raises(AssertionError, match="cannot be trained"):
        folded(model, "cpu").apply(params, jnp.zeros((1, 32, 32, 3), np.float32), train=True)


def test_the_logits_of_a_bfloat16_network_are_float32():
    model, variables = small("standard", "released")
    images = golden_images(4, 5)[:, :64, :64].astype(np.float32) - np.float32(MEAN)
    half = model.clone(dtype=jnp.bfloat16)
    logits, features = jax.jit(functools.partial(half.apply, method="outputs"))(variables, images)
    assert logits.dtype == features.dtype == jnp.float32
    assert not np.array_equal(logits, logits.astype(jnp.bfloat16).astype(jnp.float32))
    head = variables["params"]["fc1"]
    kernel = head["kernel"].astype(jnp.bfloat16).astype(np.float64)
    rounded = np.asarray(features.astype(jnp.bfloat16), np.float64)
    np.testing.assert_allclose(logits, rounded @ kernel + head["bias"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_gradient_of_the_head_is_that_of_a_product_in_its_dtype(dtype):
    rng = np.random.default_rng(0)
    x, kernel = (jnp.asarray(rng.normal(size=shape), dtype) for shape in ((3, 8), (8, 5)))
    cotangent = jnp.asarray(rng.normal(size=(3, 5)), jnp.float32)
    got = jax.vjp(_product, x, kernel)[1](cotangent)
    want = jax.vjp(lambda x, kernel: x @ kernel, x, kernel)[1](cotangent.astype(dtype))
    assert all(np.array_equal(*pair) for pair in zip(got, want, strict=True))


@pytest.mark.parametrize(("height", "width"), [(6, 6), (7, 4), (1, 5)])
def test_winograd_convolves(height, width):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((3, height, width, 40), np.float32))
    kernel = jnp.asarray(rng.standard_normal((3, 3, 40, 24), np.float32))
    want = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), [(1, 1)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    got = winograd(x, kernel)
    assert got.shape == want.shape
    assert relative(got, want) < 1e-6


def test_fold_refuses_what_float32_cannot_hold():
    _, variables = small("standard", "released")
    params = {
        **variables["params"],
        "bn_conv1": {**variables["params"]["bn_conv1"], "gamma": np.full(16, 1e300)},
    }
    with pytest.raises(ValueError, match="bn_conv1 cannot be folded into conv_conv1"):
        fold({**variables, "params": params}, "released")


def test_the_modern_revision_takes_any_size_and_the_weights_of_2015():
    narrow = {"num_classes": 5, "variant": "standard", "width": 0.125}
    modern, released = (InceptionBN(**narrow, revision=name) for name in ("modern", "released"))
    variables = jax.eval_shape(released.init, jax.random.key(0), jnp.zeros((1, 63, 63, 3)))
    for size in (32, 33, 47, 48, 96, 101):
        images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
        assert jax.eval_shape(modern.apply, variables, images).shape == (1, 5)
    assert REVISIONS["modern"] == (False, 1, False, 1e-5, 0.9, False)
