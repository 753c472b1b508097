"""What a network consists of, as a table; apart from the network because it only looks at the tree of its variables."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple


class Parameter(NamedTuple):
    """One line of the table."""

    name: str  # `conv_3a_1x1/kernel`
    shape: tuple[int, ...]
    size: int


def parameter_table(params: Mapping[str, Any]) -> list[Parameter]:
    """List every array of a tree of parameters (or of their shapes, as `jax.eval_shape` gives them) in the order of the network.

    Moving statistics are not parameters: give `variables["params"]`.
    """
    return [
        Parameter(f"{layer}/{kind}", tuple(leaf.shape), math.prod(leaf.shape))
        for layer, leaves in params.items()
        for kind, leaf in leaves.items()
    ]
