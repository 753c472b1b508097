"""Make a CPU refuse transfers to the host where a GPU does: JAX's guard sees none on a CPU."""

import threading
from typing import Any

import jax
import numpy as np
import pytest
from jax._src import config
from jax._src.array import ArrayImpl

_GUARD = config.transfer_guard_device_to_host


def refuse_as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise where values of an array reach the host and the guard of the thread refuses it.

    "disallow" lets `jax.device_get` through, "disallow_explicit" nothing. NumPy's own functions
    other than `asarray` and `array` are not seen.
    """
    explicit = threading.local()
    real_get, real_value = jax.device_get, ArrayImpl._value

    def check(what: str) -> None:
        level = _GUARD.value
        if level == "disallow_explicit" or (
            level == "disallow" and not getattr(explicit, "now", False)
        ):
            raise RuntimeError(f"Disallowed device-to-host transfer: {what}")

    def device_get(tree: Any) -> Any:
        explicit.now = True
        try:
            return real_get(tree)
        finally:
            explicit.now = False

    def value(array: ArrayImpl) -> Any:
        check(f"shape {array.shape}")
        return real_value.__get__(array)

    def checked(function: Any) -> Any:
        def convert(given: Any, *args: Any, **options: Any) -> Any:
            if isinstance(given, ArrayImpl):
                check(f"shape {given.shape}")
            return function(given, *args, **options)

        return convert

    monkeypatch.setattr(jax, "device_get", device_get)
    monkeypatch.setattr(ArrayImpl, "_value", property(value))
    for name in ("asarray", "array"):
        monkeypatch.setattr(np, name, checked(getattr(np, name)))
