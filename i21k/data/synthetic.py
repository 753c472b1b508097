"""Pictures made from a seed: 25 synsets of WordNet, drawn as fruit, balls, beasts, insects, flowers
and things.

A room of its own because the quick start and the tests need pictures that may be shared, need no
download and still look like something. The real classes are only imitated: each has a shape,
colours and marks, and shares them one by one with others (a tennis ball has the seam of a baseball
and the colour of a lemon), most with its neighbours in WordNet. The background, clutter, pose, tint
and noise use the colours of all classes, so that a histogram or a thumbnail tells little.

A shape is a signed distance to its outline, a mark a mask between 0 and 1, both computed for all
pixels at once in the object's own coordinates: x to the right, y down, the object inside the unit
circle. All constants are chosen here.
"""

import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import simplejpeg

from i21k.data.format.manifest import MANIFEST
from i21k.data.pack.pack import PackOptions, pack

Field = np.ndarray  # float32 [S, S]: one number per pixel
Sketch = tuple[
    Field, list[Field]
]  # distance to the outline (negative inside), and the mask of each colour after the first

COLOURS = {
    "white": (240, 238, 230), "black": (28, 26, 30), "grey": (120, 122, 128), "brown": (110, 68, 36), "tawny": (204, 156, 88),
    "red": (208, 32, 40), "orange": (240, 130, 24), "yellow": (244, 212, 40), "lime": (200, 226, 60), "green": (120, 180, 56),
    "dark green": (30, 90, 44), "blue": (44, 92, 196), "violet": (140, 70, 170), "pale blue": (196, 220, 240),
}  # fmt: skip


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


# Fruit
# -----------------------------------------------------------------------------------------------------------------


def lemon(f: Frame) -> Sketch:
    outline = union(
        f.ellipse(0, 0, 0.85, 0.62), f.ellipse(-0.82, 0, 0.18, 0.17), f.ellipse(0.82, 0, 0.18, 0.15)
    )
    return outline, [f.mask(f.x + 0.86), 0.3 * f.mask(f.scattered(0.2) - 0.05)]


def orange(f: Frame) -> Sketch:
    ball = f.sphere()
    polar = np.arctan2(ball[1], ball[0])
    stem = np.maximum(np.hypot(ball[0], ball[1]) - 0.22 - 0.1 * np.cos(5 * polar), -ball[2])
    return f.ellipse(0, 0, 0.95, 0.95), [
        0.5 * f.mask(angle_to_nearest(ball, DIMPLES) - 0.05),
        f.mask(stem),
    ]


def apple(f: Frame) -> Sketch:
    up = np.arctan2(f.x, -f.y)  # angle from the stalk
    body = np.hypot(f.x, f.y) - 0.86 + 0.3 * np.exp(-((up / 0.45) ** 2)) + 0.08 * np.cos(2 * up)
    stalk, leaf = f.limb(0, -0.5, 0.12, -0.92, 0.06), f.ellipse(0.36, -0.8, 0.28, 0.11, -0.4)
    return union(body, stalk, leaf), [
        f.mask(leaf),
        f.mask(stalk),
        0.6 * f.mask(f.ellipse(-0.35, -0.2, 0.16, 0.24)),
    ]


def strawberry(f: Frame) -> Sketch:
    t = np.clip((f.y + 0.75) / 1.7, 0, 1)
    body = np.maximum(
        0.7 * (np.abs(f.x) - 0.98 * np.sqrt(t**0.6 * (1 - t)) - 0.03), np.abs(f.y - 0.1) - 0.85
    )
    leaves = np.hypot(f.x, f.y + 0.62) - 0.32 - 0.2 * np.cos(5 * np.arctan2(f.x, f.y + 0.62))
    return union(body, leaves), [f.mask(f.scattered(0.26) - 0.06), f.mask(leaves)]


