"""Malformed requests: none gets an error of the server, stops it, or changes a later answer."""

import contextlib
import io
import random
import re
import socket
from collections.abc import Callable

import pytest
from PIL import Image

from tests.helpers.datasets import make_image
from tests.helpers.serving import Running
from tests.serve.conftest import png

METHODS = ("GET", "POST", "HEAD", "PUT", "OPTIONS", "TRACE", "CONNECT", "get", "G\0T", "")
PATHS = (
    "/", "/predict", "/models", "/models/small/tree", "/models/small/subset", "/healthz",
    "/metrics", "/openapi.json", "/assets/page.js", "/results/x/answers", "/synsets/n01440764",
    "*", "//", "/../../etc/passwd", "/%00", "/%", "/%ff%fe", "http://127.0.0.1/models", "/predict/",
    "/assets/%2e%2e%2f", "/models/\u72ac/tree", "/" + "a" * 5000,
)  # fmt: skip
VALUES = (
    "", "top", "subset", "fold", "diverse", "hedge", "basic", "small", "0", "-1", "1", "5", "1e9",
    "nan", "inf", "-0.0", "0.9", "1.0000001", "\u0665", "1_0", "%00", "%", "%zz", "leaf", "((((((",
    "!!!!!!", "under(", "under(shark", "leaf%20%26", "size<=nan", "ic>=1e999", '"', "a" * 3000,
    "cut(ic=0)", "partition(size=2)", "n01440764", "\U0001f415", "rank<", "=", ")",
)  # fmt: skip
KEYS = ("view", "k", "accuracy", "among", "model", "view", "unknown", "")
HEADERS = (
    "Content-Length: 5", "Content-Length: -1", "Content-Length: 99999999999999999999",
    "Content-Length: 1, 2", "Content-Length: x", "Transfer-Encoding: chunked",
    "Transfer-Encoding: gzip", "Connection: upgrade", "Upgrade: websocket", "Expect: 100-continue",
    "Origin: null", "Origin: http://[", "Host: evil.example", "Host: localhost",
    "X: " + "y" * 40_000, "no colon",
    ": empty", "X: \x00\x01", "Accept-Encoding: gzip", "Range: bytes=0-0", " folded: x",
    "Content-Encoding: gzip", "Cookie: " + "a=b;" * 500, "X-Forwarded-For: 127.0.0.1",
)  # fmt: skip


def encoded(kind: str, seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(make_image(seed % 4, seed)).save(file, kind)
    return file.getvalue()


def mutated(rng: random.Random, data: bytes) -> bytes:
    """Change, remove, insert or repeat some bytes."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(len(changed) + 1)
        kind = rng.randrange(4)
        if kind == 0 and changed:
            changed[at % len(changed)] = rng.randrange(256)
        elif kind == 1:
            del changed[at : at + rng.randint(1, 40)]
        elif kind == 2:
            changed[at:at] = rng.randbytes(rng.randint(1, 40))
        else:
            changed[at:at] = changed[at : at + rng.randint(1, 200)]
    return bytes(changed)


def bad_line(rng: random.Random) -> bytes:
    """A request whose line, parameters and headers are drawn, so that most are malformed."""
    pairs = [f"{rng.choice(KEYS)}={rng.choice(VALUES)}" for _ in range(rng.randint(0, 4))]
    path = rng.choice(PATHS) + ("?" + "&".join(pairs) if pairs else "")
    version = rng.choice(("HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2", "HTTP/9.9", ""))
    headers = [*rng.sample(HEADERS, rng.randint(0, 3)), "Host: 127.0.0.1"]
    end = rng.choice(("\r\n", "\r\n", "\n"))
    head = end.join([f"{rng.choice(METHODS)} {path} {version}", *headers, "", ""])
    return head.encode("utf-8") + rng.choice((b"", b"hello", b"5\r\nhello\r\n0\r\n\r\n", png(0)))


def bad_image(rng: random.Random) -> bytes:
    """A request as it should be, with an image that is not."""
    kind = rng.choice(("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"))
    body = mutated(rng, encoded(kind, rng.randrange(8)))
    view = rng.choice(("top", "diverse", "basic", "fold"))
    head = f"POST /predict?view={view} HTTP/1.1\r\nHost: localhost\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def bad_bytes(rng: random.Random) -> bytes:
    """Noise, or a good request with some bytes changed."""
    if rng.random() < 0.3:
        return rng.randbytes(rng.randint(1, 4000))
    body = png(1)
    head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    return mutated(rng, head.encode()) + body


def exchange(page: Running, request: bytes) -> bytes:
    """Send bytes, and return what comes back: one whole response, or all until the server closes.

    If nothing comes, the server waits for more. Then the sending ends, which it has to notice.
    """
    received = b""
    link = socket.create_connection((page.host, page.port))
    # The server may refuse and close at once.
    with contextlib.closing(link), contextlib.suppress(ConnectionError):
        link.sendall(request)
        link.settimeout(0.15)
        while not is_whole(received):
            try:
                part = link.recv(65536)
            except TimeoutError:
                link.shutdown(socket.SHUT_WR)
                link.settimeout(30)
                continue
            if not part:
                break
            received += part
    return received


def is_whole(received: bytes) -> bool:
    """Return whether bytes hold a response with all of its body."""
    head, end, body = received.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    return bool(end and length and len(body) >= int(length[1]))


def check(page: Running, num: int, seed: int) -> None:
    rng = random.Random(seed)
    before = page.send("POST", "/predict", png(2)).json
    kinds: tuple[Callable[[random.Random], bytes], ...] = (bad_line, bad_image, bad_bytes)
    statuses = set()
    for number in range(num):
        request = kinds[number % len(kinds)](rng)
        received = exchange(page, request)
        found = [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3})", received[:12])]
        assert received == b"" or found, (request, received[:200])
        assert not set(found) & {500, 501, 502, 504}, (request, received[:600])
        assert b"Traceback" not in received and b"/i21k/" not in received
        statuses.update(found)
    assert {200, 400, 404, 421, 422} <= statuses  # the requests reach all parts of the server
    after = page.send("POST", "/predict", png(2)).json
    assert after["answers"] == before["answers"]
    assert page.get("/healthz").json == {"status": "ok"}
    text = page.get("/metrics").body.decode()
    for gauge in ("requests_in_work", "images_waiting", "upload_bytes_held"):
        assert f"\ni21k_{gauge} 0\n" in text


def test_malformed_requests(page: Running) -> None:
    check(page, 240, seed=0)


@pytest.mark.slow
def test_two_thousand_malformed_requests(page: Running) -> None:
    check(page, 2000, seed=1)
