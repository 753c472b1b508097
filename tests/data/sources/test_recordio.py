"""MXNet's RecordIO as a source."""

import struct
from pathlib import Path

import pytest

from i21k.data.format.splits import open_split
from i21k.data.sources.recordio import MAGIC
from i21k.errors import UserError
from i21k.labels import ClassList
from tests.helpers.packing import encoded, photo, records_of, run


def record(content: bytes) -> bytes:
    """As MXNet writes it: cut where the content holds the magic number at a multiple of four."""
    parts, start = [], 0
    for at in range(0, len(content) - 3, 4):
        if content[at : at + 4] == MAGIC:
            parts.append(content[start:at])
            start = at + 4
    parts.append(content[start:])
    kinds = [0] if len(parts) == 1 else [1, *[2] * (len(parts) - 2), 3]
    return b"".join(
        MAGIC + struct.pack("<I", kind << 29 | len(part)) + part + bytes(-len(part) % 4)
        for kind, part in zip(kinds, parts, strict=True)
    )


def image_record(number: int, label: int | list[float], content: bytes) -> bytes:
    if isinstance(label, int):
        return record(struct.pack("<IfQQ", 0, label, number, 0) + content)
    head = struct.pack("<IfQQ", len(label), 0, number, 0)
    return record(head + struct.pack(f"<{len(label)}f", *label) + content)


def write(root: Path, num_records: int = 6) -> list[bytes]:
    root.mkdir()
    images = [encoded(photo(seed=i)) for i in range(num_records)]
    images[3] += bytes(-len(images[3]) % 4) + MAGIC + b"behind the image" + MAGIC
    records = [image_record(i, i % 2 if i != 2 else [0.0], data) for i, data in enumerate(images)]
    (root / "train.rec").write_bytes(b"".join(records))
    return records


def test_integers_need_a_list(tmp_path: Path) -> None:
    write(tmp_path / "s")
    with pytest.raises(UserError, match=r"train.rec has integer labels, such as 0, and no names"):
        run(tmp_path / "s" / "train.rec", tmp_path / "out")
    run(tmp_path / "s" / "train.rec", tmp_path / "out", ClassList(("b", "a")))
    found = {name: label for name, label, _ in records_of(tmp_path / "out")}
    assert found == {f"{'ba'[i % 2]}/{i:08d}.jpg": i % 2 for i in range(6)}


def test_list_and_index_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("i21k.data.sources.recordio._ENTRY_RECORDS", 2)
    records = write(tmp_path / "s")
    ids = ("n02084071", "n02121808")
    listing = "".join(f"{i}\t{i % 2}.000000\t{ids[i % 2]}/x_{i}.JPEG\n" for i in range(6))
    (tmp_path / "s" / "train.lst").write_text(listing)
    run(tmp_path / "s", tmp_path / "out")
    ends = [sum(map(len, records[:i])) for i in range(6)]
    (tmp_path / "s" / "train.idx").write_text("".join(f"{i}\t{e}\n" for i, e in enumerate(ends)))
    report = run(tmp_path / "s" / "train.rec", tmp_path / "with_index")
    assert records_of(tmp_path / "with_index") == records_of(tmp_path / "out")
    names = {name for name, _, _ in records_of(tmp_path / "out")}
    assert names == {f"{ids[i % 2]}/x_{i}.JPEG" for i in range(6)}
    assert open_split(tmp_path / "out", "train").classes.ids == ids and not report.skipped


def test_cut_off_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "s")
    path = tmp_path / "s" / "train.rec"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match=r"ends early or is damaged \(the record at byte"):
        run(path, tmp_path / "out", ClassList(("b", "a")))
