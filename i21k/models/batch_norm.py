"""BatchNorm with a backward pass of its own: what JAX derives from the two passes of the variance reads every activation more often.

A training step for batch 32 on a CPU spends as long on memory as on arithmetic, so passes count (`notebooks/LOG.md`).
Ioffe and Szegedy 2015, arXiv 1502.03167, algorithm 1 and the gradients of section 3.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

_Residuals = tuple[Array, Array, Array, Array]


class BatchNorm(nn.Module):
    """Normalise over batch and space with float32 statistics: (x - mean) / sqrt(variance + epsilon) * gamma + beta.

    x is y + bias, what a convolution and its bias give. In training the bias cancels out of x - mean, so it only shows in the moving
    mean, is never added to the activations, and gets a gradient of exactly zero.

    The variance is the biased one, computed around the mean in two passes (E[x^2] - E[x]^2 loses the digits that parity needs).
    The moving variance starts at 1; MXNet started it at 0, which only shows in a network that was never trained.
    """

    epsilon: float
    momentum: float
    fixed_gamma: bool
    axis_name: str | None = (
        None  # statistics over all devices of this axis; None: each device by itself
    )
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
    """Return the normalised activations in float32, and the statistics, through which no gradient flows."""
    return _forward(y, gamma, beta, epsilon, axis_name)[0]


def _forward(
    y: Array, gamma: Array, beta: Array, epsilon: float, axis_name: str | None
) -> tuple[tuple[Array, Array, Array], _Residuals]:
    x = y.astype(jnp.float32)
    mean = _average(jnp.mean(x, axis=(0, 1, 2)), axis_name)
    centred = x - mean
    variance = _average(jnp.mean(jnp.square(centred), axis=(0, 1, 2)), axis_name)
    scale = lax.rsqrt(variance + epsilon)
    return (centred * (scale * gamma) + beta, mean, variance), (y, mean, scale, gamma)


def _backward(
    epsilon: float,
    axis_name: str | None,
    residuals: _Residuals,
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


_normalise.defvjp(_forward, _backward)


def _average(statistic: Array, axis_name: str | None) -> Array:
    return statistic if axis_name is None else lax.pmean(statistic, axis_name)
