"""Layers of convolutional networks. BatchNorm and the classifier have backward passes of their own,
because those that JAX derives need more passes over memory, or more memory.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def recomputed(layers: Callable[[Any, Array], Array], remat: str) -> Callable[[Any, Array], Array]:
    """Have the backward pass of a part of a module compute again what `remat` names.

    Args:
        layers: a function of the module and its input.
        remat: "none"; "conv": all but the results of convolutions; "block": everything.
    """
    if remat == "none":
        return layers
    # `dots_saveable` covers convolutions.
    policy = jax.checkpoint_policies.dots_saveable if remat == "conv" else None
    lifted: Any = nn.remat(layers, policy=policy)
    return lifted


@jax.custom_vjp
def with_stored_gradient(x: Array) -> Array:
    """Return `x`, and have its gradient written to memory once, before anything uses it.

    XLA computes a cheap gradient again in each operation that reads it. XLA should not repeat an
    expensive gradient in each of them.
    """
    return x


with_stored_gradient.defvjp(lambda x: (x, None), lambda _, g: (lax.optimization_barrier(g),))


class Convolution(nn.Module):
    """Convolution that returns its bias beside the result: BatchNorm has a cheaper use for it."""

    filters: int
    side: int  # of the kernel
    stride: int
    dtype: Any
    kernel_init: Callable[..., Array]

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"]
    ) -> tuple[Float[Array, "b p q k"], Float[Array, " k"]]:
        shape = (self.side, self.side, x.shape[-1], self.filters)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.filters,), jnp.float32)
        return self.convolve(x, kernel), bias

    def convolve(
        self, x: Float[Array, "b h w c"], kernel: Float[Array, "s s c k"]
    ) -> Float[Array, "b p q k"]:
        if self.side == 1:
            # XLA for CPU computes the weight gradient of a matrix product twice as fast as that of
            # a convolution.
            return lax.dot_general(x, kernel[0, 0], (((3,), (0,)), ((), ())))
        padding = [(self.side // 2, self.side // 2)] * 2
        layout = ("NHWC", "HWIO", "NHWC")
        strides = (self.stride, self.stride)
        return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=layout)


class Dense(nn.Module):
    """The classifier: a matrix product in `dtype` whose sums and results are float32."""

    num_outputs: int
    dtype: Any
    kernel_init: Callable[..., Array]

    @nn.compact
    def __call__(self, x: Float[Array, "b f"]) -> Float[Array, "b K"]:
        shape = (x.shape[-1], self.num_outputs)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.num_outputs,), jnp.float32)
        return _product(x.astype(self.dtype), kernel.astype(self.dtype)) + bias.reshape(1, -1)


@jax.custom_vjp
def _product(x: Array, kernel: Array) -> Array:
    return lax.dot_general(x, kernel, (((1,), (0,)), ((), ())), preferred_element_type=jnp.float32)


def _product_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _product(x, kernel), (x, kernel)


def _product_backward(residuals: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    """Multiply in the type of `x`: JAX would convert the kernel of 21,841 classes to float32."""
    x, kernel = residuals
    plain = functools.partial(lax.dot_general, dimension_numbers=(((1,), (0,)), ((), ())))
    return jax.vjp(plain, x, kernel)[1](gradient.astype(x.dtype))


_product.defvjp(_product_forward, _product_backward)


class BatchNorm(nn.Module):
    """Normalise over batch and space: (x - mean) / sqrt(variance + epsilon) * gamma + beta.

    x is y + bias: the result of a convolution and its bias. In training the bias cancels out of
    x - mean. So it is never added to the activations, it has a gradient of exactly zero, and it
    only changes the moving mean.

    Statistics are float32. The variance is the biased one, computed around the mean in two passes:
    E[x^2] - E[x]^2 loses the digits that parity needs. The moving variance starts at 1. MXNet
    started it at 0, which only matters in a network that was never trained.

    Ioffe and Szegedy 2015, arXiv 1502.03167, algorithm 1 and the gradients of section 3. The
    gradient that JAX derives reads every activation more often, and a training step for batch 32 on
    a CPU spends as long on memory as on arithmetic (`notebooks/LOG.md`).
    """

    epsilon: float
    momentum: float  # weight of the old moving average
    fixed_gamma: bool  # use 1 instead of gamma
    axis_name: str | None = None  # devices to normalise over; None: each device by itself
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, y: Float[Array, "b h w c"], bias: Float[Array, " c"], train: bool
    ) -> Float[Array, "b h w c"]:
        channels = (y.shape[-1],)
        gamma = self.param("gamma", nn.initializers.ones, channels, jnp.float32)
        beta = self.param("beta", nn.initializers.zeros, channels, jnp.float32)
        moving_mean = self.variable("batch_stats", "moving_mean", jnp.zeros, channels, jnp.float32)
        moving_var = self.variable("batch_stats", "moving_var", jnp.ones, channels, jnp.float32)
        if self.fixed_gamma:
            gamma = jnp.ones_like(gamma)
        if not train:
            scale = lax.rsqrt(moving_var.value + self.epsilon) * gamma
            return ((y.astype(jnp.float32) - (moving_mean.value - bias)) * scale + beta).astype(
                self.dtype
            )
        normalised, mean, variance = _normalise(y, gamma, beta, self.epsilon, self.axis_name)
        if not self.is_initializing():
            moving_mean.value = self.momentum * moving_mean.value + (1 - self.momentum) * (
                mean + lax.stop_gradient(bias)
            )
            moving_var.value = self.momentum * moving_var.value + (1 - self.momentum) * variance
        return normalised.astype(self.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _normalise(
    y: Array, gamma: Array, beta: Array, epsilon: float, axis_name: str | None
) -> tuple[Array, Array, Array]:
    """Return the normalised activations (float32) and the statistics, which have no gradient."""
    return _normalise_forward(y, gamma, beta, epsilon, axis_name)[0]


def _normalise_forward(
    y: Array, gamma: Array, beta: Array, epsilon: float, axis_name: str | None
) -> tuple[tuple[Array, Array, Array], tuple[Array, Array, Array, Array]]:
    x = y.astype(jnp.float32)
    mean = _average(jnp.mean(x, axis=(0, 1, 2)), axis_name)
    centred = x - mean
    variance = _average(jnp.mean(jnp.square(centred), axis=(0, 1, 2)), axis_name)
    scale = lax.rsqrt(variance + epsilon)
    return (centred * (scale * gamma) + beta, mean, variance), (y, mean, scale, gamma)


def _normalise_backward(
    epsilon: float,
    axis_name: str | None,
    residuals: tuple[Array, Array, Array, Array],
    gradients: tuple[Array, Array, Array],
) -> tuple[Array, Array, Array]:
    y, mean, scale, gamma = residuals
    gradient, centred = gradients[0], y.astype(jnp.float32) - mean
    of_beta = jnp.sum(gradient, axis=(0, 1, 2))
    of_gamma = jnp.sum(gradient * centred, axis=(0, 1, 2)) * scale
    num_values = y.size // y.shape[-1]
    shift, slope = (
        _average(total / num_values, axis_name) for total in (of_beta, of_gamma * scale)
    )
    return (
        ((gradient - shift - centred * slope) * (scale * gamma)).astype(y.dtype),
        of_gamma,
        of_beta,
    )


_normalise.defvjp(_normalise_forward, _normalise_backward)


def _average(statistic: Array, axis_name: str | None) -> Array:
    return statistic if axis_name is None else lax.pmean(statistic, axis_name)
