"""3x3 pools as maxima and sums of shifted slices: XLA's own are slow on a CPU, and their gradients take memory on a GPU.

The gradient of a maximum by `lax.reduce_window` is select-and-scatter: on a CPU a fifth of the whole training step, on a GPU an array of
zeros to add to and four arrays of 32-bit indices. Here the forward pass keeps one byte a window, and the gradient is a sum of nine
shifted arrays that XLA fuses into one pass.
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


def average_pool(x: Float[Array, "b h w c"], padding: Padding, *, count_padding: bool) -> Float[Array, "b p q c"]:
    """Return the mean of each window, at stride 1; the padding counts as zeros, or not at all."""
    total = functools.reduce(jnp.add, _shifted(x, 1, padding, 0.0))
    if count_padding:
        return total / SIDE**2
    rows, columns = (_counts(size, low, high) for size, (low, high) in zip(x.shape[1:3], padding, strict=True))
    return total / jnp.asarray(np.outer(rows, columns)[None, :, :, None], x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _max_pool(x: Array, stride: int, padding: Padding, size: tuple[int, int]) -> Array:
    return functools.reduce(jnp.maximum, _shifted(x, stride, padding, -jnp.inf))


def _max_pool_forward(x: Array, stride: int, padding: Padding, size: tuple[int, int]) -> tuple[Array, Int8[Array, "b p q c"]]:
    largest, *others = _shifted(x, stride, padding, -jnp.inf)
    winner = jnp.zeros(largest.shape, jnp.int8)
    for number, other in enumerate(others, 1):
        winner = jnp.where(other > largest, jnp.int8(number), winner)
        largest = jnp.maximum(largest, other)
    return largest, winner


def _max_pool_backward(
    stride: int, padding: Padding, size: tuple[int, int], winner: Int8[Array, "b p q c"], gradient: Array
) -> tuple[Array]:
    shares = []
    for number, offset in enumerate(np.ndindex(SIDE, SIDE)):
        share = jnp.where(winner == number, gradient, jnp.zeros((), gradient.dtype))
        spread = [(0, 0, 0), *map(functools.partial(_spread, stride), offset, padding, size, share.shape[1:3]), (0, 0, 0)]
        shares.append(lax.pad(share, jnp.zeros((), share.dtype), spread))
    return (functools.reduce(jnp.add, shares),)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def _spread(stride: int, offset: int, padding: tuple[int, int], size: int, windows: int) -> tuple[int, int, int]:
    """Padding (low, high, between) in pixels that sends a value of each window to its pixel `offset` in an axis of `size`."""
    low = offset - padding[0]
    return low, size - low - (windows - 1) * stride - 1, stride - 1


def _shifted(x: Array, stride: int, padding: Padding, fill: float) -> Iterator[Array]:
    """Yield pixel (0, 0) of each window, then (0, 1) and so on to (2, 2); `fill` where a window hangs over the edge.

    Each is padded by itself: XLA for CPU would write a padded copy of the whole `x`.
    """
    windows = [(size + sum(pads) - SIDE) // stride + 1 for size, pads in zip(x.shape[1:3], padding, strict=True)]
    for offset in np.ndindex(SIDE, SIDE):
        part, around = x, [(0, 0, 0)] * x.ndim
        for axis, (num, start) in enumerate(zip(windows, (o - pads[0] for o, pads in zip(offset, padding, strict=True)), strict=True), 1):
            first = max(0, -(start // stride))  # window that begins in the picture
            last = min(num - 1, (x.shape[axis] - 1 - start) // stride)
            part = lax.slice_in_dim(part, start + first * stride, start + last * stride + 1, stride, axis)
            around[axis] = (first, num - 1 - last, 0)
        yield lax.pad(part, jnp.asarray(fill, x.dtype), around)


def _counts(size: int, low: int, high: int) -> np.ndarray:
    """Return how many pixels of a row of `size` each window of stride 1 has."""
    return np.convolve(np.pad(np.ones(size), (low, high)), np.ones(SIDE), "valid")
