"""The command as a process: it starts, answers, and ends as it should."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from i21k import cli
from i21k.errors import UserError
from i21k.serve import server
from i21k.serve.limits import Limits
from tests.helpers.models import save_random_model
from tests.helpers.serving import serving
from tests.serve.conftest import png


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_model(tmp_path_factory.mktemp("runs") / "small")


@contextmanager
def started(workdir: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    # A shell that starts the tests in the background makes them ignore SIGINT.
    code = "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
    code += " runpy.run_module('i21k', run_name='__main__')"
    command = [sys.executable, "-c", code, "serve", "--checkpoint", str(workdir)]
    command += ["--port", "0", "--batch-size", "1"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.fullmatch(r"serving (http://127\.0\.0\.1:\d+) \(Ctrl-C stops it\)\n", line)
        assert found, (line, process.stderr and process.stderr.read())
        yield process, found[1]
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_it_answers_until_a_signal_and_ends_with_its_number(workdir, number):
    with started(workdir) as (process, address):
        request = urllib.request.Request(f"{address}/predict?k=1", png(0), method="POST")
        with urllib.request.urlopen(request, timeout=60) as reply:
            assert len(json.load(reply)["answers"]) == 1
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 128 + number, errors
        assert "Traceback" not in errors


def test_a_port_in_use_is_refused_before_the_model_is_loaded(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert cli.main(["serve", "--checkpoint", "nothing", "--port", str(port)]) == 2
    assert f"Port {port} of 127.0.0.1 cannot be used" in capsys.readouterr().err


def test_limits_are_checked():
    with pytest.raises(UserError, match=r"queue is 0. Use a number above 0"):
        Limits(queue=0)
    with pytest.raises(UserError, match="max_bytes_held"):
        Limits(max_bytes=2, max_bytes_held=1)
    with pytest.raises(UserError, match="Port 70000 does not exist"):
        server.listen("127.0.0.1", 70_000)


def test_connections_that_send_no_whole_request_are_closed():
    with serving({}, idle_s=0.4, upload_timeout_s=0.3, timeout_s=0.3) as page:
        for sent in (b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: localhost\r\nX: "):
            with socket.create_connection((page.host, page.port), timeout=20) as link:
                link.sendall(sent)
                assert ended(link), sent


def test_a_connection_that_is_used_stays():
    with serving({}, idle_s=0.4) as page:
        connection = http.client.HTTPConnection(page.host, page.port, timeout=20)
        with contextlib.closing(connection):
            for _ in range(15):
                connection.request("GET", "/healthz")
                sock = connection.sock
                assert connection.getresponse().read() == b'{"status":"ok"}'
                assert connection.sock is sock is not None
                time.sleep(0.1)


def ended(link: socket.socket) -> bool:
    try:
        return link.recv(10) == b""
    except ConnectionResetError:
        return True


def test_connections_are_bounded():
    with serving({}, max_connections=4) as page:
        links = [socket.create_connection((page.host, page.port), timeout=20) for _ in range(4)]
        with socket.create_connection((page.host, page.port), timeout=20) as further:
            assert ended(further)
        for link in links:
            link.close()
        for _ in range(200):  # until the server has noticed
            try:
                assert page.get("/healthz").status == 200
                return
            except ConnectionError:
                time.sleep(0.05)
        pytest.fail("the server does not take connections again")
