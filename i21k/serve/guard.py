"""Checks and headers around the application: allowed hosts, security headers, request counts."""

import ipaddress
import time
from urllib.parse import urlsplit

from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from i21k.serve.limits import RequestError
from i21k.serve.metrics import Metrics

_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self';"
    " img-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class Guard:
    """An application of ASGI around another."""

    def __init__(self, app: ASGIApp, metrics: Metrics, host_names: frozenset[str]) -> None:
        self._app, self._metrics, self._host_names = app, metrics, host_names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, started_at = 500, time.perf_counter()

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                more = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        refused = self._refused(scope)
        try:
            if refused is not None:
                await respond(refused)(scope, receive, send_with_headers)
            else:
                await self._app(scope, receive, send_with_headers)
        finally:
            route = scope.get("route")
            path = getattr(route, "path", "other")
            self._metrics.request(path, status, time.perf_counter() - started_at)

    def _refused(self, scope: Scope) -> RequestError | None:
        """Refuse names that others control (DNS rebinding), and pages of other sites."""
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get(b"host", "")
        if not self._is_own(host):
            return RequestError(
                421,
                "unknown_host",
                "The server does not serve this host name. Start it with --host-name NAME to"
                " allow it.",
            )
        origin = headers.get(b"origin")
        own = {f"{scheme}://{host}".lower() for scheme in ("http", "https")}
        is_other = origin is not None and origin.lower() not in own
        # A link to the page is fine; an image or a script of another site is not.
        is_part = headers.get(b"sec-fetch-site") == "cross-site"
        if is_other or (is_part and headers.get(b"sec-fetch-mode") != "navigate"):
            return RequestError(
                403, "other_origin", "Requests of pages of other sites are refused."
            )
        return None

    def _is_own(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name == "localhost" or name in self._host_names:
            return True
        try:
            ipaddress.ip_address(name)  # no name server can make it mean another machine
        except ValueError:
            return False
        return True


def respond(error: RequestError) -> Response:
    """Return the response for an error."""
    headers = {"retry-after": "1"} if error.status == 503 else {}
    return JSONResponse(error.to_json(), error.status, headers=headers)
