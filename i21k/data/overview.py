"""Describe a dataset directory: numbers from its JSON, and a sheet of random images."""

import dataclasses
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from i21k.data.format import shards
from i21k.data.format.manifest import read_manifest
from i21k.data.format.records import decode_example
from i21k.data.format.splits import open_split, split_names
from i21k.data.format.tfds import list_shards, read_classes
from i21k.images.decode import read_size
from i21k.labels import ClassList

SHEET_COLUMNS, SHEET_ROWS = 8, 5  # chosen here: fills a screen
CELL_PX, CAPTION_PX, GAP_PX = 144, 34, 8
_FONT_PX = 12


@dataclasses.dataclass(frozen=True)
class SplitOverview:
    """One split; bytes are those of the shards. The last four are None where TFDS made it, empty
    where nothing was noted."""

    num_records: int
    num_shards: int
    num_bytes: int
    options: dict[str, Any] | None
    counts: (
        dict[str, Any] | None
    )  # of the packing run that made the split: it may have made others too
    left_out: dict[str, int] | None  # by reason
    dropped: dict[str, int] | None  # by reason


@dataclasses.dataclass(frozen=True)
class Overview:
    """What is in a dataset directory. A split whose shards are not all there is an error, damage
    inside them goes unseen."""

    directory: str
    name: str
    has_manifest: bool
    num_records: int
    num_bytes: int
    num_classes: int
    first_class: str
    last_class: str
    class_list_hash: str
    splits: dict[str, SplitOverview]


def overview(directory: str | Path) -> Overview:
    """Say what a directory that `i21k pack` or TFDS made has in it, by its JSON and the sizes of
    its files.

    Raises:
        ValueError: if there is no dataset, or `open_split` refuses one of its splits.
    """
    directory = Path(directory)
    manifest, splits = read_manifest(directory), {}
    listing = list_shards(directory)
    for name in sorted(listing.splits):
        opened = open_split(directory, name)
        entry = manifest.splits.get(name) if manifest else None
        splits[name] = SplitOverview(
            num_records=opened.num_records,
            num_shards=len(opened.shard_paths),
            num_bytes=sum(path.stat().st_size for path in opened.shard_paths),
            options=entry.options if entry else None,
            counts={
                key: n
                for key, n in entry.counts.items()
                if key not in ("skipped", "left_out", "dropped")
            }
            if entry
            else None,
            # Version one called it `left_out`.
            left_out=entry.counts.get("skipped", entry.counts.get("left_out", {}))
            if entry
            else None,
            dropped=entry.counts.get("dropped", {}) if entry else None,
        )
    classes = read_classes(directory)
    return Overview(
        directory=str(directory),
        name=manifest.name if manifest else listing.name,
        has_manifest=manifest is not None,
        num_records=sum(split.num_records for split in splits.values()),
        num_bytes=sum(split.num_bytes for split in splits.values()),
        num_classes=len(classes),
        first_class=classes.ids[0],
        last_class=classes.ids[-1],
        class_list_hash=classes.hash,
        splits=splits,
    )


def contact_sheet(
    directory: str | Path, columns: int = SHEET_COLUMNS, rows: int = SHEET_ROWS, seed: int = 0
) -> Image.Image:
    """Lay out random images of all splits, each record with the same probability, with class, label
    and split below; the same for a seed.

    Raises:
        ValueError: if there is no dataset, or `open_split` refuses one of its splits.
    """
    directory = Path(directory)
    opened = [open_split(directory, split) for split in split_names(directory)]
    places = [
        (split, path, count)
        for split in opened
        for path, count in zip(split.shard_paths, split.shard_counts, strict=True)
    ]
    ends = np.cumsum([count for _, _, count in places])
    chosen = np.random.default_rng(seed).choice(
        int(ends[-1]), min(columns * rows, int(ends[-1])), replace=False
    )
    rows = math.ceil(len(chosen) / columns)
    size = (columns * (CELL_PX + GAP_PX) + GAP_PX, rows * (CELL_PX + CAPTION_PX + GAP_PX) + GAP_PX)
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT_PX)
    for k, number in enumerate(chosen.tolist()):
        shard = int(np.searchsorted(ends, number, "right"))
        split, path, count = places[shard]
        ((_, record),) = shards.read_records(path, (number - int(ends[shard]) + count,))
        left = GAP_PX + k % columns * (CELL_PX + GAP_PX)
        top = GAP_PX + k // columns * (CELL_PX + CAPTION_PX + GAP_PX)
        thumbnail, caption = _thumbnail(record, split.classes)
        sheet.paste(
            thumbnail,
            (left + (CELL_PX - thumbnail.width) // 2, top + (CELL_PX - thumbnail.height) // 2),
        )
        for line, text in enumerate((caption, split.split)):
            draw.text(
                (left, top + CELL_PX + 2 + line * (_FONT_PX + 3)),
                _fit(text, font),
                "black" if line == 0 else "gray",
                font,
            )
    return sheet


def _thumbnail(record: bytes | ValueError, classes: ClassList) -> tuple[Image.Image, str]:
    """Return an image that fits into a cell, and its caption; a grey cell where there is none to
    be had."""
    nothing = Image.new("RGB", (CELL_PX, CELL_PX), "lightgray")
    if isinstance(record, ValueError):
        return nothing, "damaged record"
    try:
        image, label = decode_example(record)
    except ValueError:
        return nothing, "no image with a label"
    caption = (
        f"{classes.ids[label]} ({label})" if 0 <= label < len(classes) else f"no class ({label})"
    )
    try:
        read_size(image)  # refuses what is too large to decode
        with Image.open(io.BytesIO(image)) as opened:
            thumbnail = opened.convert("RGB")
    except (ValueError, OSError, SyntaxError):
        return nothing, f"{caption}, damaged"
    scale = CELL_PX / max(thumbnail.size)
    width, height = (max(1, round(side * scale)) for side in thumbnail.size)
    return thumbnail.resize((width, height), Image.Resampling.BICUBIC), caption


def _fit(text: str, font: Any) -> str:
    """Shorten a caption to the width of a cell."""
    if font.getlength(text) <= CELL_PX:
        return text
    while text and font.getlength(text + "…") > CELL_PX:
        text = text[:-1]
    return text + "…"