def banana(f: Frame) -> Sketch:
    bend = np.arctan2(f.x, f.y + 0.75)  # 0 in the middle, +-1 at the ends
    thickness = 0.27 * np.sqrt(np.maximum(0.04, 1 - (bend / 1.15) ** 2))
    outline = np.maximum(np.abs(np.hypot(f.x, f.y + 0.75) - 1.05) - thickness, np.abs(bend) - 1.12)
    return outline, [
        f.mask(0.95 - np.abs(bend)),
        0.5 * f.lines(np.hypot(f.x, f.y + 0.75) - 1.08, 0.02),
    ]


def watermelon(f: Frame) -> Sketch:
    around = np.arctan2(f.y / 0.8, np.sqrt(np.maximum(0.01, 1 - f.x**2 - (f.y / 0.8) ** 2)))
    return f.ellipse(0, 0, 0.98, 0.8), [f.mask(0.12 * np.sin(7 * around + 0.9 * f.wobble(9)))]


# Balls
# -----------------------------------------------------------------------------------------------------------------


def soccer_ball(f: Frame) -> Sketch:
    ball = f.sphere()
    near = np.sort(np.stack(ball, -1) @ ICOSAHEDRON, -1)[
        ..., -3:
    ]  # cosines to the three nearest corners
    seams = f.lines(near[..., 1] - near[..., 0], 0.035) * (near[..., 2] < 0.95)
    return f.ellipse(0, 0, 0.97, 0.97), [
        np.maximum(f.mask(np.arccos(np.minimum(near[..., 2], 1)) - 0.36), 0.7 * seams)
    ]


def basketball(f: Frame) -> Sketch:
    x, y, z = f.sphere()
    seams = (f.lines(x, 0.04), f.lines(y, 0.04), f.lines(np.abs(x) - 0.5 - 0.25 * z**2, 0.045))
    return f.ellipse(0, 0, 0.97, 0.97), [np.maximum.reduce(seams)]


def _saddle(ball: tuple[Field, Field, Field]) -> Field:
    """Return what vanishes on the seam that tennis balls and baseballs share."""
    x, y, z = ball
    return z - 1.1 * (x**2 - y**2)


def tennis_ball(f: Frame) -> Sketch:
    return f.ellipse(0, 0, 0.95, 0.95), [f.lines(_saddle(f.sphere()), 0.13)]


def baseball(f: Frame) -> Sketch:
    ball = f.sphere()
    seam, stitch = _saddle(ball), np.sin(26 * np.arctan2(ball[1], ball[0])) > -0.2
    return f.ellipse(0, 0, 0.95, 0.95), [
        np.maximum(f.lines(seam, 0.03), f.lines(seam, 0.2) * stitch)
    ]


def golf_ball(f: Frame) -> Sketch:
    return f.ellipse(0, 0, 0.93, 0.93), [0.6 * f.mask(angle_to_nearest(f.sphere(), DIMPLES) - 0.11)]


# Beasts, seen from the side with the head to the right
# ----------------------------------------------------------------


def _beast(f: Frame, neck: float, leg: float, bulk: float) -> tuple[Field, Field]:
    """Return the distances to a beast's body and to its head, which is `neck` above the back."""
    step = f.rng.uniform(-0.12, 0.12, 4).tolist()
    legs = [
        f.limb(x, 0, x + dx, leg, 0.085)
        for x, dx in zip((-0.55, -0.4, 0.25, 0.4), step, strict=True)
    ]
    head = union(f.ellipse(0.68, -0.2 - neck, 0.2, 0.18), f.ellipse(0.84, -0.13 - neck, 0.14, 0.1))
    back = f.limb(-0.45, -0.05, 0.35, -0.05, bulk)
    tail = union(
        f.limb(-0.68, -0.12, -0.88, -0.3, 0.055),
        f.limb(-0.88, -0.3, -0.92, f.rng.uniform(-0.7, -0.1), 0.055),
    )
    return union(back, f.limb(0.36, -0.1, 0.6, -0.18 - neck, 0.17), tail, *legs), head


