"""The probabilities of the last images, so that another view needs no second upload."""

import collections
import secrets
from typing import NamedTuple

import numpy as np


class Result(NamedTuple):
    """What the model found for one image."""

    model: str
    probabilities: np.ndarray  # float32 [K]
    image: np.ndarray | None  # uint8 [S, S, 3], where the model can search for it


class Results:
    """The newest results by a random name, which nobody can guess. The oldest is dropped first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: collections.OrderedDict[str, Result] = collections.OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, result: Result) -> str:
        """Keep a result, and return its name."""
        name = secrets.token_urlsafe(16)
        self._kept[name] = result
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)
        return name

    def get(self, name: str) -> Result | None:
        """Return a result; None if it is not kept (any more)."""
        if name in self._kept:
            self._kept.move_to_end(name)
        return self._kept.get(name)
