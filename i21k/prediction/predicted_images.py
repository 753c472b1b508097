"""Predict many images, a batch at a time: of files, or of a packed split with the true classes."""

import itertools
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from i21k.data.format.readers import RecordReader
from i21k.data.format.records import decode_example, file_name_of
from i21k.data.format.splits import Split, open_split
from i21k.errors import UserError
from i21k.machine import num_cpus
from i21k.prediction.model_views import View, check_regions
from i21k.prediction.predictor import Predictor
from i21k.wordnet.answers import Answer


class PredictedImage(NamedTuple):
    """The answers for one image, or why there are none."""

    path: Path
    answers: list[Answer]
    fault: str = ""
    truth: str = ""  # the class id, where it is known
    jpeg: bytes | None = None  # the image, if `path` is not a file


def predict_files(
    model: Predictor, paths: Iterable[Path], view: View, regions: bool = False
) -> Iterator[PredictedImage]:
    """Yield the answers for each file, in the order of the files, or why there are none.

    Args:
        model: to predict with.
        paths: of the files.
        view: from probabilities to answers.
        regions: look at nine regions of each image too, as `Predictor.probabilities` does.

    Raises:
        UserError: if regions are wanted in a view that cannot use them.
    """
    check_regions(view.name, regions)
    return _predicted(model, (PredictedImage(path, []) for path in paths), view, regions)


def predict_split(
    model: Predictor,
    data: str | Path,
    split: str,
    view: View,
    num_images: int | None = None,
    regions: bool = False,
) -> Iterator[PredictedImage]:
    """Yield the answers for the first images of a packed split, with their true classes.

    Args:
        model: to predict with.
        data: a packed directory, or another TFDS dataset of labelled images.
        split: its name. Its classes need not be the model's.
        view: from probabilities to answers.
        num_images: how many images; None: all. They are shuffled already.
        regions: look at nine regions of each image too, as `Predictor.probabilities` does.

    Raises:
        UserError: if there is no such split, `num_images` is not positive, or regions are wanted
            in a view that cannot use them.
    """
    check_regions(view.name, regions)
    if num_images is not None and num_images < 1:
        raise UserError(f"num is {num_images}. Use at least 1.")
    return _predicted(model, _records(open_split(data, split), num_images), view, regions)


def _predicted(
    model: Predictor, images: Iterable[PredictedImage], view: View, regions: bool
) -> Iterator[PredictedImage]:
    def prepared(one: PredictedImage) -> np.ndarray | UserError:
        try:
            return model.prepare(one.path if one.jpeg is None else one.jpeg, regions)
        except UserError as error:
            return error

    todo = iter(images)
    with ThreadPoolExecutor(num_cpus()) as pool:
        while batch := list(itertools.islice(todo, model.batch_size)):
            found = list(pool.map(prepared, batch))
            readable = [x for x in found if isinstance(x, np.ndarray)]
            answers: Iterator[list[Answer]] = iter(())
            if readable:
                answers = iter(view(model.probabilities_of(readable)))
            for one, x in zip(batch, found, strict=True):
                if isinstance(x, UserError):
                    yield one._replace(fault=str(x))
                else:
                    yield one._replace(answers=next(answers))


def _records(split: Split, num_images: int | None) -> Iterator[PredictedImage]:
    reader = RecordReader(split)
    for number in range(min(split.num_records, num_images or split.num_records)):
        record = reader[number]
        jpeg, label = decode_example(record)
        name = file_name_of(record) or f"record {number}"
        yield PredictedImage(Path(name), [], truth=split.classes.ids[label], jpeg=jpeg)
