"""Tars and zips: file names that look like formats, hard links, damaged files, counts of files."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from pathlib import Path

import pytest

from i21k.data.sources import tar_reader, tars
from i21k.data.sources.recognise import open_source, recognise
from i21k.data.sources.tables import Labels
from i21k.errors import UserError
from tests.data.sources.test_ambiguous import files
from tests.data.sources.test_layouts import image, names, write, zip_of
from tests.helpers.packing import run, tar_of

# Folders whose names begin as files of other formats do.
MAGICS = ("BMW", "PKW", "GIF89", "RIFFS", "Rar!", "BZh", "BZhang", "PAR1", "II")
COMPRESSORS = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


@pytest.mark.parametrize("magic", MAGICS)
@pytest.mark.parametrize("tar_format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, "V7"])
def test_first_name_of_a_tar_is_no_magic_number(
    tmp_path: Path, magic: str, tar_format: int | str
) -> None:
    content = tar_of(files(f"{magic}/1.jpg", "zebra/2.jpg"))
    if tar_format == "V7":  # has no `ustar` either
        content = as_v7(content)
    for suffix, compress in COMPRESSORS.items():
        source = tmp_path / f"cars.tar{suffix}"
        source.write_bytes(compress(content))
        assert open_source(source).list_class_ids() == (magic, "zebra")
    run(tmp_path / "cars.tar", tmp_path / "out")
    assert names(tmp_path / "out") == {f"{magic}/1.jpg", "zebra/2.jpg"}
    (tmp_path / "n00000001.tar").write_bytes(content)
    (tmp_path / "outer.tar").write_bytes(tar_of({f"{magic}.tar": content, "zebra.tar": content}))
    run(tmp_path / "outer.tar", tmp_path / "inner")
    assert f"{magic}/{magic}/1.jpg" in names(tmp_path / "inner")


def as_v7(content: bytes) -> bytes:
    """Return a tar as the tar of Unix version 7 wrote it, which has no magic number at all."""
    made = bytearray(content)
    for at in range(0, len(made), 512):
        if made[at + 257 : at + 262] == b"ustar":
            made[at + 257 : at + 512] = bytes(255)
            made[at + 148 : at + 156] = b" " * 8
            made[at + 148 : at + 156] = b"%06o\0 " % sum(made[at : at + 512])
    return bytes(made)


def test_damaged_tar_is_not_taken_for_an_image_or_zip(tmp_path: Path) -> None:
    for magic in ("BMW", "PKW"):
        content = bytearray(tar_of(files(f"{magic}/1.jpg")))
        content[150] ^= 1  # of the checksum
        (tmp_path / "cars.tar").write_bytes(content)
        with pytest.raises(UserError, match=r"cars.tar is no tar or not a complete one"):
            run(tmp_path / "cars.tar", tmp_path / "out")


def test_other_formats_are_still_refused(tmp_path: Path) -> None:
    for content, message in (
        (image(1, "BMP"), "is one image"),
        (b"PK\3\4" + bytes(600), "is no complete zip"),
        (b"Rar!" + bytes(600), "is a RAR archive"),
    ):
        (tmp_path / "file").write_bytes(content)
        with pytest.raises(UserError, match=message):
            run(tmp_path / "file", tmp_path / "out")


def test_tar_that_ends_with_a_zip_is_a_tar(tmp_path: Path) -> None:
    found = files("a.jpg", "b.jpg")
    (tmp_path / "a.tar").write_bytes(tar_of(found | {"z.zip": zip_of(files("c.jpg"))}))
    write(tmp_path, {"labels.csv": b"a.jpg,cat\nb.jpg,dog\nc.jpg,dog\n"})
    run(tmp_path / "a.tar", tmp_path / "out", labels=str(tmp_path / "labels.csv"))
    assert names(tmp_path / "out") == {"cat/a.jpg", "dog/b.jpg"}


def tar_of_links(links: dict[str, str], found: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO(tar_of(found))
    with tarfile.open(fileobj=buffer, mode="a") as tar:
        for name, target in links.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.LNKTYPE, target
            tar.addfile(info)
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_hard_links_to_files_that_are_not_packed(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = 100_000
    for module in (tar_reader, tars):
        monkeypatch.setattr(module, "MAX_FILE_BYTES", large)
    found = files(".store/a", "@eaDir/b", "other/c") | {".store/large": bytes(large + 1)}
    links = {"cat/1.jpg": ".store/a", "dog/2.jpg": "./@eaDir/b", "dog/3.jpg": "other/c"}
    links |= {"cat/large.jpg": ".store/large", "cat/.4.jpg": ".store/a", "cat/5.jpg": "nowhere"}
    source = tmp_path / f"h.tar{suffix}"
    source.write_bytes(COMPRESSORS[suffix](tar_of_links(links, found)))
    members = {member.name: member for member in open_source(source).members()}
    contents = {name: member.content() for name, member in members.items() if not member.skipped}
    assert contents == {
        "1.jpg": found[".store/a"],
        "2.jpg": found["@eaDir/b"],
        "3.jpg": found["other/c"],
        "c": found["other/c"],
    }
    assert members["cat/large.jpg"].skipped == "file larger than 128 MiB"
    assert members["cat/.4.jpg"].skipped == "ignored system file"
    assert members["cat/5.jpg"].skipped.startswith("hard link ")


def test_too_large_files_behind_hard_links_of_a_synset_tar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tar_reader, "MAX_FILE_BYTES", 100_000)
    inner = tar_of_links({"1.jpg": ".a"}, {".a": bytes(100_001)})
    (tmp_path / "s.tar").write_bytes(tar_of({"n00000001.tar": inner}))
    reasons = {m.name: m.skipped for m in open_source(tmp_path / "s.tar").members()}
    assert reasons["1.jpg"] == "file larger than 128 MiB"


COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_damage_of_a_file_in_a_zip_is_one_skipped_file(tmp_path: Path, compression: int) -> None:
    with zipfile.ZipFile(tmp_path / "whole.zip", "w", compression) as archive:
        for name, content in files("cat/1.jpg", "cat/2.jpg", "dog/3.jpg").items():
            archive.writestr(name, content)
    with zipfile.ZipFile(tmp_path / "whole.zip") as archive:
        info = archive.getinfo("cat/2.jpg")
    begin = info.header_offset + 30 + len("cat/2.jpg")
    middle = begin + info.compress_size // 2
    whole = (tmp_path / "whole.zip").read_bytes()
    in_directory = whole.index(b"PK\1\2", whole.index(b"PK\1\2") + 1)
    damages = {at: bytes([whole[at] ^ 0xFF]) for at in range(info.header_offset, begin + 12)}
    damages |= {middle: bytes([whole[middle] ^ 0xFF])}
    damages |= {in_directory + 42: (len(whole) - 9).to_bytes(4, "little")}  # where the file begins
    for at, damage in damages.items():
        (tmp_path / "a.zip").write_bytes(whole[:at] + damage + whole[at + len(damage) :])
        members = list(open_source(tmp_path / "a.zip").members())
        assert [m.name for m in members] == ["1.jpg", "2.jpg", "3.jpg"]
        assert not members[0].skipped and not members[2].skipped
        reason = members[1].skipped
        assert reason.startswith(("damaged file in a zip", "encrypted") if reason else ""), at
        assert reason or at not in (info.header_offset, middle, in_directory + 42)


def test_file_without_a_name_in_a_zip_is_skipped(tmp_path: Path) -> None:
    content = zip_of(files("cat/1.jpg", "dog/2.jpg") | {"?/x.jpg": b"x"})
    (tmp_path / "a.zip").write_bytes(content.replace(b"?/x.jpg", b"\0/x.jpg"))
    report = run(tmp_path / "a.zip", tmp_path / "out")
    assert report.skipped == {"unsafe name": 1} and report.num_written == 2


def test_damaged_table_in_a_zip_is_refused(tmp_path: Path) -> None:
    table = b"ImageId,PredictionString\nILSVRC2012_val_00000001,n01751748 1 2 3 4\n"
    found = files("train/n01751748/1.JPEG", "val/ILSVRC2012_val_00000001.JPEG")
    content = zip_of(found | {"LOC_val_solution.csv": table})
    (tmp_path / "kaggle.zip").write_bytes(content.replace(table, table[:-1] + b"?"))
    with pytest.raises(UserError, match=r"has a damaged file LOC_val_solution.csv .*Download it"):
        run(tmp_path / "kaggle.zip", tmp_path / "out")


ODD = ("cat/.DS_Store", "dog/Thumbs.db", "readme.txt", ".hidden/3.jpg", "cat/._1.jpg", "stray.jpg")


@pytest.mark.parametrize("kind", ["folder", "labels", "nested", "splits", "tar", "zip"])
def test_number_of_files_counts_what_members_gives(tmp_path: Path, kind: str) -> None:
    found = files("cat/1.jpg", "dog/2.jpg", *ODD)
    if kind == "nested":
        found = {f"n0000000{n}/{name}": content for n in (1, 2) for name, content in found.items()}
        found = {f"a/{name}": content for name, content in found.items()}
    if kind == "splits":
        found = {
            f"{s}/{name}": content for s in ("train", "val") for name, content in found.items()
        }
    path = tmp_path / "source"
    if kind in ("tar", "splits"):
        path.write_bytes(with_symbolic_link(tar_of_links({"a.jpg": "nowhere"}, found)))
    elif kind == "zip":
        path.write_bytes(zip_of(found | {"../evil.jpg": b"x"}))
    else:
        write(path, found)
    labels = Labels("t", {"cat/1.jpg": "cat", "dog/2.jpg": "dog"}) if kind == "labels" else None
    sources = recognise([path], labels).sources.values()
    for source in sources:
        members = list(source.members())
        assert source.num_files == len(members) >= len(ODD) + 2
        assert [member.skipped for member in members].count("ignored system file") >= 3
    assert len(sources) == (2 if kind == "splits" else 1)


def with_symbolic_link(content: bytes) -> bytes:
    buffer = io.BytesIO(content)
    with tarfile.open(fileobj=buffer, mode="a") as tar:
        link = tarfile.TarInfo("cat/link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "1.jpg"
        tar.addfile(link)
    return buffer.getvalue()
