"""Find the images whose features are nearest to those of an image, and lay them out on a sheet."""

import io
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from PIL import Image

from i21k.data.format.readers import RecordReader
from i21k.data.format.records import decode_example
from i21k.data.format.splits import open_split
from i21k.errors import UserError
from i21k.evaluation.features import Features
from i21k.text import printable
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


class Index:
    """Features of images in a form that is quick to search. It holds them a second time."""

    def __init__(self, features: Features, model: TrainedModel) -> None:
        """Prepare the search.

        Raises:
            UserError: if the features are another model's.
        """
        made_by = features.about.get("model", {})
        if made_by.get("digest") != model.origin.digest:
            raise UserError(
                f"the features were made by {made_by.get('path', 'another model')}, and the model"
                f" is {model.origin}. Give the model that made them."
            )
        self.features = features
        self._known = features.array.astype(np.float32)
        self._norms = np.linalg.norm(self._known, axis=1)

    def nearest(self, query: Float[np.ndarray, " F"], k: int = NUM_FOUND) -> list[Found]:
        """Return the images that are nearest to the features of one, by cosine."""
        query = query.astype(np.float32)
        norms = self._norms * max(float(np.linalg.norm(query)), 1e-12)
        cosines = self._known @ query / np.maximum(norms, 1e-12)
        features = self.features
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
    index = Index(features, model)
    return index.nearest(model.features(model.prepare(image)[None])[0], k)


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
    image_of = stored(features)
    for one in found:
        name = wordnet().name(one.class_id) if one.class_id else Path(one.name).name
        shown.append((f"{one.cosine:.3f} {name}", image_of(one.row)))
    for cell in cells:
        cell.axis("off")
    for cell, (title, source) in zip(cells, shown, strict=False):
        cell.imshow(Image.open(io.BytesIO(upright.recoded(source))))
        short = textwrap.shorten(printable(title), 26, placeholder="…")
        cell.set_title(short, fontsize="x-small", parse_math=False)
    figure.savefig(path, dpi=100, format="png")


def stored(features: Features) -> Callable[[int], AnyImage]:
    """Return a function from a row to the image itself: a file, or a record of the split.

    Raises:
        UserError: if the data are not those that the features were made of.
    """
    origin = features.about.get("images", {})
    if "split" not in origin:
        return lambda row: Path(features.names[row])
    split = open_split(origin["directory"], origin["split"])
    if split.num_records != len(features):
        raise UserError(
            f"split {split.split!r} of {split.directory} has {split.num_records:,} images, and"
            f" {len(features):,} are expected. Use the data that the features were made of."
        )
    reader = RecordReader(split)
    return lambda row: decode_example(reader[row])[0]
