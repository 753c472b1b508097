"""Batches, networks and an optimizer for tests of the training step."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from i21k.data.load.loader import Batch
from i21k.models.inception_bn import InceptionBN
from i21k.models.inception_network import InceptionNetwork
from i21k.models.network import Network, Output
from i21k.train import steps
from i21k.train.devices import put_batch, put_state
from i21k.train.state import TrainState, init_state
from tests.helpers.datasets import make_image

# Plain descent that keeps the gradient: it is the `opt_state` after a step.
KEEP_GRADIENT = optax.GradientTransformation(
    lambda params: jax.tree.map(jnp.zeros_like, params),
    lambda gradient, _, params=None: (jax.tree.map(lambda g: -0.1 * g, gradient), gradient),
)


class Frozen(InceptionNetwork):
    """Normalises by the moving statistics in training too, so that images are independent."""

    def apply_train(self, variables: Any, images: Any) -> tuple[Output, dict[str, Any]]:
        return self.apply(variables, images), variables["batch_stats"]


def make_batch(size: int, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, size).astype(np.int32)
    images = np.stack([make_image(y, i, 32, 32) for i, y in enumerate(labels.tolist())])
    return Batch(images, labels, rng.random(size) < 0.5, np.ones(size, np.float32))


def make_small_network(
    kind: type[InceptionNetwork] = InceptionNetwork, **fields: Any
) -> InceptionNetwork:
    """Return the network of the `recipe` fixture."""
    module = InceptionBN(
        num_classes=4, variant="standard", revision="symbol2016", width=0.125, **fields
    )
    return kind(module)


def initial(network: Network) -> TrainState:
    """Return a state on the host: on a CPU a step would donate what `put_state` shares with it."""
    return jax.device_get(init_state(network, KEEP_GRADIENT, 32, "he_normal", 0))


@functools.cache
def compiled(network: Network, num_devices: int, **options: Any) -> Any:
    devices = jax.local_devices()[:num_devices]
    return steps.make_train_step(network, KEEP_GRADIENT, devices, **options)


def do_step(
    network: Network,
    batch: Batch,
    num_devices: int,
    state: TrainState | None = None,
    **options: Any,
) -> TrainState:
    """Train with a batch; return the state on the host.

    Args:
        network: to train.
        batch: of all devices.
        num_devices: to run on.
        state: to start from; `initial` by default.
        options: of `steps.make_train_step`; hashable.
    """
    devices = jax.local_devices()[:num_devices]
    step = compiled(network, num_devices, **options)
    first = put_state(state or initial(network), devices)
    return jax.device_get(step(first, put_batch(batch, devices)))


def distance(got: Any, wanted: Any) -> float:
    """The norm of the difference of two trees over the norm of the second."""
    pairs = list(zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True))
    squares = [
        (
            np.sum(np.square(np.asarray(a, np.float64) - b)),
            np.sum(np.square(np.asarray(b, np.float64))),
        )
        for a, b in pairs
    ]
    return float(np.sqrt(sum(a for a, _ in squares) / sum(b for _, b in squares)))
