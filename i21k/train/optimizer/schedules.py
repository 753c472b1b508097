"""The learning rate as a function of the step."""

from typing import Any

import jax.numpy as jnp
import optax

from i21k.train.recipe import OptimizerRecipe


def make_schedule(cfg: OptimizerRecipe, steps_per_epoch: float, num_steps: int) -> optax.Schedule:
    """Return the learning rate as a function of the step.

    It rises from 0 linearly during the warm-up. Then it is constant, or falls to 0 at the end of
    the run: by a cosine, linearly, or linearly over the last `decay_epochs` only (trapezoid).
    Steps are counted from `cfg.schedule_from_step`. Earlier steps are not asked for.

    Args:
        cfg: durations in epochs.
        steps_per_epoch: images of the split over the batch size, not rounded.
        num_steps: of the whole run.
    """
    warmup_steps = round(cfg.warmup_epochs * steps_per_epoch)
    num_steps = num_steps - cfg.schedule_from_step
    decay_steps = max(1, round(cfg.decay_epochs * steps_per_epoch))

    def schedule(step: Any) -> Any:
        if cfg.schedule_from_step:  # not always: other code for XLA can round differently
            step = step - cfg.schedule_from_step
        rate = jnp.asarray(cfg.learning_rate, jnp.float32)
        if cfg.schedule in ("cosine", "linear"):
            done = jnp.clip((step - warmup_steps) / max(1, num_steps - warmup_steps), 0, 1)
            if cfg.schedule == "cosine":
                rate = rate * 0.5 * (1 + jnp.cos(jnp.pi * done))
            else:
                rate = rate * (1 - done)
        elif cfg.schedule == "trapezoid":
            rate = rate * jnp.clip((num_steps - step) / decay_steps, 0, 1)
        if warmup_steps:
            rate = rate * jnp.minimum(1, (step + 1) / warmup_steps)
        return rate

    return schedule
