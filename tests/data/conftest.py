"""Sources that tests of the packer share."""

from pathlib import Path

import pytest

from i21k.data.pack import plan, read
from i21k.data.pack.engine import LocalEngine
from tests.helpers.packing import CLASS_IDS, encoded, images_of, photo, tar_of


@pytest.fixture
def whole_tar(tmp_path: Path) -> Path:
    """A tar of synset tars."""
    path = tmp_path / "whole.tar"
    path.write_bytes(
        tar_of({f"{class_id}.tar": tar_of(images_of(class_id)) for class_id in CLASS_IDS})
    )
    return path


@pytest.fixture
def class_folders(tmp_path: Path) -> Path:
    """A folder of class folders with the same images."""
    for class_id in CLASS_IDS:
        (tmp_path / "folders" / class_id).mkdir(parents=True)
        for name, content in images_of(class_id).items():
            (tmp_path / "folders" / class_id / name).write_bytes(content)
    return tmp_path / "folders"


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send single images to the workers, spill about three, make slices of about two."""
    monkeypatch.setattr(read, "BATCH_BYTES", 1)
    monkeypatch.setattr(LocalEngine, "_spill_bytes", lambda *_: 3000)
    monkeypatch.setattr(plan, "SLICE_BYTES", 2000)


@pytest.fixture
def duplicated(tmp_path: Path) -> Path:
    """Two classes of five images each: `same` three times, `twin` twice in one class."""
    same, twin = encoded(photo(seed=91)), encoded(photo(seed=92))
    files = {
        "a": {
            "1.jpg": encoded(photo(seed=1)),
            "3.jpg": same,
            "4.jpg": same,
            "5.jpg": encoded(photo(seed=2)),
        },
        "b": {
            "0.jpg": same,
            "6.jpg": twin,
            "7.jpg": twin,
            "8.jpg": b"no image",
            "9.jpg": encoded(photo(seed=3)),
        },
    }
    path = tmp_path / "duplicated.tar"
    path.write_bytes(
        tar_of({f"{class_id}.tar": tar_of(of_class) for class_id, of_class in files.items()})
    )
    return path
