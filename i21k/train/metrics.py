"""Losses and hits as sums, on the device and on the host: never a mean of means."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

RANKS = (1, 5, 20)


@struct.dataclass
class Sums:
    """Running sums over images, on the device.

    The loss has a carry (Kahan): float32 alone would lose digits over 14 million images.
    """

    # JAX rebuilds the tree with NumPy arrays, shapes and placeholders: types would be wrong.
    loss: Any  # float32
    loss_carry: Any  # float32
    hits: Any  # int32 [3]: images whose true class is among the 1, 5, 20 best
    count: Any  # int32

    @classmethod
    def zero(cls) -> "Sums":
        return cls(
            jnp.zeros(()), jnp.zeros(()), jnp.zeros(len(RANKS), jnp.int32), jnp.zeros((), jnp.int32)
        )

    @classmethod
    def of(
        cls,
        losses: Float[Array, " b"],
        logits: Float[Array, "b K"],
        labels: Int[Array, " b"],
        weights: Float[Array, " b"],
        known: Bool[Array, " b"] | None = None,
        others: Int[Array, "b M"] | None = None,
    ) -> "Sums":
        """Sum over a batch. Images of weight 0 do not count.

        The rank of the true class is the number of logits above its own. This needs no sort of
        21,841 columns. Among equal logits the first class comes first, as for argmax: otherwise a
        network of zeros would always be right. An image whose loss is not finite is never a hit.

        Args:
            losses: of each image.
            logits: of each image and class.
            labels: the true classes.
            weights: 0 for padding.
            known: False where the model lacks the true class: the image counts, is never a hit, and
                has no loss.
            others: labels that are right too; -1 for none.
        """
        rank = _rank(logits, labels)
        for label in () if others is None else others.T:
            other = jnp.where(label >= 0, _rank(logits, jnp.maximum(label, 0)), logits.shape[1])
            rank = jnp.minimum(rank, other)
        counted = weights > 0
        can_hit = counted & jnp.isfinite(losses)
        if known is not None:
            can_hit, losses = can_hit & known, jnp.where(known, losses, 0)
        hits = jnp.sum((rank[:, None] < jnp.array(RANKS)) & can_hit[:, None], axis=0)
        loss = jnp.sum(jnp.where(counted, losses, 0))
        return cls(loss, jnp.zeros(()), hits.astype(jnp.int32), jnp.sum(counted).astype(jnp.int32))

    def add(self, batch: "Sums") -> "Sums":
        """Add a batch's sums."""
        term = batch.loss - self.loss_carry
        total = self.loss + term
        carry = (total - self.loss) - term
        return Sums(total, carry, self.hits + batch.hits, self.count + batch.count)


def _rank(logits: Float[Array, "b K"], labels: Int[Array, " b"]) -> Int[Array, " b"]:
    true = jnp.take_along_axis(logits, labels[:, None], axis=1)
    earlier = jnp.arange(logits.shape[1]) < labels[:, None]
    return jnp.sum((logits > true) | ((logits == true) & earlier), axis=1)


@dataclasses.dataclass(frozen=True)
class Totals:
    """Running sums over images, on the host, in double precision."""

    loss: float = 0.0
    hits: tuple[int, ...] = (0,) * len(RANKS)
    count: int = 0

    @classmethod
    def fetch(cls, sums: Sums) -> "Totals":
        """Wait for the device and fetch its sums.

        A view of an array on a CPU would keep the next step from reusing its buffer: these are
        copies, and nothing refers to the arrays that gave them.
        """
        sums = jax.tree.map(_copy, sums)
        return cls(
            float(sums.loss) - float(sums.loss_carry),
            tuple(np.asarray(sums.hits).tolist()),
            int(sums.count),
        )

    def __add__(self, other: "Totals") -> "Totals":
        return Totals(
            self.loss + other.loss,
            tuple(a + b for a, b in zip(self.hits, other.hits, strict=True)),
            self.count + other.count,
        )

    def __sub__(self, other: "Totals") -> "Totals":
        return Totals(
            self.loss - other.loss,
            tuple(a - b for a, b in zip(self.hits, other.hits, strict=True)),
            self.count - other.count,
        )

    def means(self) -> dict[str, float]:
        """Mean loss (nats an image) and top-1/5/20 accuracy (fractions)."""
        count = max(self.count, 1)
        return {"loss": self.loss / count} | {
            f"top{k}": hits / count for k, hits in zip(RANKS, self.hits, strict=True)
        }


def _copy(leaf: jax.Array | np.ndarray) -> np.ndarray:
    """Copy a replicated array's values; `np.array` of it would keep a view in the array."""
    return np.array(
        jax.device_get(leaf.addressable_data(0) if isinstance(leaf, jax.Array) else leaf)
    )
