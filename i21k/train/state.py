"""The inputs and outputs of a training step: the network, the state and the batch."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from flax.traverse_util import flatten_dict, path_aware_map, unflatten_dict

from i21k.models.network import Init, Network, Path, build
from i21k.train.metrics import Sums
from i21k.train.recipe import ModelRecipe

AXIS = "batch"  # name of the axis of devices in collectives

_OF_TRAINING = (
    "remat",
    "init",
    "sync_bn",
    "freeze",
    "freeze_bn",
)  # keys of a recipe that do not describe the function


class TrainState(struct.PyTreeNode):
    """Everything that a step changes. Every device has the same values."""

    step: Any  # int32, number of steps done
    params: Any
    batch_stats: Any
    opt_state: Any
    sums: Sums  # of the epoch so far
    # Moving average of params and batch_stats, by these names; empty where the recipe has none.
    ema: Any = struct.field(default_factory=dict)

    @property
    def variables(self) -> dict[str, Any]:
        """Parameters and statistics, as the network takes them."""
        return {"params": self.params, "batch_stats": self.batch_stats}


class DeviceBatch(struct.PyTreeNode):
    """A batch on the devices: axis D counts them. A step takes one device's part, without D.

    JAX rebuilds the tree with NumPy arrays, shapes and placeholders: fields have no types.
    """

    images: Any  # uint8 [D, b, S, S, 3]
    labels: Any  # int32 [D, b]
    mirror: Any  # bool [D, b]
    weights: Any  # float32 [D, b]
    others: Any = None  # int32 [D, b, M]: labels that are right too, -1 for none


def make_network(cfg: ModelRecipe, num_classes: int) -> Network:
    """Build the network of a recipe, as it is trained."""
    names = (field.name for field in dataclasses.fields(cfg))
    description = {name: getattr(cfg, name) for name in names if name not in _OF_TRAINING}
    description["bn_momentum"] = None if cfg.bn_momentum == "default" else cfg.bn_momentum
    network = build(description, num_classes).with_remat(cfg.remat)
    network = network.with_frozen(cfg.freeze).with_fixed_statistics(cfg.freeze_bn)
    return network.with_statistics_over(AXIS if cfg.sync_bn else None)


def divided(network: Network, tree: Any, collection: str = "params") -> tuple[Any, Any]:
    """Divide parameters, or statistics, into those that are trained and those that are frozen."""
    flat = flatten_dict(tree)
    frozen = {path: x for path, x in flat.items() if network.is_frozen(collection, path)}
    if not frozen:
        return tree, {}
    trained = {path: x for path, x in flat.items() if path not in frozen}
    return unflatten_dict(trained), unflatten_dict(frozen)


def joined(tree: Any, other: Any) -> Any:
    """Return a tree with the arrays of both; where both have one, that of the second."""
    return unflatten_dict(flatten_dict(tree) | flatten_dict(other)) if other else tree


def init_state(
    network: Network,
    optimizer: optax.GradientTransformation,
    image_size: int,
    init: Init,
    seed: int,
    head_bias: float = 0.0,
    with_ema: bool = False,
) -> TrainState:
    """Make the first state of a run: the same on every machine.

    Args:
        network: draws its variables.
        optimizer: makes its own state of the parameters.
        image_size: in px.
        init: how kernels are drawn; see `Network.initial`.
        seed: of the run.
        head_bias: value of the biases of the classifier head.
        with_ema: whether it has a moving average, which starts as a copy.

    Raises:
        UserError: if the network does not take images of this size.
    """
    variables = network.initial(image_size, init, seed)
    if head_bias:
        fill = functools.partial(_with_head_bias, network=network, value=head_bias)
        variables["params"] = path_aware_map(fill, variables["params"])
    own = {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        **own,
        opt_state=jax.jit(optimizer.init)(divided(network, variables["params"])[0]),
        sums=Sums.zero(),
        ema=copied(own) if with_ema else {},
    )


def _with_head_bias(path: Path, array: Any, network: Network, value: float) -> Any:
    is_bias = path[: len(network.head)] == network.head and not network.is_kernel(path)
    return np.full_like(array, value) if is_bias else array


def copied(variables: Any) -> Any:
    """Return copies on the host. An average must share no buffer with what a step donates."""
    return jax.tree.map(np.array, variables)
