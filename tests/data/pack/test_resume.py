"""An interrupted packing resumes and ends in the same bytes."""

import collections
import contextlib
import gzip
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from i21k.data.format import shards
from i21k.data.format.manifest import read_manifest
from i21k.data.pack import commit, recoding, spill
from i21k.data.pack.pack import PackOptions, pack
from i21k.data.pack.report import Progress
from i21k.data.pack.work_directory import WorkDirectory
from i21k.labels import ClassList
from tests.helpers.packing import (
    ALL_OPTIONS,
    CLASS_IDS,
    content_of,
    encoded,
    images_of,
    interrupt_after,
    run,
    tar_of,
)


@pytest.mark.parametrize("layout", ["tar", "gzipped tar", "folder", "folder of tars", "labelled"])
def test_packing_resumes_wherever_it_was_stopped(
    layout: str,
    whole_tar: Path,
    class_folders: Path,
    tmp_path: Path,
    small_steps: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stop after the first, the second, ... progress that is told, and between any two shards, each
    time going on with what is left."""
    source, options = {"tar": whole_tar}.get(layout, class_folders), dict(ALL_OPTIONS)
    if layout == "gzipped tar":
        source = tmp_path / "whole.tar.gz"
        source.write_bytes(gzip.compress(whole_tar.read_bytes()))
    elif layout == "folder of tars":
        source = tmp_path / "tars"
        source.mkdir()
        for class_id in CLASS_IDS:
            (source / f"{class_id}.tar").write_bytes(tar_of(images_of(class_id)))
    elif layout == "labelled":
        table = tmp_path / "table.tsv"
        table.write_text(
            "".join(
                f"{name}\t{class_id}\n" for class_id in CLASS_IDS for name in images_of(class_id)
            )
        )
        options["labels"] = str(table)
    run(source, tmp_path / "expected", **options)
    out = tmp_path / "out"
    read_again, num_stops, resumed = collections.Counter[str](), 0, [0]
    real_recode = recoding.recode_batch

    def recode_batch(batch: list[Any], **keywords: Any) -> list[Any]:
        read_again.update(member.file_name for member in batch)
        return real_recode(batch, **keywords)

    monkeypatch.setattr(recoding, "recode_batch", recode_batch)
    while num_stops < 60:
        left = 4 if num_stops % 2 else 6  # steps that this attempt may take: more than a run needs

        def stop(progress: Progress) -> None:
            nonlocal left
            left -= progress.phase != "planning"  # which begins anew
            if left == 0:
                raise KeyboardInterrupt

        try:
            report = pack(source, out, PackOptions(**options), num_workers=1, on_progress=stop)
            break
        except KeyboardInterrupt:
            num_stops += 1
            assert read_manifest(out) is None and not list(out.glob("*array_record*"))
            resumed.append(sum(r.about.num_read for r in spill.find(out / ".packing")))
    assert num_stops > 3 and resumed == sorted(resumed) and report.resumed_after == 18
    assert content_of(out) == content_of(tmp_path / "expected")
    assert max(read_again.values()) <= 4  # what lay in no complete run yet, not what did


def test_unfinished_packing_is_told_from_another(
    whole_tar: Path, class_folders: Path, tmp_path: Path, small_steps: None
) -> None:
    out = tmp_path / "out"

    def begin() -> None:
        with pytest.raises(KeyboardInterrupt):
            pack(whole_tar, out, PackOptions(), num_workers=1, on_progress=interrupt_after(10))

    begin()
    before = {path.name for path in (out / ".packing").iterdir()}
    for source, options, message in (
        (
            whole_tar,
            {"short_side": 20},
            r"unfinished packing with short_side 256; got 20. Use the same to finish it, or "
            r"remove .*\.packing",
        ),
        (whole_tar, {"min_side": 20}, r"unfinished packing with min_side 0; got 20"),
        (class_folders, {}, r"unfinished packing with source(_bytes|_files)? "),
    ):
        with pytest.raises(ValueError, match=message):
            run(source, out, **options)
    with pytest.raises(
        ValueError, match=r"unfinished packing with classes None; got '[0-9a-f]+ given'"
    ):
        run(whole_tar, out, ClassList(CLASS_IDS))
    assert {path.name for path in (out / ".packing").iterdir()} == before
    os.utime(whole_tar)  # copied, say
    with pytest.MonkeyPatch.context() as patch:  # as long as the other, but another
        swapped = {
            f"{class_id}.tar": tar_of(images_of(class_id)) for class_id in reversed(CLASS_IDS)
        }
        patch.setattr(
            Path,
            "open",
            lambda path, *a, real=Path.open, **k: (
                io.BytesIO(tar_of(swapped)) if path == whole_tar else real(path, *a, **k)
            ),
        )
        with pytest.raises(
            ValueError, match=r"unfinished packing of this source, whose files have changed since"
        ):
            run(whole_tar, out)
    # What is decided after reading may change: the images are not read again.
    run(whole_tar, tmp_path / "expected", num_shards=2, val_per_class=1)
    report = run(whole_tar, out, num_shards=2, val_per_class=1)
    assert 0 < report.resumed_after < 18
    assert content_of(out) == content_of(tmp_path / "expected")


def test_full_disk_is_explained_and_resumed(
    whole_tar: Path, tmp_path: Path, small_steps: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(whole_tar, tmp_path / "expected")
    for function, num_good in (("write_records", 2), ("write_whole", 4)):
        real, calls = getattr(spill, function), iter(range(num_good))

        def full(path: Path, content: Any, real: Any = real, calls: Iterator[int] = calls) -> Any:
            if next(calls, None) is None:
                path.with_name(
                    path.name + ("" if path.suffix == ".records" else ".tmp")
                ).write_bytes(b"half")
                raise OSError(28, "No space left on device")
            return real(path, content)

        with monkeypatch.context() as patch:
            patch.setattr(spill, function, full)
            with pytest.raises(
                ValueError,
                match=r"failed: \[Errno 28\] No space left on device. Free some space there",
            ):
                run(whole_tar, tmp_path / "out")
    real_write = shards.write_shard

    def full_shard(path: Path, records: Iterator[bytes]) -> shards.Shard:
        real_write(path, records)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shards, "write_shard", full_shard)
        with pytest.raises(ValueError, match=r"\[Errno 28\]"):
            run(whole_tar, tmp_path / "out")
    assert run(whole_tar, tmp_path / "out").resumed_after == 18
    assert content_of(tmp_path / "out") == content_of(tmp_path / "expected")


def test_packing_after_one_killed_while_it_moved_its_shards(
    whole_tar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(whole_tar, tmp_path / "expected", num_shards=4)
    run(whole_tar, tmp_path / "fewer", num_shards=2)
    for num_shards, expected in (
        (4, "expected"),
        (2, "fewer"),
    ):  # the same command, and one that leaves nothing of the old shards
        out = tmp_path / f"out-{num_shards}"
        with monkeypatch.context() as patch:
            patch.setattr(
                commit, "commit", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt)
            )
            with pytest.raises(KeyboardInterrupt):
                run(whole_tar, out, num_shards=4)
        for path in sorted((out / ".packing").glob("imagenet21k-*"))[:2]:
            path.rename(out / path.name)
        assert run(whole_tar, out, num_shards=num_shards).resumed_after == 18
        assert content_of(out) == content_of(tmp_path / expected)


@pytest.mark.parametrize("is_renamed", [False, True])
def test_packing_after_one_killed_while_it_cleaned_up(
    whole_tar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_renamed: bool
) -> None:
    rmtree = shutil.rmtree

    def killed(path: Path, **options: Any) -> None:
        if not Path(path).name.startswith(".packing"):
            rmtree(path, **options)
        elif path.exists():
            raise KeyboardInterrupt

    out = tmp_path / "out"
    expected = run(whole_tar, tmp_path / "expected")
    with monkeypatch.context() as patch:
        if is_renamed:
            patch.setattr(shutil, "rmtree", killed)
        else:
            patch.setattr(WorkDirectory, "remove", lambda work: killed(work.path))
        with pytest.raises(KeyboardInterrupt):
            run(whole_tar, out)
    assert (out / ".packing-removed").exists() == is_renamed
    report = run(whole_tar, out)
    assert (report.already_complete, report.splits) == (True, expected.splits)
    assert content_of(out) == content_of(tmp_path / "expected")


def test_kill_between_any_two_changes_of_the_directory(
    whole_tar: Path, tmp_path: Path, small_steps: None
) -> None:
    """A copy of the directory before each step that changes it is what a kill leaves; the same
    command goes on, another one too."""
    out, num_copies, seen, options = (
        tmp_path / "out",
        0,
        None,
        {"num_shards": 2, "val_per_class": 1, "split": "train"},
    )
    steps = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"}
    watched = True

    def watch(event: str, arguments: tuple[Any, ...]) -> None:  # cannot be taken away again
        nonlocal num_copies, seen, watched
        if watched and event in steps and str(out) in str(arguments[0]):
            watched = False  # not while it is copied
            there = sorted((str(path), path.lstat().st_size) for path in out.rglob("*"))
            if there and there != seen:
                shutil.copytree(out, tmp_path / f"killed-{num_copies}")
                num_copies, seen = num_copies + 1, there
            watched = True

    run(whole_tar, tmp_path / "expected", **options)
    run(whole_tar, tmp_path / "other", split="other")
    sys.addaudithook(watch)
    run(whole_tar, out, **options)
    watched = False
    for number in range(num_copies):
        killed = tmp_path / f"killed-{number}"
        if number % 2 and not (killed / "manifest.json").exists():
            shutil.copytree(killed, tmp_path / "changed")
            run(whole_tar, tmp_path / "changed", split="other")
            assert content_of(tmp_path / "changed") == content_of(tmp_path / "other")
            shutil.rmtree(tmp_path / "changed")
        run(whole_tar, killed, **options)
        assert content_of(killed) == content_of(tmp_path / "expected")
    assert num_copies > 30


KILLED = """if True:
    import sys
    from i21k import cli
    from i21k.data.pack.engine import LocalEngine
    from i21k.data.pack import read
    read.BATCH_BYTES, LocalEngine._spill_bytes = 20_000, lambda *_: 200_000
    sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_twenty_kills_at_random_moments_change_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    source = tmp_path / "whole.tar"
    noise = [
        encoded(Image.fromarray(rng.integers(0, 256, (300, 300, 3), np.uint8)), quality=80)
        for _ in range(20)
    ]
    names = [[f"{class_id}_{i}.JPEG" for i in range(120)] for class_id in CLASS_IDS]
    source.write_bytes(
        tar_of(
            {
                f"{c}.tar": tar_of({name: noise[i % 20] for i, name in enumerate(of)})
                for c, of in zip(CLASS_IDS, names, strict=True)
            }
        )
    )
    arguments = [
        "pack",
        str(source),
        "--short-side",
        "100",
        "--num-shards",
        "6",
        "--val-per-class",
        "5",
        "--workers",
        "1",
    ]

    def attempt(out: Path, kill_after_s: float) -> bool:
        """Return whether it came to its end."""
        with subprocess.Popen(
            [sys.executable, "-c", KILLED, *arguments, "--out", str(out)],
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(kill_after_s)
            process.kill()
            _, errors = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), errors
        return process.returncode == 0

    began = time.monotonic()
    assert attempt(tmp_path / "expected", 60)
    duration_s = time.monotonic() - began
    num_kills = 0
    while num_kills < 20:
        if attempt(
            tmp_path / "out", rng.uniform(0.3, 1) * duration_s
        ):  # it got through: begin again, kills are wanted
            assert content_of(tmp_path / "out") == content_of(tmp_path / "expected")
            shutil.rmtree(tmp_path / "out")
        else:
            num_kills += 1
    assert attempt(tmp_path / "out", 60)
    assert content_of(tmp_path / "out") == content_of(tmp_path / "expected")
    report = read_manifest(tmp_path / "out").splits["train"].counts  # type: ignore[union-attr]
    assert report["read"] == 360 == report["written"] + sum(report["dropped"].values())
