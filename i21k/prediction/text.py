"""Answers as text and as JSON."""

from collections.abc import Sequence
from typing import Any

from i21k.prediction.predicted_images import PredictedImage
from i21k.text import printable
from i21k.wordnet.outline import outline
from i21k.wordnet.taxonomy import wordnet
from i21k.wordnet.views import Answer


def describe(answers: Sequence[Answer]) -> str:
    """Return answers as a tree of WordNet, or as a list where the classes are not in it."""
    if any(answer.id in wordnet() for answer in answers):
        return outline(answers)
    width = max((len(answer.id) for answer in answers), default=0)
    return "\n".join(f"{answer.id:{width}}  {answer.probability:6.1%}" for answer in answers)


def heading(one: PredictedImage) -> str:
    """Return the line above the answers: the file, and the true class where it is known."""
    return printable(one.path) + (f" (truth: {wordnet().name(one.truth)})" if one.truth else "")


def as_json(one: PredictedImage) -> dict[str, Any]:
    """Return what `--json` prints for an image."""
    answers = [{**answer._asdict(), "name": wordnet().name(answer.id)} for answer in one.answers]
    truth = {"id": one.truth, "name": wordnet().name(one.truth)} if one.truth else None
    return {"file": str(one.path), **({"truth": truth} if truth else {}), "answers": answers}