def _cat(f: Frame) -> tuple[Field, Field, Field]:
    body, head = _beast(f, 0.1, 0.55, 0.27)
    ears = union(f.ellipse(0.56, -0.47, 0.08, 0.1), f.ellipse(0.76, -0.48, 0.08, 0.1))
    return union(body, head, ears), head, f.mask(f.ellipse(0.74, -0.34, 0.045, 0.045))


def tiger(f: Frame) -> Sketch:
    outline, _, eye = _cat(f)
    stripes = f.mask(0.06 * (np.sin(17 * f.x + 2 * f.wobble(5)) - 0.1)) * (f.x < 0.85)
    return outline, [f.mask(np.abs(f.y - 0.22) - 0.08), np.maximum(stripes, eye)]


def leopard(f: Frame) -> Sketch:
    outline, _, eye = _cat(f)
    return outline, [
        f.mask(np.abs(f.y - 0.22) - 0.08),
        np.maximum(f.lines(f.scattered(0.22) - 0.05, 0.027), eye),
    ]


def lion(f: Frame) -> Sketch:
    outline, head, eye = _cat(f)
    mane = f.ellipse(0.6, -0.28, 0.42, 0.46) + 0.04 * np.sin(
        16 * np.arctan2(f.y + 0.26, f.x - 0.58)
    )
    tuft = f.ellipse(-0.91, -0.3, 0.11, 0.15)
    return union(outline, mane, tuft), [
        np.maximum(f.mask(mane) * (1 - f.mask(head)), f.mask(tuft)),
        eye,
    ]


def zebra(f: Frame) -> Sketch:
    body, head = _beast(f, 0.4, 0.72, 0.25)
    mane = f.limb(0.3, -0.38, 0.56, -0.8, 0.08)
    stripes = f.mask(0.06 * np.sin(20 * f.x + 7 * f.y * (f.y > 0.1) + 1.2 * f.wobble(4)))
    return union(body, head, mane), [np.maximum.reduce((stripes, f.mask(mane), f.mask(0.9 - f.x)))]


def dalmatian(f: Frame) -> Sketch:
    body, head = _beast(f, 0.25, 0.66, 0.21)
    ear = f.ellipse(0.56, -0.4, 0.09, 0.2, 0.3)
    spots = f.mask(f.scattered(0.25) - 0.075)
    return union(body, head, ear), [np.maximum.reduce((spots, f.mask(ear), f.mask(0.93 - f.x)))]


# Insects, seen from above, the head at the top
# ------------------------------------------------------------------------


def ladybug(f: Frame) -> Sketch:
    x, head = np.abs(f.x), f.ellipse(0, -0.72, 0.4, 0.26)
    legs = union(
        *(
            f._replace(x=x).limb(0.5, y, 0.9, y + dy, 0.04)
            for y, dy in ((-0.35, -0.2), (0.1, 0.05), (0.4, 0.2))
        )
    )
    body = f.ellipse(0, 0.1, 0.75, 0.82)
    spots = [
        np.hypot(x - a, f.y - b) - 0.15
        for a, b in f.rng.normal(((0.38, -0.22), (0.42, 0.25), (0.22, 0.6)), 0.03).tolist()
    ]
    dark = union(np.where(body < 0, 9, union(legs, head)), x - 0.03, head, *spots)
    return union(body, head, legs), [f.mask(dark), f.mask(np.hypot(x - 0.26, f.y + 0.66) - 0.09)]


def bee(f: Frame) -> Sketch:
    body, head = f.ellipse(0, 0.15, 0.36, 0.8), f.ellipse(0, -0.7, 0.24, 0.2)
    mirrored = f._replace(x=np.abs(f.x))
    wings = union(
        mirrored.ellipse(0.55, -0.18, 0.5, 0.24, -0.35),
        mirrored.ellipse(0.45, 0.2, 0.36, 0.18, 0.3),
    )
    trunk = f.mask(union(body, head))
    stripes = np.maximum(f.mask(0.08 * np.sin(13 * f.y)), f.mask(head))
    return union(body, head, wings), [f.mask(wings) * (1 - trunk), stripes * trunk]


