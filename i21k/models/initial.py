"""Initial values of variables, drawn by NumPy so that they are the same on every machine."""

import math
import zlib
from collections.abc import Mapping
from typing import Any

import flax
import numpy as np

_ONES = ("gamma", "moving_var")


def draw(shapes: Mapping[str, Any], init: str, seed: int) -> dict[str, Any]:
    """Draw a value for each array of a tree of shapes. Each kernel has a random key of its own.

    XLA would compile the random numbers of 70 kernels for longer than the train step
    (`notebooks/LOG.md`), to run them once.

    Args:
        shapes: a tree whose leaves have a `shape`. Its top level is "params" and "batch_stats".
        init: "uniform" (-0.01 to 0.01, as in 2015) or "he_normal" (He et al. 2015,
            arXiv 1502.01852).
        seed: of the run.
    """

    def one(path: tuple[str, ...], leaf: Any) -> np.ndarray:
        *layer, name = path[1:]
        if name != "kernel":
            return np.full(leaf.shape, 1 if name in _ONES else 0, np.float32)
        key = np.array([seed, zlib.crc32("/".join(layer).encode())], np.uint64)
        rng = np.random.Generator(np.random.Philox(key=key))
        if init == "uniform":
            return rng.uniform(-0.01, 0.01, leaf.shape).astype(np.float32)
        assert init == "he_normal", init
        fan_in = math.prod(leaf.shape[:-1])
        return rng.standard_normal(leaf.shape, np.float32) * np.float32(np.sqrt(2 / fan_in))

    flat = flax.traverse_util.flatten_dict(shapes)
    drawn: dict[str, Any] = flax.traverse_util.unflatten_dict(
        {path: one(path, leaf) for path, leaf in flat.items()}
    )
    return drawn
