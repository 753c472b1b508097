"""The sets of classes above a class, as plain sets."""

import numpy as np

from i21k.wordnet.levels import Levels


def members(levels: Levels, label: int) -> list[set[int]]:
    """The sets of a class that have a weight, as labels."""
    bounds = zip(levels.first[label], levels.stop[label], levels.weights[label], strict=True)
    places = levels.place
    return [
        set(np.flatnonzero((places >= a) & (places < b)).tolist()) for a, b, w in bounds if w > 0
    ]