def _butterfly(f: Frame) -> tuple[Frame, Field, Field, Field]:
    """Return the mirrored frame and the distances to the fore wings, the hind wings and the
    trunk."""
    m = f._replace(x=np.abs(f.x) / f.rng.uniform(0.8, 1))
    return (
        m,
        m.ellipse(0.52, -0.32, 0.55, 0.34, -0.6),
        m.ellipse(0.4, 0.42, 0.46, 0.34, 0.9),
        m.limb(0, -0.5, 0, 0.5, 0.09),
    )


def monarch(f: Frame) -> Sketch:
    m, fore, hind, trunk = _butterfly(f)
    wings = union(fore, hind)
    veins = f.lines(np.sin(7 * np.arctan2(m.y - 0.02, m.x)) * np.hypot(m.x, m.y) / 7, 0.025)
    dark = np.maximum.reduce((veins, f.mask(-0.11 - wings), f.mask(trunk)))
    return union(wings, trunk), [
        dark,
        f.lines(wings + 0.055, 0.025) * (np.sin(30 * np.arctan2(m.y, m.x)) > 0),
    ]


def cabbage_butterfly(f: Frame) -> Sketch:
    m, fore, hind, trunk = _butterfly(f)
    tips = 1.35 - m.x + m.y
    return union(fore, hind, trunk), [
        f.mask(
            union(trunk, tips, m.ellipse(0.55, -0.22, 0.1, 0.1), m.ellipse(0.48, 0.4, 0.09, 0.09))
        )
    ]


# Flowers and things
# ----------------------------------------------------------------------------------------------------


def daisy(f: Frame) -> Sketch:
    r, petal = (
        np.hypot(f.x, f.y),
        np.abs(np.cos(int(f.rng.integers(11, 15)) / 2 * np.arctan2(f.y, f.x))),
    )
    return 0.7 * (r - 0.35 - 0.62 * petal**0.4), [
        0.4 * f.mask(0.1 * (petal - 0.35)),
        f.mask(r - 0.3),
    ]


def sunflower(f: Frame) -> Sketch:
    r, petal = (
        np.hypot(f.x, f.y),
        np.abs(np.cos(int(f.rng.integers(16, 21)) / 2 * np.arctan2(f.y, f.x))),
    )
    seeds = f.mask(f.scattered(0.16) - 0.045) * f.mask(r - 0.48)
    return 0.7 * (r - 0.6 - 0.38 * petal), [
        0.5 * f.mask(0.1 * (petal - 0.3)),
        f.mask(r - 0.52),
        seeds,
    ]


def traffic_light(f: Frame) -> Sketch:
    box = np.maximum(np.abs(f.x) - 0.4, np.abs(f.y) - 0.95)
    lit = f.rng.integers(3)
    return box, [
        (1.0 if k == lit else 0.3) * f.mask(np.hypot(f.x, f.y - 0.6 * (k - 1)) - 0.25)
        for k in range(3)
    ]


def analog_clock(f: Frame) -> Sketch:
    r, angle = np.hypot(f.x, f.y), np.arctan2(f.y, f.x)
    ticks = f.mask(np.abs(r - 0.7) - 0.09) * f.lines(np.sin(6 * angle) * r / 6, 0.035)
    hour, minute = f.rng.uniform(0, 2 * math.pi, 2).tolist()
    hour_hand = f.limb(0, 0, 0.38 * math.cos(hour), 0.38 * math.sin(hour), 0.06)
    minute_hand = f.limb(0, 0, 0.62 * math.cos(minute), 0.62 * math.sin(minute), 0.045)
    return r - 0.98, [f.mask(0.84 - r), np.maximum(ticks, f.mask(union(hour_hand, minute_hand)))]


