"""The packer writes the same bytes as version one did, from the same source and options."""

import hashlib
import importlib.metadata
import json
import tarfile
from pathlib import Path

import pytest

from i21k.data.pack.pack import PackOptions, pack
from tests.helpers.paths import FIXTURES

with tarfile.open(FIXTURES / "version1.tar.xz") as fixture:
    _GOLDEN = json.load(fixture.extractfile("golden.json"))  # type: ignore[arg-type]


@pytest.mark.parametrize("case", sorted(_GOLDEN["cases"]))
@pytest.mark.parametrize("num_workers", [1, 2])
def test_shards_have_the_bytes_of_version_one(case: str, num_workers: int, tmp_path: Path) -> None:
    versions = {name: importlib.metadata.version(name) for name in _GOLDEN["versions"]}
    if case == "recode" and versions != _GOLDEN["versions"]:
        pytest.skip(f"resampling and encoding differ between versions: {versions}")
    with tarfile.open(FIXTURES / "version1.tar.xz") as fixture:
        fixture.extract("source.tar", tmp_path, filter="data")
    golden = _GOLDEN["cases"][case]
    options = PackOptions(name="tiny", **golden["options"])
    pack(tmp_path / "source.tar", tmp_path / "out", options, num_workers=num_workers)
    written = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (tmp_path / "out").glob("*.array_record-*")
    }
    assert written == golden["sha256"]
