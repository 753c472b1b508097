"""Committing: a split appears when it is complete, and other directories are not touched."""

import errno
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from i21k.data.format.manifest import Manifest
from i21k.data.format.splits import split_names
from i21k.data.format.tfds import write_metadata
from i21k.data.pack import commit, spill
from i21k.data.pack.pack import PackOptions, pack
from i21k.data.pack.work_directory import WorkDirectory
from tests.helpers.packing import content_of, make_foreign, records_of, run


def test_damaged_split_is_not_taken_for_complete(whole_tar: Path, tmp_path: Path) -> None:
    run(whole_tar, tmp_path / "out")
    next((tmp_path / "out").glob("*array_record*")).write_bytes(b"")
    with pytest.raises(ValueError, match=r"00000-of-00001 has 0 bytes; expected \d+ bytes"):
        run(whole_tar, tmp_path / "out")


def test_outputs_that_do_not_do(whole_tar: Path, class_folders: Path, tmp_path: Path) -> None:
    make_foreign(tmp_path / "foreign")
    with pytest.raises(
        ValueError,
        match=r"foreign holds thesis.txt, which `i21k pack` did not write; expected an empty "
        r"directory",
    ):
        run(whole_tar, tmp_path / "foreign")
    assert content_of(tmp_path / "foreign") == {"thesis.txt": b"mine"}
    with pytest.raises(
        ValueError, match=r"whole.tar is a file; expected a directory. Change --out"
    ):
        run(class_folders, whole_tar)
    with pytest.raises(ValueError, match=r"is inside the folder of the source, .*\. Change --out"):
        run(class_folders, class_folders / "out")
    with pytest.raises(
        ValueError,
        match=r"Packing into .* failed: .*Not a directory.*. Give "
        r"the same",
    ):
        run(class_folders, whole_tar / "below")


def test_failure_before_anything_is_complete_leaves_nothing(
    whole_tar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, records: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(spill, "write_records", full)
    with pytest.raises(ValueError, match=r"\[Errno 28\]"):
        run(whole_tar, tmp_path / "new" / "out")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("first_split", [True, False])
@pytest.mark.parametrize("failing", ["write_metadata", "write"])
def test_failure_at_the_very_end_is_undone(
    whole_tar: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    first_split: bool,
    failing: str,
) -> None:
    def seen(directory: Path) -> dict[str, bytes]:
        return (
            {
                path.name: path.read_bytes()
                for path in sorted(directory.iterdir())
                if path.name != ".packing"
            }
            if directory.exists()
            else {}
        )

    out = tmp_path / "out"
    if not first_split:
        run(whole_tar, out)
    before = seen(out)
    run(whole_tar, tmp_path / "expected", split="other")
    calls = iter([KeyboardInterrupt])
    real = write_metadata

    def interrupted(*arguments: Any, **options: Any) -> None:
        for error in calls:
            raise error
        real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(
            *((commit, "write_metadata") if failing == "write_metadata" else (Manifest, "write")),
            interrupted,
        )
        with pytest.raises(KeyboardInterrupt):
            run(whole_tar, out, split="other")
    assert seen(out) == before
    run(whole_tar, out, split="other")
    assert records_of(out, "other") == records_of(tmp_path / "expected", "other")
    assert split_names(out) == (("other",) if first_split else ("other", "train"))


@pytest.mark.parametrize("first_split", [True, False])
def test_signal_behind_the_last_step_undoes_nothing(
    whole_tar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first_split: bool
) -> None:
    out, write = tmp_path / "out", Manifest.write
    for directory in (tmp_path / "expected", out):
        if not first_split:
            run(whole_tar, directory, split="other")
    run(whole_tar, tmp_path / "expected")

    def interrupted(manifest: Manifest, directory: Path) -> None:
        write(manifest, directory)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Manifest, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(whole_tar, out)
    assert run(whole_tar, out).already_complete
    assert content_of(out) == content_of(tmp_path / "expected")


def test_what_a_split_was_made_of_stays_unless_that_is_whole(
    whole_tar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(WorkDirectory, "remove", lambda work: None)
        run(whole_tar, out)
    (shard,) = out.glob("*.array_record-*")
    shard.rename(out / ".packing" / shard.name)
    with pytest.raises(ValueError, match=re.escape(shard.name)):
        run(whole_tar, out)
    assert (out / ".packing" / shard.name).exists()


def test_directory_of_others_is_not_touched(whole_tar: Path, tmp_path: Path) -> None:
    theirs = [
        tmp_path / "out" / name / "file"
        for name in (".i21k-venv", ".i21k-abc_de12", ".packing-removed", "zoo")
    ]
    for file in theirs:
        file.parent.mkdir(parents=True)
        file.touch()
    for number in (0, 3):
        with pytest.raises(
            ValueError,
            match=f"holds {theirs[number].parent.name}, which `i21k pack` did not write",
        ):
            run(whole_tar, tmp_path / "out")
        assert all(file.exists() for file in theirs[number:])
        shutil.rmtree(theirs[number].parent)
    run(whole_tar, tmp_path / "out")
    assert not any(file.parent.exists() for file in theirs)


def test_two_packers_do_not_mix(whole_tar: Path, tmp_path: Path) -> None:
    seen = []

    def second_run(progress: object) -> None:
        if not seen:
            seen.append(progress)
            with pytest.raises(
                ValueError,
                match=r"Another process packs into .*out. Wait for its end, or change --out",
            ):
                run(whole_tar, tmp_path / "out", split="val")

    pack(whole_tar, tmp_path / "out", PackOptions(), num_workers=1, on_progress=second_run)
    assert seen and split_names(tmp_path / "out") == ("train",)


def test_directory_that_cannot_be_locked_is_refused(
    whole_tar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(
        ValueError,
        match=r"Output directory .*out cannot be locked \(No locks available\). Choose an "
        r"--out on a file system",
    ):
        run(whole_tar, tmp_path / "out")
    assert not (tmp_path / "out").exists()
