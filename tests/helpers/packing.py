"""Small images, tars and folders to pack, and the records of a packed dataset."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader
from PIL import Image

from i21k.data.format.records import decode_example, file_name_of
from i21k.data.format.splits import open_split
from i21k.data.pack.pack import PackOptions, PackReport, pack
from i21k.data.pack.report import Progress
from i21k.labels import ClassList

CLASS_IDS = ("n00000001", "n00000002", "n00000003")


NUM_PER_CLASS = 6


def photo(width: int = 48, height: int = 32, seed: int = 0) -> Image.Image:
    """A smooth image, dark at the left and light at the right, so that a rotation shows."""
    rows, columns = np.mgrid[:height, :width]
    colour = np.random.default_rng(seed).uniform(0.6, 1.0, 3)
    return Image.fromarray(
        (columns[..., None] / width * 240 * colour + rows[..., None] / height * 15).astype(np.uint8)
    )


def encoded(image: Image.Image, file_format: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def tar_of(files: dict[str, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def images_of(class_id: str) -> dict[str, bytes]:
    seed = CLASS_IDS.index(class_id) * 100
    return {
        f"{class_id}_{i}.JPEG": encoded(photo(seed=seed + i), quality=95)
        for i in range(NUM_PER_CLASS)
    }


def run(source: Path, out: Path, classes: ClassList | None = None, **options: Any) -> PackReport:
    """Pack in this process."""
    return pack(source, out, PackOptions(**options), classes, num_workers=1)


def records_of(directory: Path, split: str = "train") -> list[tuple[str, int, bytes]]:
    """Return (file name, label, JPEG) of all records in order."""
    found = []
    for path, count in zip(
        open_split(directory, split).shard_paths,
        open_split(directory, split).shard_counts,
        strict=True,
    ):
        reader = ArrayRecordReader(str(path))
        assert reader.num_records() == count
        found += [
            (file_name_of(record), decode_example(record)[1], decode_example(record)[0])
            for record in reader.read_all()
        ]
    return found


def content_of(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


ALL_OPTIONS: dict[str, Any] = {"num_shards": 3, "val_per_class": 2, "duplicates": "first"}


PICTURE = {"a.JPEG": encoded(photo())}


def header(
    name: str, size: int, kind: bytes = tarfile.REGTYPE, pax: dict[str, str] | None = None
) -> bytes:
    """A header of a member that is missing."""
    info = tarfile.TarInfo(name)
    info.size, info.type, info.pax_headers = size, kind, pax or {}
    return info.tobuf(tarfile.PAX_FORMAT if pax else tarfile.GNU_FORMAT)


def interrupt_after(num_steps: int) -> Callable[[Progress], None]:
    steps = iter(range(num_steps))

    def stop(progress: Progress) -> None:
        if next(steps, None) is None:
            raise KeyboardInterrupt

    return stop


def make_empty_files(source: Path) -> None:
    for class_id in ("a", "b"):
        (source / class_id).mkdir(parents=True)
        (source / class_id / "1.jpg").touch()


def make_foreign(out: Path) -> None:
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
