"""3x3 pools, with a gradient of the maximum that is cheap: XLA's own holds half a gigabyte on a GPU.

The gradient of `lax.reduce_window` with a maximum is select-and-scatter, which XLA turns into an array of zeros to add to and four arrays
of 32-bit indices. Here the forward pass keeps one byte a window: which of its nine pixels is the largest.
"""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int8

SIDE = 3  # of every window, in pixels

Padding = tuple[tuple[int, int], tuple[int, int]]  # (low, high) of height and width, in pixels


def max_pool(x: Float[Array, "b h w c"], stride: int, padding: Padding) -> Float[Array, "b p q c"]:
    """Return the maximum of each window; the gradient goes to its first largest pixel, row by row, as in XLA."""
    return _max_pool(x, stride, padding, x.shape[1:3])


def average_pool(
    x: Float[Array, "b h w c"], padding: Padding, *, count_padding: bool, by_slices: bool = False
) -> Float[Array, "b p q c"]:
    """Return the mean of each window, at stride 1; the padding counts as zeros, or not at all. By slices it is faster on a CPU."""

    def total(x: Array) -> Array:
        if by_slices:
            return functools.reduce(jnp.add, _shifted(x, 1, padding, 0.0))
        return lax.reduce_window(
            x, 0.0, lax.add, (1, SIDE, SIDE, 1), (1, 1, 1, 1), ((0, 0), *padding, (0, 0))
        )

    # Counted over [1, h, w, 1]: a full-size array of ones costs XLA half a minute of constant folding.
    return total(x) / (
        SIDE**2 if count_padding else total(jnp.ones((1, *x.shape[1:3], 1), x.dtype))
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _max_pool(x: Array, stride: int, padding: Padding, size: tuple[int, int]) -> Array:
    return functools.reduce(jnp.maximum, _shifted(x, stride, padding))


def _forward(
    x: Array, stride: int, padding: Padding, size: tuple[int, int]
) -> tuple[Array, Int8[Array, "b p q c"]]:
    largest, *others = _shifted(x, stride, padding)
    winner = jnp.zeros(largest.shape, jnp.int8)
    for number, other in enumerate(others, 1):
        winner = jnp.where(other > largest, jnp.int8(number), winner)
        largest = jnp.maximum(largest, other)
    return largest, winner


def _backward(
    stride: int,
    padding: Padding,
    size: tuple[int, int],
    winner: Int8[Array, "b p q c"],
    gradient: Array,
) -> tuple[Array]:
    """Return the gradient of the input: each pixel adds up the windows that it has won.

    Row u of the padded input is pixel k * stride + u % stride of window u // stride - k, for every k that keeps this below 3; columns
    likewise. So the windows moved by each (k, l) stand beside stride x stride pixels that differ only in the number that wins.
    """
    (top, _), (left, _) = padding
    tiles = [-(-(low + length) // stride) for low, length in zip((top, left), size, strict=True)]
    zero = jnp.zeros((), gradient.dtype)
    shares = []
    for moved in np.ndindex(-(-SIDE // stride), -(-SIDE // stride)):
        around = [
            (0, 0, 0),
            *(
                (k, num - k - there, 0)
                for k, num, there in zip(moved, tiles, gradient.shape[1:3], strict=True)
            ),
            (0, 0, 0),
        ]
        rows, columns = (np.arange(k * stride, (k + 1) * stride) for k in moved)
        numbers = np.where(
            (rows[:, None] < SIDE) & (columns < SIDE), rows[:, None] * SIDE + columns, -1
        ).astype(np.int8)
        won = (
            lax.pad(winner, jnp.int8(-2), around)[:, :, None, :, None] == numbers[:, None, :, None]
        )
        shares.append(jnp.where(won, lax.pad(gradient, zero, around)[:, :, None, :, None], zero))
    whole = functools.reduce(jnp.add, shares).reshape(
        len(winner), tiles[0] * stride, tiles[1] * stride, -1
    )
    return (whole[:, top : top + size[0], left : left + size[1]],)


_max_pool.defvjp(_forward, _backward)


def _shifted(x: Array, stride: int, padding: Padding, outside: float = -np.inf) -> Iterator[Array]:
    """Yield pixel (0, 0) of each window, then (0, 1) and so on to (2, 2); `outside` where a window hangs over the edge."""
    x = lax.pad(
        x,
        jnp.asarray(outside, x.dtype),
        ((0, 0, 0), *((low, high, 0) for low, high in padding), (0, 0, 0)),
    )
    rows, columns = ((size - SIDE) // stride * stride + 1 for size in x.shape[1:3])
    for i, j in np.ndindex(SIDE, SIDE):
        yield x[:, i : i + rows : stride, j : j + columns : stride]
