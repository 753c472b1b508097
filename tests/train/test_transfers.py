"""The stand-in for a GPU's refusals (`tests.helpers.transfers`), which every test here uses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

IMPLICIT = {
    "float": float,
    "bool": bool,
    "asarray": lambda array: np.asarray(array),  # as it is patched
    "array": lambda array: np.array(array),
    "item": lambda array: array.item(),
    "format": "{:.1f}".format,
}


@pytest.mark.parametrize("name", IMPLICIT)
def test_implicit_transfers_to_the_host_are_refused(name):
    array = jnp.asarray(2.0)
    with (
        jax.transfer_guard_device_to_host("disallow"),
        pytest.raises(RuntimeError, match="Disallowed device-to-host transfer"),
    ):
        IMPLICIT[name](array)
    IMPLICIT[name](array)  # without the guard


def test_explicit_transfers_are_refused_only_where_nothing_may_pass():
    array = jnp.arange(3)
    with jax.transfer_guard_device_to_host("disallow"):
        assert jax.device_get(array).tolist() == [0, 1, 2]
        with pytest.raises(RuntimeError, match="Disallowed"):  # as before `device_get`
            np.asarray(jnp.arange(4))
    with (
        jax.transfer_guard_device_to_host("disallow_explicit"),
        pytest.raises(RuntimeError, match="Disallowed device-to-host transfer"),
    ):
        jax.device_get(jnp.arange(5))


def test_what_is_on_the_host_already_passes():
    with jax.transfer_guard_device_to_host("disallow_explicit"):
        assert np.asarray([1, 2]).sum() == 3
