"""Draw images with their answers."""

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from i21k.errors import UserError
from i21k.look.grid import Bar, Cell, columns_for, draw_grid
from i21k.prediction.predicted_images import PredictedImage
from i21k.trained import Preprocessing
from i21k.wordnet.taxonomy import wordnet

MAX_DRAWN = 100  # images in one file, our choice
_SIDE_PX = 224  # of an image in the grid, our choice
_MOST_COLUMNS = 6  # our choice


def draw(images: Sequence[PredictedImage], path: str | Path) -> None:
    """Write a PNG with a grid of the images that could be read, each with its answers as bars.

    Where the truth is known, it is the title, and answers that are another class are marked.

    Raises:
        UserError: if there are no such images, or more than `MAX_DRAWN`.
    """
    images = [one for one in images if not one.fault]
    if not 0 < len(images) <= MAX_DRAWN:
        raise UserError(f"there are {len(images)} images to draw; expected 1 to {MAX_DRAWN}")
    cells = list(map(_cell, images))
    draw_grid(cells, columns_for(len(cells), _MOST_COLUMNS), _SIDE_PX).save(path, "PNG")


def _cell(one: PredictedImage) -> Cell:
    upright = Preprocessing(_SIDE_PX, 1.0, _SIDE_PX)
    jpeg = upright.recoded(one.path if one.jpeg is None else one.jpeg)
    name = wordnet().name
    return Cell(
        Image.open(io.BytesIO(jpeg)),
        name(one.truth) if one.truth else one.path.name,
        one.path.name if one.truth else "",
        [
            Bar(name(answer.id), answer.probability, bool(one.truth) and _is_wrong(answer.id, one))
            for answer in one.answers
        ],
    )


def _is_wrong(class_id: str, one: PredictedImage) -> bool:
    """Return whether an answer is neither the truth nor a synset above it."""
    taxonomy = wordnet()
    if class_id == one.truth or class_id not in taxonomy or one.truth not in taxonomy:
        return class_id != one.truth
    above = taxonomy.ancestors[taxonomy.number_of[one.truth]]
    return taxonomy.number_of[class_id] not in above
