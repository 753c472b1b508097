"""What the packer promises holds for every source: any number of workers, resumed or not."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from i21k.data.pack.pack import PackOptions, pack
from i21k.labels import ClassList
from tests.data.sources.test_layouts import image, parquet_of, wds, write, zip_of
from tests.data.sources.test_recordio import image_record
from tests.helpers.packing import content_of, interrupt_after, tar_of

NAMES = ClassList(("n02084071", "n02121808"))
FILES = {f"{NAMES.ids[i % 2]}/{i}.jpg": image(i) for i in range(12)} | {
    f"{NAMES.ids[0]}/bad.jpg": b"bad"
}


def make_wds(path: Path) -> Path:
    path.mkdir()
    for shard in range(3):
        numbers = range(4 * shard, 4 * shard + 4)
        samples = {f"{n:04d}": {"jpg": image(n), "cls": b"%d" % (n % 2)} for n in numbers}
        (path / f"{shard:04d}.tar").write_bytes(wds(samples))
    return path


def make_parquet(path: Path) -> Path:
    rows: list[tuple[str | None, int]] = [(f"{n}.jpg", n % 2) for n in range(12)]
    parquet_of(path / "0.parquet", rows, list(NAMES.ids))
    return path


def make_rec(path: Path) -> Path:
    path.mkdir()
    records = [image_record(n, n % 2, image(n)) for n in range(12)]
    (path / "a.rec").write_bytes(b"".join(records))
    return path / "a.rec"


def make_file(suffix: str, content: Callable[[], bytes]) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        made = path.with_suffix(suffix)
        made.write_bytes(content())
        return made

    return make


def make_table(path: Path) -> Path:
    write(path, FILES)
    (path / "t.csv").write_text("".join(f"{name},{name.split('/')[0]}\n" for name in FILES))
    return path / "t.csv"


def linked_tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in FILES.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
            info = tarfile.TarInfo(f"{NAMES.ids[0]}/link-{Path(name).name}")
            info.type, info.linkname = tarfile.LNKTYPE, name
            tar.addfile(info)
    return buffer.getvalue()


SOURCES: dict[str, Callable[[Path], Path]] = {
    "nested": lambda path: write(path, {f"a/{n}": d for n, d in FILES.items()}),
    "splits": lambda path: write(
        path, {f"{s}/{n}": d for s in ("train", "val") for n, d in FILES.items()}
    ),
    "tar": make_file(".tar", lambda: tar_of(FILES)),
    "tar.gz": make_file(".tgz", lambda: tar_of(FILES, "w:gz")),
    "tar.gz of hard links": make_file(".tgz", linked_tar),
    "zip": make_file(".zip", lambda: zip_of(FILES)),
    "webdataset": make_wds,
    "parquet": make_parquet,
    "recordio": make_rec,
    "table": make_table,
}


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("kind", SOURCES)
def test_same_bytes_with_any_workers_and_after_interruptions(kind: str, tmp_path: Path) -> None:
    source = SOURCES[kind](tmp_path / "source")
    options = PackOptions(num_shards=2)
    classes = NAMES if kind in ("webdataset", "recordio") else None
    report = pack(source, tmp_path / "a", options, classes, num_workers=1)
    assert report.num_read == report.num_written + report.num_skipped
    pack(source, tmp_path / "b", options, classes, num_workers=2)
    assert content_of(tmp_path / "b") == content_of(tmp_path / "a")
    for num_steps in (3, 7, 12):
        with pytest.raises(KeyboardInterrupt):
            stop: Any = interrupt_after(num_steps)
            pack(source, tmp_path / "c", options, classes, num_workers=1, on_progress=stop)
    pack(source, tmp_path / "c", options, classes, num_workers=1)
    assert content_of(tmp_path / "c") == content_of(tmp_path / "a")
    assert json.loads((tmp_path / "a" / "manifest.json").read_text())["splits"]
