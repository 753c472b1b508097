"""Random regions, random windows and centred windows of images.

A box is `(top, left, height, width)` in pixels.
"""

import numpy as np
from jaxtyping import Float, Int

NUM_TRIES = 10  # to draw a region inside the image, as torchvision and MXNet do
NUM_DRAWS = 4 * NUM_TRIES  # uniform numbers per image: area, aspect, top, left for each try


def region_boxes(
    sizes: Int[np.ndarray, "n 2"],
    uniforms: Float[np.ndarray, "n 40"],
    min_area: float = 0.08,
    max_aspect: float = 4 / 3,
) -> Int[np.ndarray, "n 4"]:
    """Return random regions with a random part of the area and a random aspect.

    After Szegedy et al. 2014, section 6. Where no try fits, the region is the largest centred one
    of an allowed aspect.

    Args:
        sizes: height and width of each image in pixels.
        uniforms: `NUM_DRAWS` numbers in [0, 1) for each image.
        min_area: the smallest region, as a fraction of the image.
        max_aspect: the largest width over height, and the inverse of the smallest.
    """
    height, width = sizes[:, :1].astype(np.float64), sizes[:, 1:].astype(np.float64)
    # Each is [n, tries].
    area, aspect, top, left = uniforms.reshape(len(sizes), 4, NUM_TRIES).transpose(1, 0, 2)
    area = height * width * (min_area + (1 - min_area) * area)
    aspect = max_aspect ** (2 * aspect - 1)
    h, w = np.rint(np.sqrt(area / aspect)), np.rint(np.sqrt(area * aspect))
    fits = (h >= 1) & (h <= height) & (w >= 1) & (w <= width)
    first = (np.arange(len(sizes)), fits.argmax(axis=1))
    boxes = np.stack(
        [
            top[first] * (height[:, 0] - h[first] + 1),
            left[first] * (width[:, 0] - w[first] + 1),
            h[first],
            w[first],
        ],
        axis=1,
    )
    none = ~fits.any(axis=1)
    if none.any():
        height, width = height[none, 0], width[none, 0]
        h, w = (
            np.maximum(1, np.rint(np.minimum(height, width * max_aspect))),
            np.maximum(1, np.rint(np.minimum(width, height * max_aspect))),
        )
        boxes[none] = np.stack([(height - h) // 2, (width - w) // 2, h, w], axis=1)
    return boxes.astype(np.int64)  # floor


def window_boxes(
    sizes: Int[np.ndarray, "n 2"], fraction: float, where: Float[np.ndarray, "n 2"] | float
) -> Int[np.ndarray, "n 4"]:
    """Return square windows whose side is `fraction` of the short side: 0.875 is 224 of 256 px.

    Args:
        sizes: height and width of each image in pixels.
        fraction: in (0, 1].
        where: for each image, numbers in [0, 1) that choose top and left among all places; 0.5 is
            the centre.
    """
    side = np.maximum(1, np.rint(sizes.min(axis=1, keepdims=True) * fraction))
    margin = sizes - side  # [n, 2]
    # Where a margin is odd, the centred window is half a pixel above and left of the centre.
    corner = np.floor(margin * 0.5) if np.isscalar(where) else np.floor((margin + 1) * where)
    return np.concatenate([corner, side, side], axis=1).astype(np.int64)
