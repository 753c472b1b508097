"""Evaluations that are kept beside a model, so that the report can be written again without it.

`evaluations/SPLIT/` has `evaluation.json`, the numbers, and `predictions.parquet`, the answers.
"""

import datetime
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from i21k import files
from i21k.data.format.splits import open_split, split_names
from i21k.errors import UserError
from i21k.evaluation.evaluate import BATCH_SIZE, Evaluation, evaluate_checkpoint
from i21k.evaluation.predictions import Predictions, read_predictions
from i21k.trained import TrainedModel

NUMBERS, ANSWERS = "evaluation.json", "predictions.parquet"
FORMAT = "i21k-evaluation-1"
MOST_COUNTED = 1_500_000  # our choice: images of `train` that are read to count class sizes


class Stored(NamedTuple):
    """An evaluation from its files."""

    summary: dict[str, Any]
    predictions: Predictions


def directory_of(model: str | Path, split: str) -> Path:
    """Return where the evaluation of a model on a split is kept."""
    path = Path(model)
    below = path / "evaluations" if path.is_dir() else path.with_suffix(".evaluations")
    return below / re.sub(r"[^\w.+-]", "_", split)


def evaluate_and_store(
    model: TrainedModel,
    data: Path,
    directory: Path,
    split: str = "val",
    batch_size: int = BATCH_SIZE,
    sizes_of: str | None = None,
    generality: float | None = None,
) -> None:
    """Evaluate a model and keep numbers and answers.

    Args:
        model: to evaluate.
        data: packed directory, or another TFDS dataset.
        directory: for the files, see `directory_of`.
        split: its name.
        batch_size: changes only speed and memory.
        sizes_of: split whose labels are counted, to separate large classes from small ones. By
            default `train`, if it has at most `MOST_COUNTED` images.
        generality: of the hedged answers; None: there are none.

    Raises:
        UserError: as `evaluate_checkpoint` does.
    """
    if sizes_of is None and "train" in split_names(data):
        train = open_split(data, "train")
        sizes_of = "train" if 0 < train.num_records <= MOST_COUNTED else None
    directory.mkdir(parents=True, exist_ok=True)
    found = evaluate_checkpoint(
        model,
        data,
        split,
        batch_size,
        sizes_of=sizes_of,
        predictions=directory / ANSWERS,
        generality=generality,
    )
    files.write_text(directory / NUMBERS, json.dumps(content_of(found), allow_nan=False))


def content_of(evaluation: Evaluation) -> dict[str, Any]:
    """Return the content of `evaluation.json`."""
    counted = evaluation.sizes is not None and evaluation.about["sizes_of"] != "released2015"
    sizes = None
    if counted and evaluation.sizes is not None:
        sizes = dict(zip(evaluation.scores.model.ids, map(int, evaluation.sizes), strict=True))
    return {
        "format": FORMAT,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **evaluation.summary(),
        "reliabilities": evaluation.scores.reliabilities(),
        "class_sizes": sizes,
    }


def is_current(directory: Path, model: TrainedModel, data: Path, split: str) -> bool:
    """Return whether the files are there, and of this checkpoint and these images."""
    if not (directory / NUMBERS).is_file() or not (directory / ANSWERS).is_file():
        return False
    summary = files.read_json(directory / NUMBERS)
    own = (FORMAT, model.origin.digest, open_split(data, split).fingerprint)
    return own == tuple(summary.get(key) for key in ("format", "digest", "fingerprint"))


def find_stored(model: str | Path, split: str) -> Path | None:
    """Return the directory of the kept evaluation of a model, None if there is none."""
    directory = directory_of(model, split)
    is_complete = (directory / NUMBERS).is_file() and (directory / ANSWERS).is_file()
    return directory if is_complete else None


def read_stored(directory: Path) -> Stored:
    """Read a kept evaluation.

    Raises:
        UserError: if a file is damaged, or they belong to different evaluations.
    """
    summary = files.read_json(directory / NUMBERS)
    if summary.get("format") != FORMAT:
        raise UserError(
            f"{directory / NUMBERS} has format {summary.get('format')!r}; expected {FORMAT!r}."
            " Remove the directory and evaluate again."
        )
    predictions = read_predictions(directory / ANSWERS)
    if len(predictions.files) != summary.get("count"):
        raise UserError(
            f"{directory / ANSWERS} has {len(predictions.files):,} images and {NUMBERS} counts"
            f" {summary.get('count')}. Remove the directory and evaluate again."
        )
    return Stored(summary, predictions)
