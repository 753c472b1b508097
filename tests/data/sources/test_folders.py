"""Folders as sources."""

import os
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.packing import CLASS_IDS, encoded, photo, records_of, run


def test_folder_that_cannot_be_listed_is_refused(
    class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.scandir

    def scandir(path: Any) -> Any:
        if Path(path).name == CLASS_IDS[1]:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(
        ValueError,
        match=r"folders cannot be read \(\[Errno 13\] Permission denied: '.*n00000002'\)",
    ):
        run(class_folders, tmp_path / "out")


def test_folder_members_that_are_no_files_are_skipped(class_folders: Path, tmp_path: Path) -> None:
    os.mkfifo(class_folders / CLASS_IDS[0] / "pipe.JPEG")
    (class_folders / CLASS_IDS[0] / "linked_folder").symlink_to(class_folders / CLASS_IDS[1])
    (class_folders / CLASS_IDS[0] / "broken.JPEG").symlink_to("nowhere")
    (class_folders / CLASS_IDS[0] / "deeper").mkdir()
    (class_folders / CLASS_IDS[0] / "deeper" / "linked.JPEG").symlink_to(
        class_folders / CLASS_IDS[1] / f"{CLASS_IDS[1]}_0.JPEG"
    )
    (class_folders / "stray.JPEG").write_bytes(encoded(photo()))
    (class_folders / ".hidden").mkdir()
    report = run(class_folders, tmp_path / "out")
    assert report.skipped == {
        "not a regular file": 1,
        "symbolic link to a folder": 1,
        "not in a class folder or synset tar": 1,
        "unreadable file": 1,
    }
    assert "n00000001/deeper/linked.JPEG" in {name for name, _, _ in records_of(tmp_path / "out")}
    assert report.num_classes == 3
