"""Draw an image of a class from a seed.

Background, clutter, pose, tint and noise use the colours of all classes, so that a histogram or a
thumbnail contains little information about the class. All constants are our choice.
"""

import math

import numpy as np

from i21k.data.synthetic.classes import COLOURS, LOOKS
from i21k.data.synthetic.frame import Field, Frame


def _colour(rng: np.random.Generator, names: str = "/".join(COLOURS)) -> np.ndarray:
    """Return one of the colours named, a little changed."""
    return (COLOURS[str(rng.choice(names.split("/")))] + rng.normal(0, 12, 3)).astype(np.float32)


def _blend(image: np.ndarray, mask: Field, colour: np.ndarray) -> None:
    """Paint `image` [S, S, 3] in place with `colour` where `mask` is 1."""
    image += mask[..., None] * (colour - image)


def _frame(
    rng: np.random.Generator, size_px: int, radius: float, turn: float, reach: float
) -> Frame:
    """Return the coordinates of an object, randomly turned and a little squeezed.

    Args:
        rng: of the pose.
        size_px: side of the image.
        radius: of the object; 1 is half the image.
        turn: the largest turn, in radians to either side.
        reach: the largest distance from the middle of the image in each direction.
    """
    x, y = rng.uniform(-reach, reach, 2).tolist()
    angle, squeeze, mirror = (
        rng.uniform(-turn, turn),
        rng.uniform(0.92, 1.08),
        1 if rng.random() < 0.5 else -1,
    )
    at = (np.arange(size_px, dtype=np.float32) + 0.5) * (2 / size_px) - 1
    u, v = (at - x)[None] / radius, (at - y)[:, None] / radius
    c, s = math.cos(angle), math.sin(angle)
    return Frame(
        (c * u + s * v) * (mirror * squeeze), (c * v - s * u) / squeeze, 2 / size_px / radius, rng
    )


def _texture(f: Frame) -> Field:
    """Return the mask of a random texture: clouds, stripes, checks or dots."""
    kind, frequency = f.rng.integers(4), f.rng.uniform(3, 12)
    if kind == 0:
        return 0.5 + 0.5 * f.wobble(frequency)
    if kind == 1:
        return f.mask(f.scattered(2 / frequency) - 0.6 / frequency)
    stripes = np.sin(frequency * f.x + f.wobble(3))
    return f.mask((stripes if kind == 2 else stripes * np.sin(frequency * f.y)) / frequency)


def _clutter(
    image: np.ndarray, rng: np.random.Generator, smallest: float, largest: float, reach: float
) -> None:
    """Draw a random blob, box or ring with a random texture into `image` in place."""
    f = _frame(rng, image.shape[0], rng.uniform(smallest, largest), math.pi, reach)
    kind, width = rng.integers(3), rng.uniform(0.3, 1)
    outline = (
        f.ellipse(0, 0, 1, width),
        np.maximum(np.abs(f.x) - 1, np.abs(f.y) - width),
        np.abs(f.ellipse(0, 0, 1, width)) - 0.15,
    )[kind]
    mask = f.mask(outline)
    _blend(image, mask, _colour(rng))
    _blend(image, mask * _texture(f), _colour(rng))


def draw(class_index: int, image_seed: int, size_px: int) -> np.ndarray:
    """Draw an image of class `SYNSETS[class_index]`.

    At every size, the same seed gives the same image except for its noise.

    Returns:
        uint8 `[size_px, size_px, 3]`, RGB; a pure function of the arguments.
    """
    rng = np.random.default_rng((class_index, image_seed))
    look = LOOKS[class_index]

    image = np.empty((size_px, size_px, 3), np.float32)
    image[:] = _colour(rng)
    _blend(image, _texture(_frame(rng, size_px, 1, math.pi, 0.5)), _colour(rng))
    for _ in range(rng.integers(2, 6)):
        _clutter(image, rng, 0.2, 0.5, 1)

    radius = rng.uniform(0.55, 0.85)
    f = _frame(rng, size_px, radius, look.turn, 1 - radius)
    outline, marks = look.sketch(f)
    body = f.mask(outline)
    thing = np.empty_like(image)
    thing[:] = _colour(rng, look.colours[0])
    for mark, names in zip(marks, look.colours[1:], strict=True):
        _blend(thing, mark, _colour(rng, names))
    light = rng.uniform(-0.3, 0.3, 2).tolist()
    thing *= (0.75 + light[0] * f.x + light[1] * f.y + 0.35 * np.sqrt(np.clip(-outline, 0, 1)))[
        ..., None
    ]
    _blend(image, body, thing)
    for _ in range(rng.integers(0, 3)):
        _clutter(image, rng, 0.1, 0.2, 0.9)

    image *= rng.uniform(0.75, 1.2) * rng.uniform(0.85, 1.15, 3)  # exposure and tint
    image += rng.uniform(-25, 25) + rng.normal(0, rng.uniform(3, 12), image.shape)
    return np.clip(image, 0, 255).astype(np.uint8)
