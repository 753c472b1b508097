"""Sketches of flowers and things."""

import math

import numpy as np

from i21k.data.synthetic.frame import (
    Frame,
    Sketch,
    union,
)


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
