"""The coordinates of an object, and distances to simple shapes in them.

A shape is a signed distance to its outline (negative inside). A mark is a mask between 0 and 1.
Both are computed for all pixels at once. The object is inside the unit circle, with x to the right
and y down. All constants are our choice.
"""

import math
from typing import NamedTuple

import numpy as np

Field = np.ndarray  # float32 [S, S]: one number per pixel
# The distance to the outline, and the mask of each colour after the first.
Sketch = tuple[Field, list[Field]]


class Frame(NamedTuple):
    """The object's own coordinates at every pixel."""

    x: Field
    y: Field
    pixel: float  # size of a pixel in these coordinates
    rng: np.random.Generator

    def mask(self, distance: Field) -> Field:
        """Return 1 where `distance` is negative, 0 where positive, with an edge one pixel wide."""
        return np.clip(0.5 - distance / self.pixel, 0, 1)

    def lines(self, wave: Field, width: float) -> Field:
        """Return the mask of the lines where `wave` vanishes."""
        return self.mask(np.abs(wave) - width)

    def ellipse(self, x: float, y: float, a: float, b: float, turn: float = 0.0) -> Field:
        """Return the distance to an ellipse with half axes `a`, `b`, turned by `turn` radians."""
        c, s = math.cos(turn), math.sin(turn)
        u, v = self.x - x, self.y - y
        return (np.hypot((c * u + s * v) / a, (c * v - s * u) / b) - 1) * min(a, b)

    def limb(self, x0: float, y0: float, x1: float, y1: float, r: float) -> Field:
        """Return the distance to a line from one point to another, drawn with a round pen of radius
        `r`."""
        dx, dy = x1 - x0, y1 - y0
        along = np.clip(((self.x - x0) * dx + (self.y - y0) * dy) / (dx * dx + dy * dy), 0, 1)
        return np.hypot(self.x - x0 - along * dx, self.y - y0 - along * dy) - r

    def sphere(self) -> tuple[Field, Field, Field]:
        """Return the points of a ball's visible half, the ball turned at random in space."""
        z = np.sqrt(np.maximum(0, 1 - self.x**2 - self.y**2))
        turn = np.linalg.qr(self.rng.normal(size=(3, 3)))[0].astype(np.float32)
        x, y, z = np.tensordot(turn, np.stack([self.x, self.y, z]), 1)
        return x, y, z

    def wobble(self, frequency: float) -> Field:
        """Return a smooth random wave between -1 and 1, which makes stripes irregular."""
        (a, b), (c, d) = (self.rng.normal(size=(2, 2)) * frequency).tolist()
        phase, other = self.rng.uniform(0, 2 * math.pi, 2).tolist()
        return (
            np.sin(a * self.x + b * self.y + phase) + np.sin(c * self.x + d * self.y + other)
        ) / 2

    def scattered(self, pitch: float) -> Field:
        """Return the distance to the nearest of points scattered `pitch` apart, right up to a third
        of `pitch`."""
        points = self.rng.uniform(0.33, 0.67, (2, 16, 16)).astype(
            np.float32
        )  # one in each cell of a grid that repeats
        u, v = self.x / pitch, self.y / pitch
        column, row = np.floor(u), np.floor(v)
        at = points[:, column.astype(int) % 16, row.astype(int) % 16]
        return np.hypot(u - column - at[0], v - row - at[1]) * pitch


def union(*distances: Field) -> Field:
    """Return the distance to the union of shapes."""
    return np.minimum.reduce(distances)


def points_on_sphere(n: int) -> np.ndarray:
    """Return `n` points spread evenly over the unit sphere, `[3, n]`."""
    k = np.arange(n) + 0.5
    z, angle = 1 - 2 * k / n, k * np.pi * (3 - 5**0.5)
    return np.stack(
        [np.sqrt(1 - z**2) * np.cos(angle), np.sqrt(1 - z**2) * np.sin(angle), z]
    ).astype(np.float32)


_G = (1 + 5**0.5) / 2
_CORNERS = np.array([(0, a, b * _G) for a in (-1, 1) for b in (-1, 1)])
ICOSAHEDRON = (
    np.concatenate([np.roll(_CORNERS, k, 1) for k in range(3)]) / np.hypot(1, _G)
).T.astype(np.float32)  # 12 corners: [3, 12]
DIMPLES = points_on_sphere(110)


def angle_to_nearest(sphere: tuple[Field, Field, Field], points: np.ndarray) -> Field:
    """Return the angle between a sphere's pixels and the nearest of `points` [3, n]."""
    return np.arccos(np.clip((np.stack(sphere, -1) @ points).max(-1), -1, 1))
