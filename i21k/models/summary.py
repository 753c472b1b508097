"""A table of the blocks or layers of a network: shapes, parameters and operations."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp

from i21k.models.network import Layer, Network
from i21k.models.operations import multiply_adds


class Parameter(NamedTuple):
    """One array of parameters."""

    name: str  # such as conv_3a_1x1/kernel
    shape: tuple[int, ...]
    size: int


def parameter_table(params: Mapping[str, Any]) -> list[Parameter]:
    """List every array of `variables["params"]`, or of their shapes, in the order of the tree."""
    return [
        Parameter("/".join(path), tuple(leaf.shape), leaf.size)
        for path, leaf in flax.traverse_util.flatten_dict(params).items()
    ]


def activation_bytes(network: Network, image_size: int) -> int:
    """Return the bytes that all layers put out for one image.

    A training step without recomputation keeps them for the backward pass.
    """
    return sum(layer.activation_bytes for layer in network.layers(image_size))


def forward_gflops(network: Network, image_size: int) -> float:
    """Return 1e9 floating-point operations of a forward pass for one image.

    A multiply-add is two operations. Multiplications with padding are not counted.
    """
    images = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    shapes = network.shapes(image_size)
    return 2 * multiply_adds(lambda v, x: network.apply(v, x).logits, shapes, images) / 1e9


def describe(network: Network, image_size: int, layers: bool = False) -> str:
    """Return a table of the network for one image, and the totals.

    Args:
        network: any.
        image_size: in px.
        layers: list every layer instead of every block.
    """
    listed = network.layers(image_size)
    rows = listed if layers else _blocks(listed)
    name_width = max(len(row.name) for row in rows)
    lines = [f"{'':{name_width}}  {'output':>15} {'parameters':>12} {'GFLOPs':>8}"]
    for row in rows:
        shape = " x ".join(map(str, row.shape))
        gflops = f"{2 * row.multiply_adds / 1e9:.3f}" if row.multiply_adds else ""
        lines.append(f"{row.name:{name_width}}  {shape:>15} {row.num_parameters:12,} {gflops:>8}")
    num_parameters = sum(row.num_parameters for row in rows)
    padded = sum(2 * row.multiply_adds for row in rows) / 1e9
    lines += [
        "",
        f"{network.title}, {network.num_classes:,} classes, one image of {image_size} px:",
        f"{num_parameters:,} parameters",
        f"{forward_gflops(network, image_size):.2f} GFLOPs forward (a multiply-add is 2), and "
        f"{padded:.2f} with multiplications by padding, as the table counts",
        f"{sum(row.activation_bytes for row in rows):,} bytes of activations",
    ]
    return "\n".join(lines)


def _blocks(layers: list[Layer]) -> list[Layer]:
    """Add up the layers of each block. The output of a block is that of its last layer."""
    blocks: dict[str, Layer] = {}
    for layer in layers:
        before = blocks.get(layer.block)
        blocks[layer.block] = Layer(
            name=layer.block,
            block=layer.block,
            shape=layer.block_shape,
            block_shape=layer.block_shape,
            num_parameters=layer.num_parameters + (before.num_parameters if before else 0),
            multiply_adds=layer.multiply_adds + (before.multiply_adds if before else 0),
            activation_bytes=layer.activation_bytes + (before.activation_bytes if before else 0),
        )
    return list(blocks.values())
