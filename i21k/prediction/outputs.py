"""Write the answers to each image to the standard output, as text or as a table for other tools."""

import json
import sys
import textwrap
from typing import Protocol, runtime_checkable

from i21k import log, table_files
from i21k.errors import UserError
from i21k.evaluation.predictions import answer_columns, answer_row
from i21k.prediction import text
from i21k.prediction.predicted_images import PredictedImage
from i21k.wordnet.taxonomy import wordnet

FORMATS = ("text", "jsonl", "csv", "parquet")


@runtime_checkable
class Output(Protocol):
    """Takes the answers image by image. `close` writes what is left."""

    def add(self, one: PredictedImage) -> None:
        """Write the answers of an image that could be read."""

    def close(self) -> None:
        """End the output."""


def output(output_format: str, num_answers: int) -> Output:
    """Return an output of a format in `FORMATS`.

    Args:
        output_format: its name.
        num_answers: the columns of a table have at most this many answers.

    Raises:
        UserError: if a terminal would show a file that is no text.
    """
    if output_format == "text":
        return _Text()
    if output_format == "jsonl":
        return _JsonLines()
    if output_format == "parquet" and sys.stdout.isatty():
        raise UserError(
            "--format parquet writes a file that a terminal cannot show. Add > answers.parquet."
        )
    return _Table(output_format, num_answers)


class _Text:
    def add(self, one: PredictedImage) -> None:
        answers = textwrap.indent(text.describe(one.answers), "  ")
        log.info(f"{text.heading(one)}\n{answers}\n")

    def close(self) -> None:
        pass


class _JsonLines:
    def add(self, one: PredictedImage) -> None:
        log.info(json.dumps(text.as_json(one), allow_nan=False))

    def close(self) -> None:
        pass


class _Table:
    """One row an image: file, truth, and each answer with name and probability."""

    def __init__(self, table_format: str, num_answers: int) -> None:
        self._columns: dict[str, type] = {
            "file": str,
            "truth": str,
            "truth_name": str,
            **answer_columns(num_answers),
        }
        sys.stdout.flush()
        self._writer = table_files.writer(table_format, sys.stdout.buffer, self._columns)

    def add(self, one: PredictedImage) -> None:
        truth = {"truth": one.truth, "truth_name": wordnet().name(one.truth)} if one.truth else {}
        row = dict.fromkeys(self._columns) | {"file": str(one.path)} | truth
        self._writer.write([row | answer_row(one.answers)])

    def close(self) -> None:
        self._writer.close()
        sys.stdout.buffer.flush()
