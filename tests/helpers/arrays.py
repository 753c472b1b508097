"""Compare arrays."""

import numpy as np
from numpy.typing import ArrayLike


def relative(got: ArrayLike, want: ArrayLike) -> float:
    """Return the norm of the difference, relative to the norm of what is wanted."""
    got, want = (np.asarray(array, np.float64) for array in (got, want))
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))
