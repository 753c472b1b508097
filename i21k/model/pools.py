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


def average_pool(x: Float[Array, "b h w c"], padding: Padding, *, count_padding: bool, by_slices: bool = False) -> Float[Array, "b p q c"]:
    """Return the mean of each window, at stride 1; the padding counts as zeros, or not at all. By slices it is faster on a CPU."""

    def total(x: Array) -> Array:
        if by_slices:
            return functools.reduce(jnp.add, _shifted(x, 1, padding, 0.0))
        return lax.reduce_window(x, 0.0, lax.add, (1, SIDE, SIDE, 1), (1, 1, 1, 1), ((0, 0), *padding, (0, 0)))

    # Counted over [1, h, w, 1]: a full-size array of ones costs XLA half a minute of constant folding.
    return total(x) / (SIDE**2 if count_padding else total(jnp.ones((1, *x.shape[1:3], 1), x.dtype)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _max_pool(x: Array, stride: int, padding: Padding, size: tuple[int, int]) -> Array:
    return functools.reduce(jnp.maximum, _shifted(x, stride, padding))


def _forward(x: Array, stride: int, padding: Padding, size: tuple[int, int]) -> tuple[Array, Int8[Array, "b p q c"]]:
    largest, *others = _shifted(x, stride, padding)
    winner = jnp.zeros(largest.shape, jnp.int8)
    for number, other in enumerate(others, 1):
        winner = jnp.where(other > largest, jnp.int8(number), winner)
        largest = jnp.maximum(largest, other)
    return largest, winner


def _backward(stride: int, padding: Padding, size: tuple[int, int], winner: Int8[Array, "b p q c"], gradient: Array) -> tuple[Array]:
    whole = functools.partial(_spread, stride, padding, size)

    def one_by_one(winner: Array, gradient: Array) -> Array:
        return lax.map(lambda pair: whole(pair[0][None], pair[1][None])[0], (winner, gradient))

    # XLA for CPU would compute the sum anew in every consumer (a step of 4.7 s instead of 3.6 s) and drops optimization barriers; a loop
    # over the pictures it leaves alone.
    return (lax.platform_dependent(winner, gradient, cpu=one_by_one, default=whole),)


_max_pool.defvjp(_forward, _backward)


def _spread(stride: int, padding: Padding, size: tuple[int, int], winner: Int8[Array, "b p q c"], gradient: Array) -> Array:
    """Return the gradient of the pool's input as a sum of nine shifted arrays, which XLA fuses into one pass."""
    zero = jnp.zeros((), gradient.dtype)
    shares = []
    for number, offset in enumerate(np.ndindex(SIDE, SIDE)):
        around = [(0, 0, 0)] * gradient.ndim
        for axis, low in enumerate((o - pads[0] for o, pads in zip(offset, padding, strict=True)), 1):
            reach = (gradient.shape[axis] - 1) * stride + 1
            around[axis] = (low, size[axis - 1] - low - reach, stride - 1)  # negative: cut off
        shares.append(lax.pad(jnp.where(winner == number, gradient, zero), zero, around))
    return functools.reduce(jnp.add, shares)


def _shifted(x: Array, stride: int, padding: Padding, outside: float = -np.inf) -> Iterator[Array]:
    """Yield pixel (0, 0) of each window, then (0, 1) and so on to (2, 2); `outside` where a window hangs over the edge.

    Each is padded by itself: XLA for CPU would write a padded copy of the whole `x`.
    """
    windows = [(size + sum(pads) - SIDE) // stride + 1 for size, pads in zip(x.shape[1:3], padding, strict=True)]
    nothing = jnp.asarray(outside, x.dtype)
    for offset in np.ndindex(SIDE, SIDE):
        part, around = x, [(0, 0, 0)] * x.ndim
        for axis, (num, start) in enumerate(zip(windows, (o - pads[0] for o, pads in zip(offset, padding, strict=True)), strict=True), 1):
            first = max(0, -(start // stride))  # window whose pixel is in the picture
            last = min(num - 1, (x.shape[axis] - 1 - start) // stride)
            if last < first:  # of a picture of a pixel or two every window misses it there
                part, around[axis] = lax.slice_in_dim(part, 0, 0, 1, axis), (0, num, 0)
                continue
            part = lax.slice_in_dim(part, start + first * stride, start + last * stride + 1, stride, axis)
            around[axis] = (first, num - 1 - last, 0)
        yield lax.pad(part, nothing, around)
