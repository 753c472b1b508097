"""What a network consists of, as a table; apart from the network because it only looks at the tree of its variables."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from i21k.models.inception_bn import InceptionBN


class Parameter(NamedTuple):
    """One line of the table."""

    name: str  # `conv_3a_1x1/kernel`
    shape: tuple[int, ...]
    size: int


def parameter_table(params: Mapping[str, Any]) -> list[Parameter]:
    """List every array of a tree of parameters (or of their shapes, as `jax.eval_shape` gives them) in the order of the network.

    Moving statistics are not parameters: give `variables["params"]`.
    """
    return [
        Parameter(f"{layer}/{kind}", tuple(leaf.shape), math.prod(leaf.shape))
        for layer, leaves in params.items()
        for kind, leaf in leaves.items()
    ]


def activation_bytes(model: InceptionBN, image_size: int) -> int:
    """Return the bytes of what all layers put out for one picture, as a training step without recomputation keeps them."""
    images = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), images)
    _, outputs = jax.eval_shape(
        lambda v, x: model.apply(v, x, capture_intermediates=True, mutable=["intermediates"]),
        variables,
        images,
    )
    layers = [
        leaves["__call__"] for leaves in outputs["intermediates"].values() if "__call__" in leaves
    ]  # pools and ReLUs are no modules
    activations = (
        x for x in jax.tree.leaves(layers) if x.ndim > 1
    )  # not the biases that convolutions hand on
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in activations)


def forward_gflops(model: InceptionBN, image_size: int) -> float:
    """Return 1e9 floating-point operations of a forward pass for one picture, as XLA counts them (a multiply-add is two)."""
    images = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), images)
    cost = jax.jit(lambda v, x: model.apply(v, x)).lower(variables, images).cost_analysis()
    assert cost is not None
    return float(cost["flops"]) / 1e9


def describe(model: InceptionBN, image_size: int) -> str:
    """Return Flax's table of all layers for one picture (shapes, parameters, floating-point operations), and the totals."""
    images = jnp.zeros((1, image_size, image_size, 3))
    table = model.tabulate(
        jax.random.key(0),
        images,
        compute_flops=True,
        depth=1,
        console_kwargs={"width": 150, "force_terminal": False},
    )
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), images))["params"]
    num_parameters = sum(parameter.size for parameter in parameter_table(params))
    totals = (
        f"{num_parameters:,} parameters | {forward_gflops(model, image_size):.2f} GFLOPs forward"
    )
    return f"{table}\n{totals} | {activation_bytes(model, image_size):,} bytes of activations, for one picture of {image_size} px\n"
