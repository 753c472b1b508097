"""Groups of parameters, and by which factors their learning rate and weight decay differ.

A factor belongs to an array by its path. Functions of type `FactorsOf` combine by multiplication.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import path_aware_map

from i21k.models.network import Network, Path
from i21k.train.recipe import OptimizerRecipe

Group = Literal["kernels", "head", "norm"]


class Factors(NamedTuple):
    """By what the learning rate and the weight decay of a parameter are multiplied."""

    learning_rate: float = 1.0  # 0: the parameter keeps its value
    weight_decay: float = 1.0  # 0: it does not decay

    def times(self, other: "Factors") -> "Factors":
        return Factors(
            self.learning_rate * other.learning_rate, self.weight_decay * other.weight_decay
        )


FactorsOf = Callable[[Path], Factors]  # of the parameter at a path


def group_of(network: Network, path: Path) -> Group:
    """Return the group of a parameter.

    "head" is the classifier head with its bias. "norm" are biases, and scales and shifts of a
    normalisation. "kernels" are all others.
    """
    if path[: len(network.head)] == network.head:
        return "head"
    return "kernels" if network.is_kernel(path) else "norm"


def recipe_factors(cfg: OptimizerRecipe, network: Network) -> FactorsOf:
    """Return the factors of a recipe. The weight decay has those of `cfg.decay` too."""
    of_group: dict[Group, Factors] = {
        "kernels": Factors(),
        "head": Factors(cfg.learning_rate_head, cfg.weight_decay_head),
        "norm": Factors(cfg.learning_rate_norm, cfg.weight_decay_norm),
    }

    def decays(path: Path) -> bool:
        return network.is_kernel(path) if cfg.decay == "kernels" else network.is_trained(path)

    def factors(path: Path) -> Factors:
        return of_group[group_of(network, path)].times(Factors(1.0, float(decays(path))))

    return factors


def layer_factors(layer_decay: float, network: Network) -> FactorsOf | None:
    """Return the factors of layer-wise decay: a power of it for each part below the head.

    Clark et al. 2020, ELECTRA, arXiv 2003.10555. None if it changes nothing.
    """
    if layer_decay == 1:
        return None
    distances = {part: n for n, part in enumerate(("head", *reversed(network.parts)))}
    return lambda path: Factors(layer_decay ** distances[network.part_of(path)])


def product(one: FactorsOf, other: FactorsOf | None) -> FactorsOf:
    """Return the factors by which both multiply."""
    if other is None:
        return one
    return lambda path: one(path).times(other(path))


def add_decay(weight_decay: float, factors: FactorsOf) -> optax.GradientTransformation:
    """Add each parameter, times the decay and its factor, to its update."""

    def init(params: Any) -> optax.MaskedState:
        # What `optax.add_decayed_weights` has, so that checkpoints of older versions fit.
        return optax.MaskedState(optax.EmptyState())

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        def decayed(path: Path, parameter: Any, update: Any) -> Any:
            rate = weight_decay * factors(path).weight_decay
            return update + rate * parameter if factors(path).weight_decay else update

        return _map_paths(decayed, params, updates), state

    return optax.GradientTransformation(init, update)


def scale_updates(factors: FactorsOf) -> Callable[[Any], Any]:
    """Return a function that multiplies updates by the factors of the learning rate."""

    def scaled(path: Any, update: Any) -> Any:
        factor = factors(path).learning_rate
        if factor == 1:
            return update
        return factor * update if factor else jnp.zeros_like(update)  # also where it is NaN

    return lambda updates: path_aware_map(scaled, updates)


def _map_paths(function: Callable[..., Any], first: Any, second: Any) -> Any:
    """Apply a function of (path, leaf, leaf) to two trees; what a partition has masked stays."""

    def at(path: Any, _: Any) -> _At:
        return _At(path)

    paths = path_aware_map(at, first)

    def one(at: "_At", a: Any, b: Any) -> Any:
        return b if isinstance(b, optax.MaskedNode) else function(at.path, a, b)

    return jax.tree.map(
        one, paths, first, second, is_leaf=lambda x: isinstance(x, (_At, optax.MaskedNode))
    )


class _At(NamedTuple):
    """A path as one leaf of a tree."""

    path: Path
