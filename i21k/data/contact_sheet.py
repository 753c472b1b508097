"""Random images of a dataset with the names of their classes."""

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from i21k.data.format import shards
from i21k.data.format.records import decode_example, file_name_of
from i21k.data.format.splits import open_split, split_names
from i21k.images.decode import read_size
from i21k.labels import ClassList
from i21k.look.grid import Cell, draw_grid
from i21k.wordnet.taxonomy import wordnet

SHEET_COLUMNS, SHEET_ROWS = 8, 5  # our choice: fills a screen
CELL_PX = 144  # our choice


class Shown(NamedTuple):
    """An image that was chosen."""

    image: Image.Image | None  # None: it cannot be read
    name: str  # of its class, or what is wrong
    class_id: str  # empty if it has no class
    file: str
    split: str


def random_images(directory: str | Path, most: int, seed: int = 0) -> list[Shown]:
    """Return random images of all splits, each record with the same probability.

    Raises:
        UserError: if there is no dataset, or `open_split` refuses one of its splits.
    """
    directory = Path(directory)
    opened = [open_split(directory, split) for split in split_names(directory)]
    places = [
        (split, path, count)
        for split in opened
        for path, count in zip(split.shard_paths, split.shard_counts, strict=True)
    ]
    ends = np.cumsum([count for _, _, count in places])
    total = int(ends[-1])
    chosen = np.random.default_rng(seed).choice(total, min(most, total), replace=False)
    found = []
    for number in chosen.tolist():
        shard = int(np.searchsorted(ends, number, "right"))
        split, path, count = places[shard]
        ((_, record),) = shards.read_records(path, (number - int(ends[shard]) + count,))
        found.append(_shown(record, split.classes, split.split))
    return found


def contact_sheet(
    directory: str | Path, columns: int = SHEET_COLUMNS, rows: int = SHEET_ROWS, seed: int = 0
) -> Image.Image:
    """Return a grid of random images with class and split; the same for a seed.

    Raises:
        UserError: as `random_images` does, or if the dataset has no images.
    """
    cells = [
        Cell(one.image, one.name, " · ".join(filter(None, (_id_of(one), one.split))))
        for one in random_images(directory, columns * rows, seed)
    ]
    return draw_grid(cells or [Cell(None, "no images")], columns, CELL_PX)


def _id_of(one: Shown) -> str:
    return one.class_id if one.class_id != one.name else ""


def _shown(record: bytes | ValueError, classes: ClassList, split: str) -> Shown:
    nothing = Shown(None, "damaged record", "", "", split)
    if isinstance(record, ValueError):
        return nothing
    try:
        image, label = decode_example(record)
    except ValueError:
        return nothing._replace(name="no image with a label")
    class_id = classes.ids[label] if 0 <= label < len(classes) else ""
    name = wordnet().name(class_id) if class_id else f"no class ({label})"
    shown = Shown(None, name, class_id, file_name_of(record), split)
    try:
        read_size(image)  # refuses what is too large to decode
        with Image.open(io.BytesIO(image)) as opened:
            return shown._replace(image=opened.convert("RGB"))
    except (ValueError, OSError, SyntaxError):
        return shown._replace(name=f"{name}, damaged")
