"""What is wrong with the coordinator's port is said before JAX crashes."""

import socket
import subprocess
import sys

import pytest

from i21k.errors import UserError
from i21k.train.place import Place
from i21k.train.watch import check_port
from tests.helpers.paths import ROOT


@pytest.fixture(params=[socket.AF_INET, socket.AF_INET6])
def used(request):
    with socket.socket(request.param) as listening:
        listening.bind(("127.0.0.1" if request.param == socket.AF_INET else "::1", 0))
        listening.listen()
        yield listening.getsockname()[1]


def test_a_port_in_use_is_named(used):
    with pytest.raises(
        UserError, match=rf"port {used} of the coordinator cannot be used \(Address"
    ):
        check_port(Place(f"127.0.0.1:{used}", 2, 0, "all"))
    check_port(Place(f"127.0.0.1:{used}", 2, 1, "all"))  # process 1 connects to it
    check_port(Place(None, None, None, "all"))


def test_a_free_port_is_fine():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    check_port(Place(f"127.0.0.1:{port}", 2, 0, "all"))
    with pytest.raises(UserError, match="expected a port up to 65535"):
        check_port(Place("127.0.0.1:70000", 2, 1, "all"))


def test_a_run_with_a_port_in_use_ends_with_a_sentence(used, tmp_path):
    command = [sys.executable, "launch.py", "--config", "configs/quickstart.py"]
    command += [f"--coordinator=127.0.0.1:{used}", "--num-processes=2", "--process-id=0"]
    done = subprocess.run(
        [*command, f"--workdir={tmp_path / 'w'}"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2 and f"port {used}" in done.stderr, done
    assert len(done.stderr.splitlines()) == 1
