"""The only uses of private parts of JAX, each with its reason and a test."""

from typing import Any

import jax


def backend_errors() -> dict[str, str]:
    """Return why JAX could not use a platform, by its name.

    JAX falls back to the CPU and has no public way to ask why it does not use the GPU.
    """
    return {name: str(error) for name, error in jax._src.xla_bridge._backend_errors.items()}


def distributed_state() -> Any:
    """Return the state of `jax.distributed`: its client, and this process's place.

    The client's key-value store carries messages without a device. The place is what JAX has
    found in the environment of a launcher. Neither can be had through the public API.
    """
    return jax._src.distributed.global_state
