"""Reading: every file is accounted for, and the free space is checked."""

import io
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from i21k.data.format import shards
from i21k.data.pack import engine, read, spill
from i21k.data.pack.pack import PackOptions, pack
from i21k.data.pack.report import Progress
from tests.helpers.packing import (
    CLASS_IDS,
    PICTURE,
    content_of,
    encoded,
    photo,
    records_of,
    run,
    tar_of,
)


def test_what_cannot_be_read_is_skipped_with_its_reason(tmp_path: Path) -> None:
    good = encoded(photo())
    damaged = bytearray(good)
    damaged[damaged.index(b"\xff\xda") + 20 :] = b"\xff\xd8" * 50
    huge = bytearray(encoded(photo(), quality=50))
    at = huge.index(b"\xff\xc0") + 5
    huge[at : at + 4] = b"\xea\x60\xea\x60"  # the header promises 60,000 x 60,000 px
    large = bytearray(huge)
    large[at : at + 4] = b"\x1f\x40\x27\x10"  # 10,000 x 8,000 px
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w") as tar:
        for name, content in {
            "good.JPEG": good,
            "cut.JPEG": good[:-20],
            "early.JPEG": good[:100],
            "damaged.JPEG": bytes(damaged),
            "empty.JPEG": b"",
            "page.JPEG": b"<html>404</html>",
            "huge.JPEG": bytes(huge),
            "large.JPEG": bytes(large),
            "/absolute.JPEG": good,
            "a/../../up.JPEG": good,
            "tab\tin name.txt": b"x",
        }.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for name, kind in (
            ("link.JPEG", tarfile.SYMTYPE),
            ("device.JPEG", tarfile.CHRTYPE),
            ("folder", tarfile.DIRTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    one = tar_of({"one.JPEG": good}).rstrip(b"\0")
    one += bytes(-len(one) % 512)
    inner_tars = [inner.getvalue(), inner.getvalue()[:1000], b"?" * 600, one, one + b"?" * 1024]
    whole = tar_of(
        {f"n0000000{i}.tar": content for i, content in enumerate(inner_tars, 1)}
        | {"notes.txt": b"hi"}
    )
    (tmp_path / "whole.tar").write_bytes(whole)
    report = run(tmp_path / "whole.tar", tmp_path / "out")
    names = sorted(name for name, _, _ in records_of(tmp_path / "out"))
    assert names == ["n00000001/good.JPEG", "n00000004/one.JPEG", "n00000005/one.JPEG"]
    rows = [
        line.split("\t")
        for line in (tmp_path / "out" / "skipped-train.tsv").read_text().splitlines()
    ]
    assert rows[0] == ["source", "member", "reason"] and all(len(row) == 3 for row in rows)
    reasons = {(source, member): reason for source, member, reason in rows[1:]}
    kinds = {
        member: reason.partition(":")[0]
        for (source, member), reason in reasons.items()
        if source == "n00000001.tar"
    }
    assert kinds == {
        "cut.JPEG": "damaged image",
        "early.JPEG": "damaged image",
        "damaged.JPEG": "damaged image",
        "empty.JPEG": "empty file",
        "page.JPEG": "not an image, but a HTML page",
        "huge.JPEG": "too many pixels",
        "large.JPEG": "too many pixels",
        "/absolute.JPEG": "unsafe name",
        "a/../../up.JPEG": "unsafe name",
        "tab in name.txt": "no image by its name",
        "link.JPEG": "symbolic link in a tar",
        "device.JPEG": "not a regular file",
    }
    assert all(reasons[(f"n0000000{i}.tar", "")].startswith("damaged tar: ") for i in (2, 3, 4, 5))
    assert reasons[("n00000001.tar", "large.JPEG")] == "too many pixels: 10000 x 8000"
    assert reasons[("whole.tar", "notes.txt")] == "not in a synset tar"
    assert report.num_read == report.num_written + report.num_skipped == 20
    assert sum(report.skipped.values()) == report.num_skipped == len(rows) - 1


def test_too_little_room_is_refused_before_it_is_filled(
    whole_tar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read, "BATCH_BYTES", 1)
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6 - 1000, 1000)
    )
    with pytest.raises(
        ValueError,
        match=r"has 0\.0 MB free; packing needs about [\d.]+ MB more, twice the size of the "
        r"result. Free some space",
    ):
        run(whole_tar, tmp_path / "new" / "out")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("num_workers", [1, 2])
