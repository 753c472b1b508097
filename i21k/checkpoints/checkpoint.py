"""One restored checkpoint."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import serialization, traverse_util

from i21k.errors import UserError
from i21k.labels import ClassList

Flat = dict[str, np.ndarray]  # arrays by path, such as params/conv_conv1/kernel


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A restored checkpoint: the arrays as a nested dict of NumPy arrays, and the metadata."""

    step: int
    tree: dict[str, Any]
    meta: dict[str, Any]

    @property
    def classes(self) -> ClassList:
        """The class list of the network's outputs."""
        return ClassList(tuple(self.meta["classes"]))

    def into(self, state: Any) -> Any:
        """Return `state` with its arrays replaced by the checkpoint's.

        Raises:
            UserError: naming the first array that is missing or has another shape or type.
        """
        got = flatten(self.tree)

        def fill(wanted: Any, path: str) -> Any:
            if isinstance(wanted, Mapping):
                return {
                    key: fill(value, f"{path}/{key}" if path else key)
                    for key, value in wanted.items()
                }
            array = got.get(path)
            if array is None or array.shape != wanted.shape or array.dtype != wanted.dtype:
                there = "none" if array is None else f"{array.dtype}{list(array.shape)}"
                raise UserError(
                    f"the checkpoint of step {self.step} has {there} at {path}; expected"
                    f" {wanted.dtype}{list(wanted.shape)}. Use the recipe that it was trained by."
                )
            return array

        return serialization.from_state_dict(state, fill(serialization.to_state_dict(state), ""))


def flatten(tree: Mapping[str, Any]) -> Flat:
    """Return the arrays of a nested dict by path, as NumPy arrays."""
    flat = traverse_util.flatten_dict(tree, sep="/")
    return {path: np.asarray(array) for path, array in flat.items()}
