"""Changes of a batch on the device, and the random numbers for them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, UInt8

from i21k.train.losses import Targets

Images = UInt8[Array, "b S S 3"] | Float[Array, "b S S 3"]  # RGB, 0 to 255

# Changes the images and targets of a micro-batch in training: a pure function of (key, images,
# targets). A function that mixes images returns soft targets, [b, K]. Training accuracy still
# counts the true labels.
Augmentation = Callable[[Key[Array, ""], Images, Targets], tuple[Images, Targets]]


def step_key(
    seed: int,
    step: int | Int[Array, ""],
    device_index: int | Int[Array, ""],
    micro_index: int | Int[Array, ""],
) -> Key[Array, ""]:
    """Return the random key of a micro-batch. It does not depend on earlier draws.

    A resumed run therefore draws the same numbers as one that was never stopped.

    Args:
        seed: of the run; up to 2**63, of which both halves count.
        step: steps done before this one.
        device_index: the device's index among the devices of all processes.
        micro_index: the index of the micro-batch on its device.
    """
    key = jax.random.fold_in(jax.random.key(np.uint32(seed & 0xFFFFFFFF)), seed >> 32)
    for number in (step, device_index, micro_index):
        key = jax.random.fold_in(key, number)
    return key


def mirror(images: UInt8[Array, "b S S 3"], flags: Bool[Array, " b"]) -> UInt8[Array, "b S S 3"]:
    """Mirror the flagged images, left to right."""
    return jnp.where(flags[:, None, None, None], images[:, :, ::-1], images)
