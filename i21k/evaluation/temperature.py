"""Temperature scaling: one number that makes probabilities as large as they are right.

Guo et al. 2017, arXiv 1706.04599. It changes no ranking of classes.
"""

import numpy as np
import scipy.optimize
from jaxtyping import Float, Int

from i21k.errors import UserError
from i21k.evaluation.ranks import renormalised

_LARGEST = 20.0  # our choice; 1 / 20 is the smallest
_LEAST_LOG = -87.0  # a probability that float32 rounds to 0
_CHUNK = 256  # rows at a time, for memory


def logs_of(probabilities: Float[np.ndarray, "B K"]) -> Float[np.ndarray, "B K"]:
    """Return log-probabilities in float32; a probability of 0 becomes a very small one."""
    with np.errstate(divide="ignore"):
        return np.log(probabilities).clip(_LEAST_LOG, 0).astype(np.float32)


def tempered(
    log_probabilities: Float[np.ndarray, "B K"], temperature: float
) -> Float[np.ndarray, "B K"]:
    """Return the log-probabilities divided by a temperature, which add up to 1 again."""
    if temperature == 1:
        return log_probabilities
    return renormalised(log_probabilities / np.float32(temperature))


def fit_temperature(
    log_probabilities: Float[np.ndarray, "B K"], labels: Int[np.ndarray, " B"]
) -> float:
    """Return the temperature with the least loss on held-out images, to about 1 part in 1,000.

    Raises:
        UserError: if there are no images.
    """
    if not len(labels):
        raise UserError("there are no held-out images. Give a split with images to calibrate on.")

    def loss(log_temperature: float) -> float:
        total = 0.0
        for start in range(0, len(labels), _CHUNK):
            some = log_probabilities[start : start + _CHUNK]
            values = tempered(some, float(np.exp(log_temperature)))
            right = np.take_along_axis(values, labels[start : start + _CHUNK, None], axis=1)
            total -= right.sum(dtype=np.float64)
        return total / len(labels)

    bounds = (-np.log(_LARGEST), np.log(_LARGEST))
    found = scipy.optimize.minimize_scalar(
        loss, bounds=bounds, method="bounded", options={"xatol": 1e-3}
    )
    return float(np.exp(found.x))
