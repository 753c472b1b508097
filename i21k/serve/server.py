"""Run the application: sockets, connections that must not last for ever, a graceful stop.

A signal lets the requests in work end; then it is raised again, so that the
command ends with 128 and its number like every other.
"""

import asyncio
import logging
import socket
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from i21k.errors import UserError
from i21k.serve.limits import Limits

_KEEP_ALIVE_S = 5  # uvicorn's default: a connection without any byte
_MAX_HEADER_BYTES = 32 << 10  # our choice
_BACKLOG = 128


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        UserError: if the address cannot be used.
    """
    if not 0 <= port <= 65535:
        raise UserError(f"Port {port} does not exist. Use one from 0 to 65535.")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"Port {port} of {host} cannot be used ({reason}). Give another --port or --host."
        ) from error


def address(listening: socket.socket) -> str:
    """Return the address of the page."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run(app: ASGIApp, listening: socket.socket, limits: Limits) -> None:
    """Serve until a signal; then let the requests in work end, and raise the signal."""
    make(app, limits).run(sockets=[listening])


def make(app: ASGIApp, limits: Limits) -> uvicorn.Server:
    """Return a server that `run(sockets=[...])` starts and `should_exit = True` stops."""
    logging.getLogger("uvicorn").setLevel(logging.ERROR)  # not a line for each malformed request

    class Protocol(_Connection):
        bounds = limits

    config = uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(limits.timeout_s) + 1,
        h11_max_incomplete_event_size=_MAX_HEADER_BYTES,
    )
    return uvicorn.Server(config)


class _Connection(H11Protocol):
    """A connection that is closed when no request becomes whole, and one of a bounded number.

    uvicorn alone waits for ever for the rest of a header, and takes any number of connections.
    """

    bounds: Limits
    _check: asyncio.TimerHandle | None = None
    _last_at = 0.0  # when the last response was complete, or the present request was seen first
    _seen: object = None  # the request that `_last_at` is about

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > self.bounds.max_connections:
            transport.abort()
            return
        self._last_at = self.loop.time()
        self._check_later()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._check is not None:
            self._check.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        self._last_at = self.loop.time()
        super().on_response_complete()

    def _check_later(self) -> None:
        self._check = self.loop.call_later(self.bounds.idle_s / 4, self._check_now)

    def _check_now(self) -> None:
        now, bounds = self.loop.time(), self.bounds
        in_work = self.cycle is not None and not self.cycle.response_complete
        if in_work and self.cycle is not self._seen:
            self._seen, self._last_at = self.cycle, now
        # The handlers have time limits of their own, but a client may never read its response.
        longest = bounds.upload_timeout_s + bounds.timeout_s + bounds.idle_s
        if now - self._last_at > (longest if in_work else bounds.idle_s):
            self.transport.abort()
            return
        self._check_later()
