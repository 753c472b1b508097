"""Sketches of insects, seen from above with the head at the top."""

import numpy as np

from i21k.data.synthetic.frame import Field, Frame, Sketch, union


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
