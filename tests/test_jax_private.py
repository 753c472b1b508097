"""Fail when a private part of JAX that the code uses goes away."""

import jax

from i21k import jax_private


def test_errors_of_backends_are_texts_by_platform():
    jax.devices()
    errors = jax_private.backend_errors()
    assert all(isinstance(k, str) and isinstance(v, str) for k, v in errors.items())
    assert isinstance(jax._src.xla_bridge._backend_errors, dict)


def test_the_state_of_distributed_has_what_we_use():
    state = jax_private.distributed_state()
    assert state.client is None  # this is a single process
    assert (state.num_processes, state.process_id, state.coordinator_address) == (1, 0, None)
    for name in (
        "key_value_set",
        "key_value_dir_get",
        "key_value_delete",
        "blocking_key_value_get",
    ):
        assert hasattr(jax._src.lib._jax.DistributedRuntimeClient, name)
