"""The answers to every image of a split as a table: written while a model is evaluated, read by
the report and by other tools."""

import contextlib
import itertools
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from i21k import table_files
from i21k.data.format.readers import file_names_in
from i21k.data.format.splits import Split
from i21k.errors import UserError
from i21k.evaluation.ranks import NEVER, Labels, best
from i21k.files import replaced
from i21k.labels import ClassList
from i21k.wordnet import views
from i21k.wordnet.answers import Answer
from i21k.wordnet.hierarchy import Hierarchy
from i21k.wordnet.taxonomy import wordnet

NUM_ANSWERS = 5  # our choice


def answer_columns(num_answers: int) -> dict[str, type]:
    """Return the columns of the best answers."""
    columns: dict[str, type] = {}
    for n in range(1, num_answers + 1):
        columns |= {f"answer_{n}": str, f"name_{n}": str, f"probability_{n}": float}
    return columns


def answer_row(answers: list[Answer]) -> dict[str, Any]:
    """Return the cells of the best answers."""
    row: dict[str, Any] = {}
    for n, answer in enumerate(answers, 1):
        row |= {
            f"answer_{n}": answer.id,
            f"name_{n}": wordnet().name(answer.id),
            f"probability_{n}": answer.probability,
        }
    return row


COLUMNS: dict[str, type] = {
    "record": int,  # number of the image in the split, from 0
    "file": str,
    "truth": str,
    "truth_name": str,
    "rank": int,  # of the truth among all classes, from 1; missing if it cannot be answered
    **answer_columns(NUM_ANSWERS),
    "hedge": str,
    "hedge_name": str,
    "hedge_probability": float,
}


class PredictionFile:
    """Writes the table while batches arrive in the order of the split. It is complete or absent."""

    def __init__(
        self, path: Path, model: ClassList, split: Split, generality: float | None = None
    ) -> None:
        """Open the file when the block is entered.

        Args:
            path: ends in `.csv`, `.jsonl` or `.parquet`.
            model: the K classes of the answers.
            split: that is evaluated.
            generality: of the hedged answer, see `i21k.wordnet.hedge`; None: no hedged answer.

        Raises:
            UserError: if the name means no format, or a hedged answer needs WordNet, which lacks
                a class.
        """
        self._format = table_files.format_of(path)
        self._path, self._model, self._split = path, model, split
        self._generality = generality
        self._hierarchy = None if generality is None else Hierarchy(model)
        self._names = file_names_in(split)
        self._count = 0
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "PredictionFile":
        with contextlib.ExitStack() as stack:
            temporary = stack.enter_context(replaced(self._path))
            stream = stack.enter_context(temporary.open("wb"))
            self._writer = table_files.writer(self._format, stream, COLUMNS)
            stack.callback(self._writer.close)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def add(
        self,
        log_probabilities: Float[np.ndarray, "B K"],
        labels: Labels,
        ranks: Int[np.ndarray, " B"],
    ) -> None:
        """Write a batch.

        Args:
            log_probabilities: of the model's classes.
            labels: of the images, in the class list of the split.
            ranks: of the right class, from 0.
        """
        names = list(itertools.islice(self._names, len(labels)))
        assert len(names) == len(labels), "the batches have more images than the split"
        hedged: list[Answer | None] = [None] * len(labels)
        if self._hierarchy is not None and self._generality is not None and len(labels):
            hedged = list(views.hedge(np.exp(log_probabilities), self._hierarchy, self._generality))
        self._writer.write(
            self._row(*one)
            for one in zip(
                names, log_probabilities, labels.tolist(), ranks.tolist(), hedged, strict=True
            )
        )

    def _row(
        self, name: str, values: np.ndarray, label: int, rank: int, hedged: Answer | None
    ) -> dict[str, Any]:
        truth, ids = self._split.classes.ids[label], self._model.ids
        answers = [
            Answer(ids[k], float(np.exp(values[k])))
            for k in best(values, min(NUM_ANSWERS, len(values))).tolist()
        ]
        row: dict[str, Any] = dict.fromkeys(COLUMNS) | {
            "record": self._count,
            "file": name,
            "truth": truth,
            "truth_name": wordnet().name(truth),
            "rank": None if rank >= NEVER else rank + 1,
            **answer_row(answers),
        }
        if hedged is not None:
            row |= {
                "hedge": hedged.id,
                "hedge_name": wordnet().name(hedged.id),
                "hedge_probability": hedged.probability,
            }
        self._count += 1
        return row


class Predictions(NamedTuple):
    """N images with their best answers. Classes are numbers in `classes`."""

    classes: ClassList  # of all truths and answers
    records: Int[np.ndarray, " N"]
    files: list[str]
    truths: Int[np.ndarray, " N"]
    ranks: Int[np.ndarray, " N"]  # from 1; `NEVER` where the truth cannot be answered
    answers: Int[np.ndarray, "N A"]  # -1 where there are fewer
    probabilities: Float[np.ndarray, "N A"]  # 0 where there are fewer
    hedges: list[tuple[str, float] | None]  # synset and probability of hedged answers

    @property
    def right(self) -> np.ndarray:
        """Whether the best answer is the truth, for each image."""
        return self.ranks == 1


def read_predictions(path: Path) -> Predictions:
    """Read what `PredictionFile` wrote.

    Raises:
        UserError: if the file is another one, or has no images.
    """
    used = {name: kind for name, kind in COLUMNS.items() if "name" not in name}
    columns = table_files.read(path, used)
    ids = [columns["truth"], *(columns[f"answer_{n}"] for n in range(1, NUM_ANSWERS + 1))]
    present = {str(class_id) for of_column in ids for class_id in of_column if class_id is not None}
    if not columns["truth"] or None in columns["truth"] or None in columns["record"]:
        raise UserError(f"{path} has no images with a truth. Write it again.")
    classes = ClassList.sorted(present)

    def numbers(of_column: list[Any]) -> np.ndarray:
        return np.array([-1 if c is None else classes.label_of[str(c)] for c in of_column], int)

    truths, *answers = map(numbers, ids)
    probabilities = [columns[f"probability_{n}"] for n in range(1, NUM_ANSWERS + 1)]
    return Predictions(
        classes=classes,
        records=np.array(columns["record"], int),
        files=["" if name is None else str(name) for name in columns["file"]],
        truths=truths,
        ranks=np.array([NEVER if rank is None else rank for rank in columns["rank"]], int),
        answers=np.stack(answers, axis=1),
        probabilities=np.array(
            [[0.0 if p is None else p for p in column] for column in probabilities], float
        ).T,
        hedges=[
            None if synset is None or probability is None else (str(synset), float(probability))
            for synset, probability in zip(
                columns["hedge"], columns["hedge_probability"], strict=True
            )
        ],
    )
