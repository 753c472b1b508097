import pytest

from tests.helpers.transfers import refuse_as_on_a_gpu


@pytest.fixture(autouse=True)
def _transfers_as_on_a_gpu(monkeypatch):
    """Training runs on GPUs, the tests on CPUs."""
    refuse_as_on_a_gpu(monkeypatch)
