"""Learning-rate schedule and SGD, and which parameters decay."""

from typing import Any

import jax.numpy as jnp
import optax
from flax.traverse_util import path_aware_map

from i21k.models.network import Network
from i21k.train.recipe import OptimizerRecipe


def make_schedule(cfg: OptimizerRecipe, steps_per_epoch: float, num_steps: int) -> optax.Schedule:
    """Return the learning rate as a function of the step.

    It rises from 0 linearly during the warm-up. Then it is constant, or follows a cosine to 0.
    Steps are counted from `cfg.schedule_from_step`. Earlier steps are not asked for.

    Args:
        cfg: durations in epochs.
        steps_per_epoch: images of the split over the batch size, not rounded.
        num_steps: of the whole run.
    """
    warmup_steps = round(cfg.warmup_epochs * steps_per_epoch)
    num_steps = num_steps - cfg.schedule_from_step

    def schedule(step: Any) -> Any:
        if cfg.schedule_from_step:  # not always: other code for XLA can round differently
            step = step - cfg.schedule_from_step
        rate = jnp.asarray(cfg.learning_rate, jnp.float32)
        if cfg.schedule == "cosine":
            done = jnp.clip((step - warmup_steps) / max(1, num_steps - warmup_steps), 0, 1)
            rate = rate * 0.5 * (1 + jnp.cos(jnp.pi * done))
        if warmup_steps:
            rate = rate * jnp.minimum(1, (step + 1) / warmup_steps)
        return rate

    return schedule


def make_optimizer(
    cfg: OptimizerRecipe, schedule: optax.Schedule, network: Network
) -> optax.GradientTransformation:
    """Return SGD with momentum. Weight decay is added to the gradient, as in MXNet.

    Args:
        cfg: momentum and decay.
        schedule: the learning rate of a step.
        network: tells which parameters are kernels, and which have no effect and must not decay.
    """

    def decays(path: Any, _: Any) -> bool:
        return network.is_kernel(path) if cfg.decay == "kernels" else network.is_trained(path)

    return optax.chain(
        optax.add_decayed_weights(
            cfg.weight_decay, mask=lambda params: path_aware_map(decays, params)
        ),
        optax.sgd(schedule, momentum=cfg.momentum, nesterov=cfg.nesterov),
    )
