"""Sketches of fruit."""

import numpy as np

from i21k.data.synthetic.frame import DIMPLES, Frame, Sketch, angle_to_nearest, union


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
