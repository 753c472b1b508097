"""Pools by windows of 3x3. Max pools have a backward pass of their own.

JAX's gradient of `lax.reduce_window` with a maximum is select-and-scatter, which XLA turns into an
array of zeros and four arrays of 32-bit indices: half a gigabyte on a GPU. Here the forward pass
keeps one byte per window: which of its nine pixels is the largest.
"""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int8

_SIDE = 3  # of every window, in pixels

Padding = tuple[tuple[int, int], tuple[int, int]]  # (low, high) of height and width, in pixels


def pool_padding(size: int, stride: int, padding: int, ceil: bool) -> tuple[int, int]:
    """Return the padding (low, high) in pixels that gives XLA's pools the output size of MXNet's.

    Args:
        size: of the input.
        stride: of the windows.
        padding: on both sides, as MXNet names it.
        ceil: whether windows that begin inside the padded image and end outside of it count, as in
            MXNet before July 2016.
    """
    if not ceil:
        return padding, padding
    outputs = min(size + 2 * padding - _SIDE + stride - 1, size + 2 * padding - 1) // stride + 1
    return padding, max(padding, (outputs - 1) * stride + _SIDE - size - padding)


def max_pool(x: Float[Array, "b h w c"], stride: int, padding: Padding) -> Float[Array, "b p q c"]:
    """Return the maximum of each window. Padding never wins.

    The gradient goes to the first of the largest pixels, row by row, as in XLA.
    """
    return _max_pool(x, stride, padding, x.shape[1:3])


def _window_sum(x: Float[Array, "b h w c"], padding: Padding) -> Float[Array, "b p q c"]:
    """Return the sum of each window, at stride 1."""
    window, strides = (1, _SIDE, _SIDE, 1), (1, 1, 1, 1)
    return lax.reduce_window(x, 0.0, lax.add, window, strides, ((0, 0), *padding, (0, 0)))


def average_pool(
    x: Float[Array, "b h w c"],
    padding: Padding,
    *,
    count_padding: bool,
) -> Float[Array, "b p q c"]:
    """Return the mean of each window, at stride 1.

    Args:
        x: activations.
        padding: in pixels.
        count_padding: whether padding counts as zeros, or not at all.
    """
    if count_padding:
        return _window_sum(x, padding) / _SIDE**2
    # Over [1, h, w, 1]: XLA folds constants for half a minute where an array of ones has the full
    # size.
    num_pixels = _window_sum(jnp.ones((1, *x.shape[1:3], 1), x.dtype), padding)
    return _window_sum(x, padding) / num_pixels


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _max_pool(x: Array, stride: int, padding: Padding, size: tuple[int, int]) -> Array:
    return functools.reduce(jnp.maximum, _shifted(x, stride, padding))


def _max_pool_forward(
    x: Array, stride: int, padding: Padding, size: tuple[int, int]
) -> tuple[Array, Int8[Array, "b p q c"]]:
    largest, *others = _shifted(x, stride, padding)
    winner = jnp.zeros(largest.shape, jnp.int8)
    for number, other in enumerate(others, 1):
        winner = jnp.where(other > largest, jnp.int8(number), winner)
        largest = jnp.maximum(largest, other)
    return largest, winner


def _max_pool_backward(
    stride: int,
    padding: Padding,
    size: tuple[int, int],
    winner: Int8[Array, "b p q c"],
    gradient: Array,
) -> tuple[Array]:
    """Return the gradient of the input: each pixel adds up the windows that it has won.

    Row u of the padded input is row k * stride + u % stride of window u // stride - k, for every k
    that keeps this below 3, and columns likewise. So for each pair (k, l), the windows moved by it
    meet a tile of stride x stride pixels each, which differ only in the number that wins.
    """
    (top, _), (left, _) = padding
    tiles = [-(-(low + length) // stride) for low, length in zip((top, left), size, strict=True)]
    zero = jnp.zeros((), gradient.dtype)
    shares = []
    for moved in np.ndindex(-(-_SIDE // stride), -(-_SIDE // stride)):
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
            (rows[:, None] < _SIDE) & (columns < _SIDE), rows[:, None] * _SIDE + columns, -1
        ).astype(np.int8)
        won = (
            lax.pad(winner, jnp.int8(-2), around)[:, :, None, :, None] == numbers[:, None, :, None]
        )
        shares.append(jnp.where(won, lax.pad(gradient, zero, around)[:, :, None, :, None], zero))
    whole = functools.reduce(jnp.add, shares).reshape(
        len(winner), tiles[0] * stride, tiles[1] * stride, -1
    )
    return (whole[:, top : top + size[0], left : left + size[1]],)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def _shifted(x: Array, stride: int, padding: Padding) -> Iterator[Array]:
    """Yield pixel (0, 0) of each window, then (0, 1) and so on to (2, 2); padding is -inf."""
    x = lax.pad(
        x,
        jnp.asarray(-np.inf, x.dtype),
        ((0, 0, 0), *((low, high, 0) for low, high in padding), (0, 0, 0)),
    )
    rows, columns = ((size - _SIDE) // stride * stride + 1 for size in x.shape[1:3])
    for i, j in np.ndindex(_SIDE, _SIDE):
        yield x[:, i : i + rows : stride, j : j + columns : stride]
