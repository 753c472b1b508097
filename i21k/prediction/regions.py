"""Regions of an image, so that a scene of several objects is seen object by object."""

import io

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from i21k.trained import AnyImage, Preprocessing

PER_SIDE = 3  # regions beside each other; our choice: adjacent regions overlap by half
NUM_PARTS = 1 + PER_SIDE**2  # with the whole image


def parts(preprocessing: Preprocessing, image: AnyImage) -> UInt8[np.ndarray, "R S S 3"]:
    """Return the inputs of a network for the whole image, and then for each of its regions.

    A region has half the height and half the width of the image. Each is prepared as an image of
    its own, from the pixels of the original, so that a region of a photograph stays sharp.

    Raises:
        UserError: if it is not an image, or cannot be read.
    """
    found = [preprocessing.prepare(image)]
    with Image.open(io.BytesIO(preprocessing.original(image))) as opened:
        pixels = np.asarray(opened.convert("RGB"))
    height, width = (max(1, side // 2) for side in pixels.shape[:2])
    for top in np.linspace(0, pixels.shape[0] - height, PER_SIDE).round().astype(int).tolist():
        for left in np.linspace(0, pixels.shape[1] - width, PER_SIDE).round().astype(int).tolist():
            found.append(preprocessing.prepare(pixels[top : top + height, left : left + width]))
    return np.stack(found)


def combined(found: Float[np.ndarray, "R K"]) -> Float[np.ndarray, "K"]:
    """Return the probabilities of an image from those of its parts.

    It is a weighted mean. Each part has the square of its greatest probability as its weight, so a
    region of which the network is certain counts more than one without an object. The whole image
    counts as much as nine equally certain regions, so an image of one object keeps its answer. Our
    choice, after `benchmarks/scenes.py`.

    Args:
        found: of the parts, in the order of `parts`.
    """
    weights = found.max(axis=1) ** 2
    weights[0] *= len(found) - 1
    return np.asarray(np.average(found, axis=0, weights=weights), found.dtype)
