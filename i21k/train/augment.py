"""Changes of a batch on the device, and the random numbers for them."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, UInt8

from i21k.train.losses import Several, Targets
from i21k.train.recipe import AugmentRecipe

Images = UInt8[Array, "b S S 3"] | Float[Array, "b S S 3"]  # RGB, 0 to 255

# Changes the images and targets of a micro-batch in training: a pure function of (key, images,
# targets). A function that mixes images returns soft targets, [b, K]. Training accuracy still
# counts the true labels.
Augmentation = Callable[[Key[Array, ""], Images, Targets], tuple[Images, Targets]]


def step_key(seed: int, step: int | Int[Array, ""], part: int | Int[Array, ""]) -> Key[Array, ""]:
    """Return the random key of a micro-batch. It does not depend on earlier draws.

    A resumed run therefore draws the same numbers as one that was never stopped, and micro-batches
    on one device draw the same numbers as on as many devices.

    Args:
        seed: of the run; up to 2**63, of which both halves count.
        step: steps done before this one.
        part: the index of the micro-batch among those of all devices.
    """
    key = jax.random.fold_in(jax.random.key(np.uint32(seed & 0xFFFFFFFF)), seed >> 32)
    for number in (step, part):
        key = jax.random.fold_in(key, number)
    return key


def mirror(images: UInt8[Array, "b S S 3"], flags: Bool[Array, " b"]) -> UInt8[Array, "b S S 3"]:
    """Mirror the flagged images, left to right."""
    return jnp.where(flags[:, None, None, None], images[:, :, ::-1], images)


def make_augmentation(cfg: AugmentRecipe) -> Augmentation | None:
    """Return what a recipe does to batches on the devices; None: nothing."""
    return Mix(cfg.mixup, cfg.cutmix) if cfg.mixup or cfg.cutmix else None


@dataclasses.dataclass(frozen=True)
class Mix:
    """Mixes each image of a micro-batch with the one before it, all with the same share.

    Two labels with the shares as weights are the target: mixup (Zhang et al. 2018) and CutMix (Yun
    et al. 2019). With both, each is used for half of the micro-batches.
    """

    mixup: float = 0.0  # parameter of the Beta distribution; 0: off
    cutmix: float = 0.0

    def __call__(
        self, key: Key[Array, ""], images: Images, targets: Targets
    ) -> tuple[Images, Several]:
        assert self.mixup or self.cutmix
        choice_key, mixup_key, cutmix_key = jax.random.split(key, 3)
        own = jnp.ones((1, 1), jnp.float32)  # of each pixel: the share of the image itself
        if self.mixup:
            own = jax.random.beta(mixup_key, self.mixup, self.mixup)[None, None]
        if self.cutmix:
            outside = _outside_box(cutmix_key, self.cutmix, images.shape[1])
            use_box = jax.random.bernoulli(choice_key) if self.mixup else True
            own = jnp.where(use_box, outside, own)
        pixels, images = own[None, :, :, None], images.astype(jnp.float32)
        mixed = pixels * images + (1 - pixels) * jnp.roll(images, 1, axis=0)
        return mixed, _mixed_targets(targets, jnp.mean(own))


def _outside_box(key: Key[Array, ""], alpha: float, side: int) -> Float[Array, "S S"]:
    """Return 1 outside of a box and 0 in it. The box is cut off at the border of the image.

    Its centre is uniform. Its area is a share of the image that is drawn from Beta(alpha, alpha).
    """
    area_key, centre_key = jax.random.split(key)
    half = side * jnp.sqrt(jax.random.beta(area_key, alpha, alpha)) / 2
    centre = side * jax.random.uniform(centre_key, (2,))
    pixels = jnp.arange(side, dtype=jnp.float32) + 0.5
    rows, columns = (jnp.abs(pixels - middle) < half for middle in centre)
    return 1 - (rows[:, None] & columns[None]).astype(jnp.float32)


def _mixed_targets(targets: Targets, share: Float[Array, ""]) -> Several:
    if not isinstance(targets, Several):
        assert targets.ndim == 1, "images with a weight per class cannot be mixed"
        targets = Several(targets[:, None], jnp.ones((len(targets), 1), jnp.float32))
    labels, weights = targets
    return Several(
        jnp.concatenate([labels, jnp.roll(labels, 1, axis=0)], axis=1),
        jnp.concatenate([share * weights, (1 - share) * jnp.roll(weights, 1, axis=0)], axis=1),
    )