def umbrella(f: Frame) -> Sketch:
    gore = f.x / np.sqrt(
        np.maximum(0.02, 1 - np.clip(f.y, -1, 0.05) ** 2)
    )  # -1 to 1 from the left edge to the right
    dome = np.maximum(
        np.hypot(f.x, f.y) - 0.97, f.y - 0.06 + 0.1 * np.abs(np.sin(2.5 * np.pi * gore))
    )
    hook = np.maximum(np.abs(np.hypot(f.x - 0.14, f.y - 0.76) - 0.14) - 0.045, 0.76 - f.y)
    stick = union(f.limb(0, -0.98, 0, 0.76, 0.045), hook)
    return union(dome, stick), [
        f.mask(0.1 * np.cos(2.5 * np.pi * gore)),
        f.mask(stick) * (1 - f.mask(dome)),
    ]


class Look(NamedTuple):
    """How a class is drawn: its sketch, the colours of body and marks (`/`: one of these), and how
    far it may turn."""

    wnid: str
    sketch: Callable[[Frame], Sketch]
    colours: tuple[str, ...]
    turn: float = np.pi  # radians to either side


TABLE = (
    Look("n07749582", lemon, ("yellow", "green", "white")),
    Look("n07747607", orange, ("orange", "brown", "dark green")),
    Look("n07742313", apple, ("green", "dark green", "brown", "white")),  # Granny Smith
    Look("n07745940", strawberry, ("red", "yellow", "dark green/green")),
    Look("n07753592", banana, ("yellow", "brown", "brown")),
    Look("n07756951", watermelon, ("green/lime", "dark green")),
    Look("n04254680", soccer_ball, ("white", "black")),
    Look("n02802426", basketball, ("orange", "black")),
    Look("n04409515", tennis_ball, ("lime", "white")),
    Look("n02799071", baseball, ("white", "red")),
    Look("n03445777", golf_ball, ("white/yellow", "grey")),
    Look("n02129604", tiger, ("orange", "white", "black"), 0.4),
    Look("n02128385", leopard, ("tawny/yellow", "white", "black"), 0.4),
    Look("n02129165", lion, ("tawny/yellow", "brown", "black"), 0.4),
    Look("n02391049", zebra, ("white", "black"), 0.4),
    Look("n02110341", dalmatian, ("white", "black/brown"), 0.4),
    Look("n02165456", ladybug, ("red/orange", "black", "white")),
    Look("n02206856", bee, ("yellow/orange", "pale blue/white", "black")),
    Look("n02279972", monarch, ("orange", "black", "white")),
    Look("n02280649", cabbage_butterfly, ("white/yellow", "black/grey")),
    Look("n11939491", daisy, ("white", "grey", "yellow")),
    Look("n11978233", sunflower, ("yellow", "orange", "brown", "black")),
    Look("n06874185", traffic_light, ("black/dark green/grey", "red", "orange", "green"), 0.4),
    Look("n02708093", analog_clock, ("white/pale blue", "red/brown/blue/green", "black")),
    Look("n04507155", umbrella, ("red/blue/violet", "white/pale blue/black", "brown"), 0.6),
)
LOOKS = tuple(sorted(TABLE))
SYNSETS: tuple[str, ...] = tuple(
    look.wnid for look in LOOKS
)  # ascending, as in the class list of the packed data


def _colour(rng: np.random.Generator, names: str = "/".join(COLOURS)) -> np.ndarray:
    """Return one of the colours named, a little changed."""
    return (COLOURS[str(rng.choice(names.split("/")))] + rng.normal(0, 12, 3)).astype(np.float32)


def _blend(picture: np.ndarray, mask: Field, colour: np.ndarray) -> None:
    """Lay `colour` over `picture` [S, S, 3] in place where `mask` is 1."""
    picture += mask[..., None] * (colour - picture)


