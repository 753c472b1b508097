"""The 3x3 convolution of stride 1 with 2.25 times fewer multiplications; apart from the network because it is an algorithm and no layer.

Every 2x2 pixels of output come from a tile of 4x4 pixels of input. Tile and kernel are transformed to 4x4 numbers a channel, these are
multiplied and summed over the channels (16 matrix products), and the sums are transformed back.
F(2x2, 3x3) of Lavin and Gray 2015, arXiv 1509.09308, section 4.1.
"""

import functools
import operator
from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

Matrix = Sequence[Sequence[float]]
_TILE: Matrix = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
_KERNEL: Matrix = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
_OUTPUT: Matrix = ((1, 1, 1, 0), (0, 1, -1, -1))


def convolve(
    x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c k"]
) -> Float[Array, "b h w k"]:
    """Convolve with a padding of 1: what `lax.conv_general_dilated` gives, to 4e-7 in float32 (relative L2)."""
    batch, height, width, _ = x.shape
    rows, columns = -(-height // 2), -(-width // 2)  # of tiles, which overlap by two pixels
    x = jnp.pad(x, ((0, 0), (1, 2 * rows + 1 - height), (1, 2 * columns + 1 - width), (0, 0)))
    tiles = _transform(
        _TILE,
        [
            [x[:, i : i + 2 * rows - 1 : 2, j : j + 2 * columns - 1 : 2] for j in range(4)]
            for i in range(4)
        ],
    )
    kernels = _transform(_KERNEL, [[kernel[i, j] for j in range(3)] for i in range(3)])
    products = [[tiles[i][j] @ kernels[i][j] for j in range(4)] for i in range(4)]
    pixels = _transform(_OUTPUT, products)
    y = jnp.stack([jnp.stack(line, 3) for line in pixels], 2)  # [b, rows, 2, columns, 2, k]
    return y.reshape(batch, 2 * rows, 2 * columns, -1)[:, :height, :width]


def _transform(matrix: Matrix, grid: Sequence[Sequence[Array]]) -> list[list[Array]]:
    """Return matrix x grid x transposed matrix, for a grid whose numbers are arrays."""
    lines = [[_combine(row, column) for column in zip(*grid, strict=True)] for row in matrix]
    return [[_combine(row, line) for row in matrix] for line in lines]


def _combine(coefficients: Sequence[float], arrays: Sequence[Array]) -> Array:
    return functools.reduce(
        operator.add, [c * x for c, x in zip(coefficients, arrays, strict=True) if c]
    )
