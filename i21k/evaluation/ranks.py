"""The rank of the right class among the answers to an image.

An image is right among the best k if fewer than k classes rank before its class. Of equally
probable classes, the one earlier in the list ranks first. A model that gives all classes the same
probability is therefore right by chance alone.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

RANKS = (1, 5, 20)  # as those who released the model of 2015 reported
NEVER = 1 << 30  # the rank of what is right if it was not answered at all

Labels = Int[np.ndarray, "_"]  # lists of these have different lengths


def ranks(values: Float[np.ndarray, "B M"], accepted: Sequence[Labels]) -> Int[np.ndarray, " B"]:
    """Return the rank, from 0, of the best right column of each row.

    Of equal values the earlier column ranks first. `NEVER` where no column is right, or the best
    right one is minus infinity.
    """
    ranks = np.full(len(values), NEVER)
    for row, (of_row, right) in enumerate(zip(values, accepted, strict=True)):
        if len(right) and (best := of_row[right].max()) > -np.inf:
            first = right[of_row[right] == best].min()
            ranks[row] = np.count_nonzero(of_row > best) + np.count_nonzero(of_row[:first] == best)
    return ranks


def best(values: Float[np.ndarray, " K"], k: int) -> Int[np.ndarray, " k"]:
    """Return the labels of the k largest values, the largest first; equal ones in list order."""
    least = np.partition(values, len(values) - k)[len(values) - k]
    candidates = np.flatnonzero(values >= least)  # in list order, with all that equal the last
    return candidates[np.argsort(-values[candidates], kind="stable")][:k]


def renormalised(values: Float[np.ndarray, "B M"]) -> Float[np.ndarray, "B M"]:
    """Return the log-probabilities given that one of these columns is right.

    A row that is minus infinity everywhere stays so.
    """
    top = values.max(axis=1, keepdims=True)
    shifted = values - np.where(top > -np.inf, top, 0)
    total = np.exp(shifted).sum(axis=1, keepdims=True)
    return shifted - np.log(np.where(total > 0, total, 1))