def _frame(
    rng: np.random.Generator, size_px: int, radius: float, turn: float, reach: float
) -> Frame:
    """Place an object of `radius` (1: half the picture) at most `reach` from the middle, turned and
    a little squeezed."""
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
    picture: np.ndarray, rng: np.random.Generator, smallest: float, largest: float, reach: float
) -> None:
    """Lay a random blob, box or ring with a texture of its own over `picture` in place."""
    f = _frame(rng, picture.shape[0], rng.uniform(smallest, largest), math.pi, reach)
    kind, width = rng.integers(3), rng.uniform(0.3, 1)
    outline = (
        f.ellipse(0, 0, 1, width),
        np.maximum(np.abs(f.x) - 1, np.abs(f.y) - width),
        np.abs(f.ellipse(0, 0, 1, width)) - 0.15,
    )[kind]
    mask = f.mask(outline)
    _blend(picture, mask, _colour(rng))
    _blend(picture, mask * _texture(f), _colour(rng))


def draw(class_index: int, picture_seed: int, size_px: int) -> np.ndarray:
    """Draw a picture of class `SYNSETS[class_index]`.

    The same seed shows the same picture, but for its noise, at every size.

    Returns:
        uint8 `[size_px, size_px, 3]`, RGB; a pure function of the arguments.
    """
    rng = np.random.default_rng((class_index, picture_seed))
    look = LOOKS[class_index]

    picture = np.empty((size_px, size_px, 3), np.float32)
    picture[:] = _colour(rng)
    _blend(picture, _texture(_frame(rng, size_px, 1, math.pi, 0.5)), _colour(rng))
    for _ in range(rng.integers(2, 6)):
        _clutter(picture, rng, 0.2, 0.5, 1)

    radius = rng.uniform(0.55, 0.85)
    f = _frame(rng, size_px, radius, look.turn, 1 - radius)
    outline, marks = look.sketch(f)
    body = f.mask(outline)
    thing = np.empty_like(picture)
    thing[:] = _colour(rng, look.colours[0])
    for mark, names in zip(marks, look.colours[1:], strict=True):
        _blend(thing, mark, _colour(rng, names))
    light = rng.uniform(-0.3, 0.3, 2).tolist()
    thing *= (0.75 + light[0] * f.x + light[1] * f.y + 0.35 * np.sqrt(np.clip(-outline, 0, 1)))[
        ..., None
    ]
    _blend(picture, body, thing)
    for _ in range(rng.integers(0, 3)):
        _clutter(picture, rng, 0.1, 0.2, 0.9)

    picture *= rng.uniform(0.75, 1.2) * rng.uniform(0.85, 1.15, 3)  # exposure and tint
    picture += rng.uniform(-25, 25) + rng.normal(0, rng.uniform(3, 12), picture.shape)
    return np.clip(picture, 0, 255).astype(np.uint8)


def write_source(folder: Path, per_class: int, *, size_px: int = 72, seed: int = 0) -> None:
    """Write `per_class` JPEGs of each class as `folder/<wnid>/<wnid>_<i>.JPEG`, a source that the
    packer takes."""
    for class_index, wnid in enumerate(SYNSETS):
        (folder / wnid).mkdir(parents=True, exist_ok=True)
        for i in range(per_class):
            picture = draw(class_index, (seed << 32) + i, size_px)
            (folder / wnid / f"{wnid}_{i}.JPEG").write_bytes(
                simplejpeg.encode_jpeg(picture, quality=92, colorsubsampling="420")
            )


def pack_if_missing(directory: Path, per_class: int, seed: int) -> None:
    """Draw and pack `per_class` training pictures of each class, and a fifth as many to validate,
    unless `directory` has a dataset."""
    if (
        directory / MANIFEST
    ).exists():  # it comes last; what a run that was killed left, the packer clears away
        return
    val_per_class = max(1, per_class // 5)
    print(
        f"drawing {per_class} + {val_per_class} pictures of each of {len(SYNSETS)} classes into {directory}",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as source:
        write_source(Path(source), per_class + val_per_class, seed=seed)
        pack(
            source,
            directory,
            PackOptions(name="synthetic", short_side=0, val_per_class=val_per_class),
            num_workers=1,
        )
