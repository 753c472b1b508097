"""The folded Inception-BN arranged for the caches and vector units of a CPU: the same function.

`benchmarks/inference.py` measures what it gains, and `notebooks/LOG.md` takes that apart.
"""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Self

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from i21k.models.folding import FoldedInceptionBN
from i21k.models.layers import Convolution

# Images at a time: few enough for the cache, enough to share the reading of the kernels
# (`notebooks/LOG.md`).
_NUM_IMAGES = {"stem": 2, "blocks": 8}


class CpuInceptionBN(FoldedInceptionBN):
    """Takes a few images at a time, and uses Winograd's algorithm."""

    def part(self, name: str, layers: Callable[[Self, Array], Array], x: Array) -> Array:
        """Compute a part of the network for at most a few images at a time."""
        at_a_time = _NUM_IMAGES[name]
        if len(x) <= at_a_time:
            return layers(self, x)
        num_pieces = -(-len(x) // at_a_time)
        piece = -(-len(x) // num_pieces)
        padded = jnp.pad(x, [(0, num_pieces * piece - len(x)), (0, 0), (0, 0), (0, 0)])
        loop = nn.scan(
            lambda self, _, x: (None, layers(self, x)),
            variable_broadcast="params",
            split_rngs={"params": False},
        )
        _, y = loop(self, None, padded.reshape(num_pieces, piece, *x.shape[1:]))
        return y.reshape(num_pieces * piece, *y.shape[2:])[: len(x)]

    def convolution(self, name: str, filters: int, kernel: int, stride: int) -> nn.Module:
        # conv2 is a third of all operations. No other 3x3 convolution gains by it.
        kind = Winograd if name == "conv2" and self.dtype == jnp.float32 else Convolution
        return kind(filters, kernel, stride, self.dtype, self.kernel_init, name=f"conv_{name}")


class Winograd(Convolution):
    """A convolution of 3x3 with stride 1 by Winograd's algorithm."""

    def convolve(
        self, x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c k"]
    ) -> Float[Array, "b h w k"]:
        return winograd(x, kernel)


Matrix = Sequence[Sequence[float]]
_TILE: Matrix = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
_KERNEL: Matrix = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
_OUTPUT: Matrix = ((1, 1, 1, 0), (0, 1, -1, -1))


def winograd(
    x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c k"]
) -> Float[Array, "b h w k"]:
    """Convolve with kernels of 3x3, stride 1 and padding 1, with 2.25 times fewer multiplications.

    Every 2x2 pixels of output come from a tile of 4x4 pixels of input. Tile and kernel are
    transformed to 4x4 numbers per channel. These are multiplied and summed over the channels (16
    matrix products), and the sums are transformed back. The result is that of
    `lax.conv_general_dilated` to 4e-7 in float32 (relative L2). F(2x2, 3x3) of Lavin and Gray 2015,
    arXiv 1509.09308, section 4.1.
    """
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
    """Return matrix x grid x transposed matrix, for a grid of arrays."""
    lines = [[_combine(row, column) for column in zip(*grid, strict=True)] for row in matrix]
    return [[_combine(row, line) for row in matrix] for line in lines]


def _combine(coefficients: Sequence[float], arrays: Sequence[Array]) -> Array:
    return functools.reduce(
        operator.add, [c * x for c, x in zip(coefficients, arrays, strict=True) if c]
    )
