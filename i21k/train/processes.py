"""Messages between the processes of a run, so that other modules are written as if for one.

Only a few bytes pass here, through the key-value store of JAX's coordination service: that needs
no device, and answers while devices wait for one another. One process exchanges nothing.
"""

import json
import signal
import socket
import time
from collections.abc import Mapping
from typing import Any

import jax

from i21k import jax_private, log
from i21k.errors import UserError
from i21k.train.interruption import Interruption
from i21k.train.recipe import keys_that_may_differ

ASK_S = 2.0  # between two questions whether a process has received a signal


def index() -> int:
    """Return this process's number, from 0."""
    return jax.process_index()


def count() -> int:
    """Return the number of processes."""
    return jax.process_count()


def say(text: str) -> None:
    """Print a line, in process 0 only."""
    if index() == 0:
        log.info(text)


_num_exchanges = 0


def exchange(name: str, value: Any) -> list[Any]:
    """Send a value to all processes and return theirs, by rank.

    All processes must make the same calls in the same order.

    Args:
        name: name of the call, to detect processes that are at different calls.
        value: JSON.
    """
    global _num_exchanges
    if count() == 1:
        return [value]
    client: Any = jax_private.distributed_state().client
    _num_exchanges += 1
    client.key_value_set(f"i21k/{_num_exchanges}/{index()}", json.dumps([name, value]))
    found = []
    for process in range(count()):
        named, other = json.loads(_wait_for(client, f"i21k/{_num_exchanges}/{process}"))
        if named != name:
            raise AssertionError(f"process {process} is at {named!r}, this one at {name!r}")
        found.append(other)
    if _num_exchanges > 1:  # all have read the values of the call before
        client.key_value_delete(f"i21k/{_num_exchanges - 1}/{index()}")
    return found


def _wait_for(client: Any, key: str) -> str:
    while True:  # the watch ends this process if the one that has to answer is lost
        try:
            return client.blocking_key_value_get(key, 10_000)
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise


def share(name: str, value: Any) -> Any:
    """Return process 0's value in all processes."""
    return exchange(name, value if index() == 0 else None)[0]


def check_same(name: str, facts: Mapping[str, Any]) -> None:
    """Refuse processes that differ.

    Args:
        name: name of the call.
        facts: JSON by name. Directories of data and numbers of workers and threads may differ.

    Raises:
        UserError: in all processes, naming the first one that differs from process 0, and how.
    """
    first, *others = exchange(name, {"host": socket.gethostname(), **facts})
    ignored = {"host", *(f"config.{key}" for key in keys_that_may_differ())}
    for process, other in enumerate(others, 1):
        keys = [
            key
            for key in sorted(set(first) | set(other))
            if first.get(key) != other.get(key) and key not in ignored
        ]
        if keys:
            there = "; ".join(
                f"{key} is {other.get(key)!r}, not {first.get(key)!r}" for key in keys
            )
            who = f"process {process} on {other['host']} differs from process 0 on {first['host']}"
            raise UserError(f"{who}: {there}. Start all with the same code, recipe and data.")


class Agreement:
    """Whether to stop: the same answer in all processes, which ask after each batch.

    An exchange costs a message to process 0 and back, so it happens every `ASK_S` seconds. Process
    0 decides after how many calls.
    """

    def __init__(self, interruption: Interruption) -> None:
        self._interruption = interruption
        self._calls = self._left = 1
        self._since = time.monotonic()

    def __call__(self) -> bool:
        if count() == 1:
            return bool(self._interruption)
        self._left -= 1
        if self._left:
            return False
        fitting = round(self._calls * ASK_S / max(time.monotonic() - self._since, 1e-3))
        heard = exchange(
            "stop",
            {"signum": self._interruption.signum, "calls": max(1, min(fitting, 4 * self._calls))},
        )
        self._calls = self._left = heard[0]["calls"]
        self._since = time.monotonic()
        asked = next(
            (process for process, told in enumerate(heard) if told["signum"] is not None), None
        )
        if asked is not None:
            if asked:
                say(
                    f"{signal.Signals(heard[asked]['signum']).name} at process {asked}:"
                    " all processes save and end"
                )
            self._interruption.signum = heard[asked]["signum"]
        return asked is not None
