"""Find the images whose features are nearest to those of an image, and lay them out on a sheet."""

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from i21k.data.format.readers import RecordReader
from i21k.data.format.records import decode_example
from i21k.data.format.splits import open_split
from i21k.errors import UserError
from i21k.evaluation.features import Features
from i21k.log import printable
from i21k.trained import AnyImage, Preprocessing, TrainedModel
from i21k.wordnet.taxonomy import wordnet

NUM_FOUND = 15  # our choice: with the image itself, two rows of eight
_COLUMNS = 8
_SHOWN_PX = 192  # short side of an image on the sheet, our choice


class Found(NamedTuple):
    """An image that is near."""

    row: int  # in the features
    name: str
    class_id: str  # empty where it is unknown
    cosine: float  # 1 for the same direction


def search(
    features: Features, model: TrainedModel, image: AnyImage, k: int = NUM_FOUND
) -> list[Found]:
    """Return the nearest images by cosine, the nearest first.

    Args:
        features: of the images among which to search.
        model: that made them.
        image: to search for.
        k: at most this many.

    Raises:
        UserError: if the features are another model's, or the image cannot be read.
    """
    if k < 1:
        raise UserError(f"{k} images are wanted. Use at least 1.")
    made_by = features.about.get("model", {})
    if made_by.get("digest") != model.origin.digest:
        raise UserError(
            f"the features were made by {made_by.get('path', 'another model')}, and the model is"
            f" {model.origin}. Give the model that made them."
        )
    query = model.features(model.prepare(image)[None])[0].astype(np.float32)
    known = features.array.astype(np.float32)
    norms = np.linalg.norm(known, axis=1) * max(float(np.linalg.norm(query)), 1e-12)
    cosines = known @ query / np.maximum(norms, 1e-12)
    ids = () if features.classes is None else features.classes.ids
    return [
        Found(
            row,
            features.names[row],
            ids[features.labels[row]] if features.labels[row] >= 0 else "",
            float(cosines[row]),
        )
        for row in np.argsort(-cosines, kind="stable")[:k].tolist()
    ]


def draw(image: AnyImage, found: Sequence[Found], features: Features, path: str | Path) -> None:
    """Write a PNG: the image, and the nearest ones with their cosine and class.

    Raises:
        UserError: if the images that the features were made of are not there any more.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    num_rows = -(-(len(found) + 1) // _COLUMNS)
    num_columns = min(_COLUMNS, len(found) + 1)
    figure = Figure(figsize=(1.6 * num_columns, 2.0 * num_rows), layout="constrained")
    FigureCanvasAgg(figure)
    cells = figure.subplots(num_rows, num_columns, squeeze=False).ravel()
    upright = Preprocessing(_SHOWN_PX, 1.0, _SHOWN_PX)
    shown = [("searched for", image)]
    stored = _stored(features, found)
    for one, source in zip(found, stored, strict=True):
        name = wordnet().name(one.class_id) if one.class_id else Path(one.name).name
        shown.append((f"{one.cosine:.3f} {name}", source))
    for cell in cells:
        cell.axis("off")
    for cell, (title, source) in zip(cells, shown, strict=False):
        cell.imshow(Image.open(io.BytesIO(upright.recoded(source))))
        short = textwrap.shorten(printable(title), 26, placeholder="…")
        cell.set_title(short, fontsize="x-small", parse_math=False)
    figure.savefig(path, dpi=100, format="png")


def _stored(features: Features, found: Sequence[Found]) -> list[AnyImage]:
    """Return the images themselves: files, or records of the split."""
    origin = features.about.get("images", {})
    if "split" not in origin:
        return [Path(one.name) for one in found]
    split = open_split(origin["directory"], origin["split"])
    if split.num_records != len(features):
        raise UserError(
            f"split {split.split!r} of {split.directory} has {split.num_records:,} images, and"
            f" {len(features):,} are expected. Use the data that the features were made of."
        )
    reader = RecordReader(split)
    return [decode_example(reader[one.row])[0] for one in found]
