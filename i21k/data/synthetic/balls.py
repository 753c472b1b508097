"""Sketches of balls."""

import numpy as np

from i21k.data.synthetic.frame import DIMPLES, ICOSAHEDRON, Field, Frame, Sketch, angle_to_nearest


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
