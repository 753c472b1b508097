"""Optimizers by name. Each one is made of Optax's parts, so that its state is a checkpoint's."""

from collections.abc import Callable
from typing import Any

import jax
import optax
from flax.traverse_util import path_aware_map

from i21k.models.network import Network, Path
from i21k.train.optimizer.groups import (
    FactorsOf,
    add_decay,
    group_of,
    layer_factors,
    product,
    recipe_factors,
    scale_updates,
)
from i21k.train.recipe import OptimizerRecipe

_LAMB_EPSILON = 1e-6  # You et al. 2020, arXiv 1904.00962, and the default of `optax.lamb`


def make_optimizer(
    cfg: OptimizerRecipe,
    schedule: optax.Schedule,
    network: Network,
    more_factors: FactorsOf | None = None,
) -> optax.GradientTransformation:
    """Return the optimizer of a recipe.

    SGD adds the weight decay to the gradient, as in MXNet. The other optimizers multiply the
    parameter by 1 - learning rate x decay (Loshchilov and Hutter 2019, arXiv 1711.05101).

    Args:
        cfg: name, momentum, decay, groups and clipping.
        schedule: the learning rate of a step.
        network: gives the group of a parameter, and which have no effect and must not decay.
        more_factors: multiplied with those of the recipe, such as 0 for parameters that are frozen.
    """
    of_layers = layer_factors(cfg.layer_decay, network)
    factors = product(product(recipe_factors(cfg, network), of_layers), more_factors)
    optimizer = _OPTIMIZERS[cfg.name](cfg, schedule, network, factors)
    if cfg.name != "sgd":
        optimizer = _promoting(optimizer)
    changes_rate = (cfg.learning_rate_head, cfg.learning_rate_norm) != (1, 1)
    changes_rate = changes_rate or of_layers is not None or more_factors is not None
    scale = scale_updates(factors) if changes_rate else None
    return _around(optimizer, cfg.clip_norm, scale)


def trained_by_muon(network: Network, path: Path, parameter: Any) -> bool:
    """Return whether Muon updates a parameter: a kernel outside the head, not of a single row."""
    if group_of(network, path) != "kernels" or parameter.ndim < 2:
        return False
    outputs = parameter.shape[-1]
    return bool(min(outputs, parameter.size // outputs) > 1)


def _sgd(
    cfg: OptimizerRecipe, schedule: optax.Schedule, network: Network, factors: FactorsOf
) -> optax.GradientTransformation:
    return optax.chain(
        add_decay(cfg.weight_decay, factors),
        optax.sgd(schedule, momentum=cfg.momentum, nesterov=cfg.nesterov),
    )


def _adamw(
    cfg: OptimizerRecipe, schedule: optax.Schedule, network: Network, factors: FactorsOf
) -> optax.GradientTransformation:
    return optax.chain(
        optax.scale_by_adam(cfg.momentum, cfg.beta2),
        add_decay(cfg.weight_decay, factors),
        optax.scale_by_learning_rate(schedule),
    )


def _lamb(
    cfg: OptimizerRecipe, schedule: optax.Schedule, network: Network, factors: FactorsOf
) -> optax.GradientTransformation:
    return optax.chain(
        optax.scale_by_adam(cfg.momentum, cfg.beta2, _LAMB_EPSILON),
        add_decay(cfg.weight_decay, factors),
        optax.scale_by_trust_ratio(),
        optax.scale_by_learning_rate(schedule),
    )


def _muon(
    cfg: OptimizerRecipe, schedule: optax.Schedule, network: Network, factors: FactorsOf
) -> optax.GradientTransformation:
    """Muon (Jordan 2024, kellerjordan.github.io/posts/muon) for kernels, SGD for all others.

    Muon turns the momentum of a kernel into the nearest matrix of equal singular values. A kernel
    of a convolution is the matrix of its inputs (height, width, channels) by its outputs.
    """
    ratio = cfg.muon_learning_rate / cfg.learning_rate

    def label(path: Any, parameter: Any) -> str:
        return "muon" if trained_by_muon(network, path, parameter) else "sgd"

    def labels(params: Any) -> Any:
        return path_aware_map(label, params)

    def matrices(params: Any) -> Any:
        def axes(_: Any, parameter: Any) -> Any:
            if isinstance(parameter, optax.MaskedNode):
                return parameter
            *inputs, outputs = range(parameter.ndim)
            return optax.contrib.MuonDimensionNumbers(tuple(inputs), (outputs,))

        return path_aware_map(axes, params)

    muon = optax.contrib.muon(
        lambda step: schedule(step) * ratio,
        beta=cfg.momentum,
        nesterov=cfg.nesterov,
        weight_decay=cfg.muon_weight_decay,
        muon_weight_dimension_numbers=matrices,
    )
    sgd = _sgd(cfg, schedule, network, factors)
    return optax.partition({"muon": muon, "sgd": sgd}, labels)


_OPTIMIZERS: dict[
    str,
    Callable[[OptimizerRecipe, optax.Schedule, Network, FactorsOf], optax.GradientTransformation],
] = {"sgd": _sgd, "adamw": _adamw, "lamb": _lamb, "muon": _muon}


def _promoting(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Let Optax raise floats to the power of integers where JAX's type promotion is strict."""

    def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        with jax.numpy_dtype_promotion("standard"):
            return inner.update(gradients, state, params)

    return optax.GradientTransformation(inner.init, update)


def _around(
    inner: optax.GradientTransformation, clip_norm: float, scale: Callable[[Any], Any] | None
) -> optax.GradientTransformation:
    """Clip before an optimizer, and scale its updates after it. The state stays that of `inner`.

    A resumed run can therefore begin to clip.
    """
    if not clip_norm and scale is None:
        return inner
    clip = optax.clip_by_global_norm(clip_norm) if clip_norm else None

    def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        if clip is not None:
            gradients, _ = clip.update(gradients, optax.EmptyState())
        updates, state = inner.update(gradients, state, params)
        return updates if scale is None else scale(updates), state

    return optax.GradientTransformation(inner.init, update)
