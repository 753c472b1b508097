"""Batches of a split as a list, and whether two lists are the same."""

import numpy as np

from i21k.data.load import loader


def stream(split, options, start=0, stop=None):
    with loader.batches(split, options, start, stop) as batches:
        return list(batches)


def same(a, b):
    return len(a) == len(b) and all(
        np.array_equal(x, y)
        for one, other in zip(a, b, strict=True)
        for x, y in zip(one, other, strict=True)
    )
