"""Colour profiles (ICC) as cameras and screens have them."""

import struct

import numpy as np

_P3 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))


def _fixed(*values: float) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def gamma(value: float) -> bytes:
    """Return a curve with an exponent."""
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(value * 256))


def table(size: int = 33) -> bytes:
    """Return a curve of so many numbers."""
    values = np.rint(65535 * np.linspace(0, 1, size) ** 1.7).astype(">u2")
    return b"curv\0\0\0\0" + struct.pack(">I", size) + values.tobytes()


def parametric() -> bytes:
    """Return the curve of Display P3, a power with a straight part."""
    values = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    return b"para\0\0\0\0" + struct.pack(">HH", 3, 0) + _fixed(*values)


def profile(curve: bytes, space: bytes = b"RGB ") -> bytes:
    """Return a profile with this curve and, for RGB, the colours of Display P3."""
    white = b"XYZ \0\0\0\0" + _fixed(0.9642, 1, 0.8249)
    tags = {b"wtpt": white, b"kTRC": curve}
    if space == b"RGB ":
        tags = {b"wtpt": white}
        for letter, column in zip((b"r", b"g", b"b"), _P3, strict=True):
            tags[letter + b"XYZ"] = b"XYZ \0\0\0\0" + _fixed(*column)
            tags[letter + b"TRC"] = curve
    at, entries, body = 132 + 12 * len(tags), b"", b""
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        entries += name + struct.pack(">II", at + len(body), len(content))
        body += content
    head = struct.pack(
        ">I4sI4s4s4s", at + len(body), b"\0" * 4, 0x02400000, b"mntr", space, b"XYZ "
    )
    head += bytes(12) + b"acsp" + bytes(28) + _fixed(0.9642, 1, 0.8249)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + entries + body
