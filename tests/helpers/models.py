"""Small checkpoints with random parameters."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from i21k.checkpoints import Checkpoints
from i21k.labels import ClassList
from i21k.models.network import Network, build
from i21k.train.state import init_state
from tests.helpers.datasets import CLASSES


def narrow_network(num_classes: int, revision: str = "symbol2016") -> Network:
    """The standard network, an eighth as wide."""
    return build({"variant": "standard", "revision": revision, "width": 0.125}, num_classes)


def save_random_model(
    workdir: Path,
    revision: str = "symbol2016",
    image_size: int = 32,
    classes: ClassList = CLASSES,
    **meta: Any,
) -> Path:
    """Save a narrow network with random parameters and statistics as a checkpoint."""
    network = narrow_network(len(classes), revision)
    state = init_state(network, optax.sgd(0.1), image_size, "he_normal", 0)
    rng = np.random.default_rng(0)
    variables = {
        "params": jax.tree.map(lambda x: x * 0.7, state.params),
        "batch_stats": jax.tree.map(
            lambda x: rng.uniform(0.5, 1.5, x.shape).astype(np.float32), state.batch_stats
        ),
    }
    meta = {
        "epoch_done": True,
        "model": network.describe(),
        "input": {"image_size": image_size, "crop_fraction": 0.875},
        "classes": list(classes.ids),
        **meta,
    }
    Checkpoints(workdir / "checkpoints").save(0, variables, meta)
    return workdir


def save_model(
    workdir: Path,
    seed: int = 0,
    step: int = 0,
    classes: ClassList = CLASSES,
    described: dict[str, Any] | None = None,
    **meta: Any,
) -> Path:
    """Save a narrow network with random parameters and initial statistics as a checkpoint."""
    network = narrow_network(len(classes))
    state = init_state(network, optax.sgd(0.1), 32, "he_normal", seed)
    variables = {
        "params": jax.tree.map(lambda x: x * 0.7, state.params),
        "batch_stats": state.batch_stats,
    }  # probabilities of 0.01 to 0.9
    meta = {
        "model": network.describe(),
        "input": {"image_size": 32, "crop_fraction": 0.875},
        "classes": list(classes.ids),
        **meta,
        **(described or {}),
    }
    Checkpoints(workdir / "checkpoints").save(step, variables, {"epoch_done": True, **meta})
    return workdir
