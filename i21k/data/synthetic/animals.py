"""Sketches of mammals, seen from the side with the head to the right."""

import numpy as np

from i21k.data.synthetic.frame import Field, Frame, Sketch, union


def _animal(f: Frame, neck: float, leg: float, bulk: float) -> tuple[Field, Field]:
    """Return the distances to an animal's body and to its head, `neck` above the back."""
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
    body, head = _animal(f, 0.1, 0.55, 0.27)
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
    body, head = _animal(f, 0.4, 0.72, 0.25)
    mane = f.limb(0.3, -0.38, 0.56, -0.8, 0.08)
    stripes = f.mask(0.06 * np.sin(20 * f.x + 7 * f.y * (f.y > 0.1) + 1.2 * f.wobble(4)))
    return union(body, head, mane), [np.maximum.reduce((stripes, f.mask(mane), f.mask(0.9 - f.x)))]


def dalmatian(f: Frame) -> Sketch:
    body, head = _animal(f, 0.25, 0.66, 0.21)
    ear = f.ellipse(0.56, -0.4, 0.09, 0.2, 0.3)
    spots = f.mask(f.scattered(0.25) - 0.075)
    return union(body, head, ear), [np.maximum.reduce((spots, f.mask(ear), f.mask(0.93 - f.x)))]
