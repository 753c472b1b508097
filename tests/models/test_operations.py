"""Multiply-adds from shapes: against a count by hand, and against what XLA counts on a CPU."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from i21k.models.network import build
from i21k.models.operations import multiply_adds
from i21k.models.summary import forward_gflops


def of(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def convolution(stride, padding, groups=1):
    def apply(images, kernel):
        return lax.conv_general_dilated(
            images,
            kernel,
            (stride, stride),
            padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    return apply


def test_convolutions_without_what_multiplies_padding():
    # 3 x 3 over 4 x 4 with a border of one: of 16 x 9 pairs, 2 x 4 rows and columns are outside.
    inside = (3 * 4 - 2) ** 2
    shapes = of(2, 4, 4, 3), of(3, 3, 3, 5)
    assert multiply_adds(convolution(1, ((1, 1), (1, 1))), *shapes) == 2 * 3 * 5 * inside
    assert multiply_adds(convolution(1, ((0, 0), (0, 0))), *shapes) == 2 * 3 * 5 * 2 * 2 * 9
    # Stride 2: two places an axis, of which the first has one tap outside.
    assert multiply_adds(convolution(2, ((1, 1), (1, 1))), *shapes) == 2 * 3 * 5 * 5**2
    # Below the image only: two places an axis, of which the last has one tap outside.
    assert multiply_adds(convolution(2, ((0, 1), (0, 1))), *shapes) == 2 * 3 * 5 * 5**2
    grouped = of(2, 4, 4, 6), of(3, 3, 3, 4)
    assert multiply_adds(convolution(1, "SAME", 2), *grouped) == 2 * 3 * 4 * inside


def test_products_also_inside_what_is_called():
    shapes = of(7, 3, 4), of(7, 4, 5)
    wanted = 7 * 3 * 4 * 5
    assert multiply_adds(jnp.matmul, *shapes) == wanted
    assert multiply_adds(jax.jit(jax.checkpoint(jnp.matmul)), *shapes) == wanted
    assert multiply_adds(lambda x, y: jnp.matmul(x, y) + jnp.exp(x).sum(), *shapes) == wanted
    with pytest.raises(AssertionError, match="scan"):
        multiply_adds(lambda x: lax.scan(lambda a, b: (a @ b, None), x, x[None])[0], of(3, 3))


def test_functions_that_may_not_run_are_not_counted_as_nothing():
    def branches(x):
        return lax.cond(x[0, 0] > 0, lambda a: a @ a, lambda a: a, x)

    def solved(x):
        return lax.custom_linear_solve(lambda a: x @ a, x, lambda _, b: x @ b, symmetric=True)

    for function, name in ((branches, "cond"), (solved, "custom_linear_solve")):
        with pytest.raises(AssertionError, match=name):
            multiply_adds(function, of(3, 3))


@pytest.mark.parametrize(
    ("model", "num_classes", "size"),
    [
        ({}, 1000, 224),
        ({"variant": "standard", "width": 0.25}, 25, 64),
        ({"revision": "modern"}, 200, 160),
    ],
)
def test_the_network_as_xla_counts_it_on_a_cpu(model, num_classes, size):
    network = build(model, num_classes)
    lowered = jax.jit(lambda v, x: network.apply(v, x).logits).lower(
        network.shapes(size), of(1, size, size, 3)
    )
    # XLA also counts what runs element by element: more than 0, and below 3 % at these widths.
    counted = lowered.cost_analysis()["flops"] / 1e9
    assert forward_gflops(network, size) < counted < 1.03 * forward_gflops(network, size)


def test_the_count_needs_no_backend(monkeypatch):
    # JAX has no estimate before compiling on a GPU: `cost_analysis` returns None there.
    monkeypatch.setattr(jax.stages.Lowered, "cost_analysis", lambda _: None)
    assert 0.01 < forward_gflops(build({"width": 0.25}, 25), 64) < 0.1
