"""Batches, networks and an optimizer with which tests take the training step apart."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from i21k.data.load.loader import Batch
from i21k.models.inception_bn import InceptionBN
from i21k.train import steps
from tests.helpers.datasets import picture

# Plain descent that keeps the gradient: it is the `opt_state` after a step.
KEEP_GRADIENT = optax.GradientTransformation(
    lambda params: jax.tree.map(jnp.zeros_like, params),
    lambda gradient, _, params=None: (jax.tree.map(lambda g: -0.1 * g, gradient), gradient),
)


class Frozen(InceptionBN):
    """Normalises by the moving statistics in training too, so that pictures have nothing to do with each other."""

    def apply(self, variables: Any, *args: Any, train: bool, **kwargs: Any) -> Any:
        return super().apply(variables, *args, train=False, **kwargs)


def make_batch(size: int, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, size).astype(np.int32)
    images = np.stack([picture(y, i, 32, 32) for i, y in enumerate(labels.tolist())])
    return Batch(images, labels, rng.random(size) < 0.5, np.ones(size, np.float32))


def make_network(kind: type[InceptionBN] = InceptionBN, **fields: Any) -> InceptionBN:
    """The network of the `recipe` fixture."""
    return kind(num_classes=4, variant="standard", revision="symbol2016", width=0.125, **fields)


def initial(model: InceptionBN) -> steps.TrainState:
    """A state on the host: on a CPU device a step would donate what `put_state` shares with it."""
    return jax.device_get(steps.init_state(model, KEEP_GRADIENT, 32, "he_normal", 0))


@functools.cache
def compiled(model: InceptionBN, num_devices: int, accumulate_steps: int, reduce_dtype: str) -> Any:
    return steps.make_train_step(
        model, KEEP_GRADIENT, jax.local_devices()[:num_devices], accumulate_steps, reduce_dtype
    )


def do_step(
    model: InceptionBN,
    batch: Batch,
    num_devices: int,
    state: steps.TrainState | None = None,
    accumulate_steps: int = 1,
    reduce_dtype: str = "float32",
) -> steps.TrainState:
    """Train with a batch; return the state on the host."""
    devices = jax.local_devices()[:num_devices]
    step = compiled(model, num_devices, accumulate_steps, reduce_dtype)
    return jax.device_get(
        step(steps.put_state(state or initial(model), devices), steps.put_batch(batch, devices))
    )


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
