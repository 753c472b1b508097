"""Accuracies, loss and calibration of one way to rank classes, summed batch by batch.

Sums are of integers (fractions in units of 2**-30), so that neither the order of images nor their
batches change a bit of them.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from i21k.evaluation.ranks import RANKS, Labels, ranks

NUM_BINS = 15  # of confidence, equally wide: Guo et al. 2017, arXiv 1706.04599
_UNIT = 1 << 30  # of the sums: 14 million losses of up to 400 nats fit into 64 bits


class Column:
    """Sums over images of one column of the table: hits, loss and calibration."""

    def __init__(self, calibrated: bool = True) -> None:
        self.calibrated = calibrated
        self.count = 0
        self.hits = np.zeros(len(RANKS), np.int64)
        self.num_answerable = 0  # images that some column is right for
        self.num_impossible = 0  # of these, images whose class has probability 0
        self.loss = 0
        self.bins = np.zeros((3, NUM_BINS), np.int64)  # images, right ones, confidence

    def add(
        self, values: Float[np.ndarray, "B M"], accepted: Sequence[Labels]
    ) -> Int[np.ndarray, " B"]:
        """Count a batch of log-probabilities and return the rank of what is right in each."""
        found = ranks(values, accepted)
        self.count += len(values)
        self.hits += (found[:, None] < RANKS).sum(axis=0)
        if not self.calibrated:
            return found
        likelihoods = np.array(
            [
                of_row[right].max()
                for of_row, right in zip(values, accepted, strict=True)
                if len(right)
            ],
            np.float64,
        )
        possible = likelihoods > -np.inf
        self.num_answerable += len(likelihoods)
        self.num_impossible += int((~possible).sum())
        self.loss += int(_integers(-likelihoods[possible]).sum())
        confidence = np.exp(values.max(axis=1).astype(np.float64)).clip(0, 1)
        places = np.minimum((confidence * NUM_BINS).astype(int), NUM_BINS - 1)
        for sums, term in zip(self.bins, (1, found == 0, _integers(confidence)), strict=True):
            np.add.at(sums, places, term)
        return found

    def reliability(self) -> list[dict[str, float]]:
        """Return each bin that has images: their number, mean confidence, and accuracy."""
        return [
            {
                "images": int(n),
                "confidence": int(confidence) / _UNIT / int(n),
                "accuracy": int(right) / int(n),
            }
            for n, right, confidence in self.bins.T
            if n
        ]

    def summary(self) -> dict[str, float | None]:
        """Return accuracies, and for calibrated columns loss and calibration error.

        The loss is in nats, over the `answerable` images; None if it is infinite or there are none.
        """
        means: dict[str, float | None] = {
            f"top{k}": int(n) / max(self.count, 1) for k, n in zip(RANKS, self.hits, strict=True)
        }
        if self.calibrated:
            known = self.num_answerable and not self.num_impossible
            means["answerable"] = self.num_answerable
            means["loss"] = self.loss / _UNIT / self.num_answerable if known else None
            gaps = sum(
                b["images"] * abs(b["confidence"] - b["accuracy"]) for b in self.reliability()
            )
            means["ece"] = gaps / max(self.count, 1)
        return means


def _integers(fractions: Float[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    return np.rint(fractions * _UNIT).astype(np.int64)
