"""A server in a thread, and requests to it."""

import contextlib
import http.client
import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from i21k.serve import app, server
from i21k.serve.limits import Limits
from i21k.serve.models import ServedModel


class Reply(NamedTuple):
    """A response of HTTP."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The code of an error."""
        return self.json["error"]["code"]


class Running(NamedTuple):
    """A server that runs."""

    host: str
    port: int

    @property
    def address(self) -> str:
        return f"http://{self.host}:{self.port}"

    def send(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            return Reply(response.status, response.headers, response.read())

    def get(self, path: str, **headers: str) -> Reply:
        return self.send("GET", path, headers=headers)

    def wait_for(self, gauge: str, least: int, seconds: float = 60) -> None:
        """Wait until a value of /metrics is at least this large."""
        deadline = time.monotonic() + seconds
        while True:
            text = self.get("/metrics").body.decode()
            (found,) = re.findall(rf"^i21k_{gauge} (\S+)$", text, re.MULTILINE)
            if float(found) >= least:
                return
            assert time.monotonic() < deadline, f"{gauge} is {found}, and at least {least} expected"
            time.sleep(0.01)


@contextlib.contextmanager
def serving(
    models: Mapping[str, ServedModel], host_names: tuple[str, ...] = (), **limits: Any
) -> Iterator[Running]:
    """Run a server in a thread while the block runs."""
    bounds = Limits(**limits)
    listening = server.listen("127.0.0.1", 0)
    runner = server.make(app.build(models, bounds, host_names), bounds)
    thread = threading.Thread(target=runner.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        while not runner.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield Running(*listening.getsockname())
    finally:
        runner.should_exit = True
        thread.join()
        listening.close()
