"""Targets from WordNet, on the device: sums over the sets of classes around a label.

Work is B x K x D comparisons that XLA fuses into their sum; no array has the shape [b, K, D].
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from i21k.wordnet.levels import Levels


def near_targets(labels: Int[Array, " b"], levels: Levels) -> Float[Array, "b K"]:
    """Return the weight of each class near a label: each set's weight, shared by its members."""
    share = jnp.asarray(levels.weights / levels.sizes.clip(1))[labels]
    total = jnp.zeros((len(labels), len(levels.place)), share.dtype)
    for level in range(levels.first.shape[1]):
        inside = _members(labels, levels, level)
        total += jnp.where(inside, share[:, level, None], 0)
    return total


def set_losses(
    logits: Float[Array, "b K"], labels: Int[Array, " b"], levels: Levels
) -> Float[Array, " b"]:
    """Return the weighted mean over a label's sets of -log(probability of the set), in nats."""
    # Sums of positive numbers only: differences of cumulated sums would lose small sets. A set
    # whose best class is 87 nats below the best of all counts as that far away.
    shifted = logits - lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    mass = jnp.exp(shifted)
    log_total = jnp.log(jnp.sum(mass, axis=-1))
    weights = jnp.asarray(levels.weights)[labels]
    total = jnp.zeros_like(log_total)
    for level in range(levels.first.shape[1]):
        weight = weights[:, level]
        of_set = jnp.sum(jnp.where(_members(labels, levels, level), mass, 0), axis=-1)
        of_set = jnp.where(weight > 0, of_set, 1)  # of a set that is not there
        floor = jnp.finfo(mass.dtype).tiny
        total += weight * (log_total - jnp.log(jnp.maximum(of_set, floor)))
    return total


def _members(labels: Int[Array, " b"], levels: Levels, level: int) -> Bool[Array, "b K"]:
    place = jnp.asarray(levels.place)
    first, stop = (jnp.asarray(x[:, level])[labels] for x in (levels.first, levels.stop))
    return (place >= first[:, None]) & (place < stop[:, None])
