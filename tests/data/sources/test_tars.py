"""Tars as sources: damaged and hostile ones, compressed ones."""

import bz2
import gc
import gzip
import lzma
import tarfile
from pathlib import Path

import pytest

from i21k.data.sources.recognise import open_source
from tests.helpers.packing import PICTURE, encoded, header, photo, records_of, run, tar_of

SPARSE = {
    "GNU.sparse.major": "1",
    "GNU.sparse.minor": "0",
    "GNU.sparse.name": "x",
    "GNU.sparse.realsize": "700",
}


@pytest.mark.parametrize(
    ("inner", "num_read", "reason"),
    [
        (
            header("back.JPEG", -512),
            0,
            "damaged tar: a header of type b'0' with a size of -512 bytes",
        ),
        (
            header("back.JPEG", 0, pax={"size": "-512"}),
            0,
            "damaged tar: a file with a size of -512 bytes",
        ),
        (
            header("a name of a gigabyte", 1 << 30, tarfile.GNUTYPE_LONGNAME),
            0,
            "damaged tar: a header of type b'L' with a size of 1073741824 bytes",
        ),
        (
            header("n", 1, tarfile.GNUTYPE_LONGNAME).ljust(1024, b"n") * 1000,
            0,
            "damaged tar: maximum recursion depth exceeded",
        ),
        (header("x", 700, pax=SPARSE) + b"?" * 1024, 0, "damaged tar: not enough values to unpack"),
        (
            header("x", 700, pax=SPARSE) + b"2\n0\n-99999\n0\n700\n".ljust(1024, b"x"),
            0,
            "damaged tar: data at byte -",
        ),
        (gzip.compress(tar_of(PICTURE))[:3], 0, "damaged tar: Compressed file ended before"),
        (gzip.compress(tar_of(PICTURE))[:-8] + bytes(8), 0, "damaged tar: CRC check failed"),
        (tar_of(PICTURE | {"x" * 70_000: b"x"}), 1, "name too long"),
        (
            tar_of(PICTURE) + tar_of({"b.JPEG": encoded(photo())}),
            1,
            "damaged tar: there is more behind its end mark; another tar?",
        ),
    ],
)
def test_hostile_tars_are_skipped_alone(
    tmp_path: Path, inner: bytes, num_read: int, reason: str
) -> None:
    (tmp_path / "whole.tar").write_bytes(
        tar_of({"n00000001.tar": inner, "n00000002.tar": tar_of(PICTURE)})
    )
    (tmp_path / "tars").mkdir()
    (tmp_path / "tars" / "n00000001.tar").write_bytes(inner)
    (tmp_path / "tars" / "n00000002.tar").write_bytes(tar_of(PICTURE))
    for source in ("whole.tar", "tars"):
        report = run(tmp_path / source, tmp_path / f"out-{source}")
        names = {name for name, _, _ in records_of(tmp_path / f"out-{source}")}
        assert names == {"n00000002/a.JPEG", "n00000001/a.JPEG"} - (
            set() if num_read else {"n00000001/a.JPEG"}
        )
        (row,) = (tmp_path / f"out-{source}" / "skipped-train.tsv").read_text().splitlines()[1:]
        assert row.split("\t")[2].startswith(reason)
        assert report.num_skipped == 1


def test_joined_tars_are_refused_not_halved(whole_tar: Path, tmp_path: Path) -> None:
    (tmp_path / "joined.tar").write_bytes(whole_tar.read_bytes() * 2)
    (tmp_path / "joined.tar.gz").write_bytes(gzip.compress(whole_tar.read_bytes() * 2))
    for name in ("joined.tar", "joined.tar.gz"):
        with pytest.raises(
            ValueError, match=r"joined.tar.* \(there is more behind its end mark; another tar\?\)"
        ):
            run(tmp_path / name, tmp_path / "out")


def test_tar_that_was_compressed_in_pieces(whole_tar: Path, tmp_path: Path) -> None:
    """As bgzip and pbzip2 do."""
    run(whole_tar, tmp_path / "expected")
    content = whole_tar.read_bytes()
    for name, compress in (
        ("whole.tar.gz", gzip.compress),
        ("whole.tar.bz2", bz2.compress),
        ("whole.tar.xz", lzma.compress),
    ):
        (tmp_path / name).write_bytes(compress(content[:9000]) + compress(content[9000:]))
        run(tmp_path / name, tmp_path / f"out-{name}")
        assert records_of(tmp_path / f"out-{name}") == records_of(tmp_path / "expected")


def test_headers_of_a_tar_are_not_kept(tmp_path: Path) -> None:
    def num_headers() -> int:
        gc.collect()
        return sum(isinstance(o, tarfile.TarInfo) for o in gc.get_objects())

    (tmp_path / "a.tar").write_bytes(
        tar_of({"n1.tar": tar_of({f"{i}.JPEG": b"" for i in range(500)})})
    )
    (tmp_path / "b.tar.gz").write_bytes(gzip.compress((tmp_path / "a.tar").read_bytes()))
    before = num_headers()
    for name in ("a.tar", "b.tar.gz"):
        for number, _ in enumerate(open_source(tmp_path / name).members()):
            if number == 499:
                assert num_headers() < before + 20