def test_room_is_judged_by_what_has_a_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_workers: int
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (100, 150, 3), np.uint8)
    names = {f"{i:04d}.JPEG": encoded(Image.fromarray(noise), quality=95) for i in range(300)}
    (tmp_path / "whole.tar").write_bytes(tar_of({f"{CLASS_IDS[0]}.tar": tar_of(names)}))
    asked: list[int] = []
    monkeypatch.setattr(
        engine, "check_free_space", lambda directory, num_bytes: asked.append(num_bytes)
    )
    monkeypatch.setattr(
        read, "BATCH_BYTES", 100_000
    )  # 16 of them are under way in two workers, a sixth of the source
    pack(
        tmp_path / "whole.tar",
        tmp_path / "out",
        PackOptions(short_side=50),
        num_workers=num_workers,
    )
    assert len(asked) == 1
    in_shards = sum(len(image) for _, _, image in records_of(tmp_path / "out", "train"))
    assert 0.9 < asked[0] / (2 * in_shards) < 1.1


def test_source_that_goes_away_is_no_fault_of_its_images(
    whole_tar: Path, tmp_path: Path, small_steps: None
) -> None:
    def take_away(progress: Progress) -> None:
        if progress.num_images == 9:
            whole_tar.rename(tmp_path / "elsewhere")

    with pytest.raises(
        ValueError,
        match=r"n\d+.tar, .* can no longer be read \(No such file or directory\). Give the "
        r"same command again",
    ):
        pack(whole_tar, tmp_path / "out", PackOptions(), num_workers=1, on_progress=take_away)
    (tmp_path / "elsewhere").rename(whole_tar)
    assert run(whole_tar, tmp_path / "out").resumed_after > 0
    run(whole_tar, tmp_path / "expected")
    assert content_of(tmp_path / "out") == content_of(tmp_path / "expected")


def test_files_that_are_noted_as_skipped_do_not_fill_memory(
    tmp_path: Path, small_steps: None
) -> None:
    (tmp_path / "whole.tar").write_bytes(
        tar_of({"n1.tar": tar_of({f"{i}.dat": b"x" for i in range(50)} | PICTURE)})
    )
    most = 0

    def look(progress: Progress) -> None:
        nonlocal most
        complete = (tmp_path / "out" / ".packing").glob("spill-*.npz")
        most = max(most, *(len(spill.SpillFile(path).skipped()) for path in complete), 0)

    report = pack(
        tmp_path / "whole.tar", tmp_path / "out", PackOptions(), num_workers=1, on_progress=look
    )
    assert report.skipped == {"not an image": 50} and 0 < most <= 11
    assert len((tmp_path / "out" / "skipped-train.tsv").read_text().splitlines()) == 51


def test_two_writers_of_one_file_do_no_harm(tmp_path: Path) -> None:
    """As an engine does that takes a worker for dead."""
    record = spill.Record(1, 1, "n1", "a", b"jpeg")

    def slow() -> Iterator[spill.Record]:
        spill.write_records(
            tmp_path / "spill-1.records", [record]
        )  # the other one, in the meantime
        assert list(spill.read_records(tmp_path / "spill-1.records")) == [record]
        yield record
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        spill.write_records(tmp_path / "spill-1.records", slow())
    assert list(spill.read_records(tmp_path / "spill-1.records")) == [record]

    def slow_shard() -> Iterator[bytes]:
        shards.write_shard(tmp_path / "shard", [b"record"])
        yield b"record"

    assert shards.write_shard(tmp_path / "shard", slow_shard()).num_records == 1
    assert {path.name for path in tmp_path.iterdir()} == {"spill-1.records", "shard"}
