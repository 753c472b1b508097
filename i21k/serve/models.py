"""A trained model as the server uses it: its description, its tree of classes and its answers.

No text that leaves the server may hold a path of the machine.
"""

import functools
import gzip
import itertools
import json
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from i21k.errors import UserError
from i21k.evaluation.features import Features
from i21k.look.html import visible
from i21k.prediction.model_views import FOLD_ONTO, VIEWS, View, fold_onto
from i21k.prediction.predictor import Predictor
from i21k.prediction.search import Index, stored
from i21k.serve import classes
from i21k.serve.batches import Outputs
from i21k.serve.limits import RequestError
from i21k.trained import Preprocessing, in_batches_of
from i21k.wordnet import outline, subsets
from i21k.wordnet.answers import Answer
from i21k.wordnet.taxonomy import wordnet

_SMALL = Preprocessing(1, 1.0, short_side_px=160, quality=80)  # of a thumbnail, our choice
_EXAMPLES = 8  # our choice
_VIEWS_KEPT = 64  # views with a parsed expression, our choice


class ServedModel:
    """A predictor with a name. `run` is for one thread; everything else is for any."""

    def __init__(
        self,
        name: str,
        predictor: Predictor,
        batch_size: int,
        features: Features | None = None,
    ) -> None:
        """Prepare a model.

        Args:
            name: unique on the server.
            predictor: the model.
            batch_size: largest number of images at a time.
            features: of images to search for the nearest ones, made by this model.

        Raises:
            UserError: if the features are another model's, or their images are gone.
        """
        self.name, self.predictor = name, predictor
        self._lock = threading.Lock()  # the size of a batch is an attribute of the model
        self.index = None if features is None else Index(features, predictor.trained)
        self._image_of = None if features is None else stored(features)
        self.batch_sizes = [1]
        while self.batch_sizes[-1] * 2 <= batch_size:
            self.batch_sizes.append(self.batch_sizes[-1] * 2)
        self.calibrated = predictor.calibration.curve()
        try:
            predictor.hierarchy  # noqa: B018 - computed once, before any request
            self.no_wordnet = ""
        except UserError as error:
            self.no_wordnet = str(error)
        self._view = functools.lru_cache(_VIEWS_KEPT)(self._new_view)

    def warm_up(self) -> float:
        """Compile for every size of a batch and prepare every view; return the seconds it took."""
        started_at = time.perf_counter()
        size = self.predictor.image_size
        for number in self.batch_sizes:
            (found,) = self.run(np.zeros((number, size, size, 3), np.uint8))
        for view in VIEWS:
            if not self.why_not(view) and view != "subset":
                self.answers(found[0], view, accuracy=self.usual_accuracy)
        if self.index is not None:
            self.run_features(np.zeros((1, size, size, 3), np.uint8))
        self.tree  # noqa: B018 - computed once
        return time.perf_counter() - started_at

    def run(self, images: UInt8[np.ndarray, "B S S 3"]) -> Outputs:
        """Return probabilities [B, K] in a tuple."""
        model = self.predictor.trained
        with self._lock, in_batches_of(model, len(images)):  # so that nothing is padded
            return (model.probabilities(images),)

    def run_features(self, images: UInt8[np.ndarray, "B S S 3"]) -> Outputs:
        """Return features [B, F] in a tuple."""
        with self._lock, in_batches_of(self.predictor.trained, len(images)):
            return (self.predictor.trained.features(images),)

    def why_not(self, view: str) -> str:
        """Return why a view cannot be used; an empty text if it can."""
        if view == "top":
            return ""
        if self.predictor.trained.probability != "softmax":
            return (
                f"The view {view} needs probabilities that add up to 1. Those of this model are"
                " independent (sigmoid)."
            )
        if self.no_wordnet:
            return f"The view {view} needs classes of WordNet: {self.no_wordnet}"
        if view == "hedge" and not self.calibrated:
            return (
                "The view hedge is not calibrated. Start the server with --calibrate and held-out"
                " images."
            )
        return ""

    @property
    def usual_accuracy(self) -> float:
        """The calibrated accuracy that is nearest to 0.9."""
        wanted = [accuracy for accuracy, _ in self.calibrated]
        return min(wanted, key=lambda accuracy: abs(accuracy - 0.9), default=0.9)

    def describe(self) -> dict[str, Any]:
        """Return what clients may know of the model."""
        trained = self.predictor.trained
        return {
            "name": self.name,
            "num_classes": len(self.predictor.classes),
            "image_size": self.predictor.image_size,
            "probability": trained.probability,
            "views": {
                name: {"about": about, "unusable": self.why_not(name) or None}
                for name, about in VIEWS.items()
            },
            "num_searched": 0 if self.index is None else len(self.index.features),
            "accuracy": self.usual_accuracy,
            "calibrated": [
                {"wanted": wanted, "accuracy": point.accuracy, "specificity": point.specificity}
                for wanted, point in self.calibrated
            ],
        }

    # Answers

    def answers(
        self,
        probabilities: Float[np.ndarray, " K"],
        view: str,
        among: str | None = None,
        k: int = 5,
        accuracy: float = 0.9,
    ) -> dict[str, Any]:
        """Return the answers of a view, and the lines of their tree from the root down.

        Raises:
            RequestError: if the view cannot be used, or the expression is wrong.
        """
        if reason := self.why_not(view):
            raise RequestError(422, "view_unusable", reason)
        if view != "hedge":
            accuracy = 0.0  # changes nothing, and must not make a view of its own
        elif not accuracy <= self.calibrated[-1][0]:
            raise RequestError(
                422,
                "accuracy_not_calibrated",
                f"accuracy is {accuracy}. The model is calibrated up to {self.calibrated[-1][0]}.",
            )
        try:
            (found,) = self._view(view, among, k, accuracy)(probabilities[None])
        except UserError as error:
            raise _of_expression(error) from error
        return {
            "view": view,
            "answers": [classes.as_json(*answer) for answer in found],
            **_tree_of(found),
        }

    def choose(self, among: str, view: str = "subset") -> dict[str, Any]:
        """Return how many classes or synsets an expression chooses, and some of them.

        What is wrong with the expression is part of the answer, with the position where.

        Raises:
            RequestError: if the view cannot be used.
        """
        if reason := self.why_not(view):
            raise RequestError(422, "view_unusable", reason)
        chosen, error = [], None
        try:
            if view == "fold":
                chosen = fold_onto(among, self.predictor.hierarchy)
            else:
                mask = subsets.select(among, self.predictor.hierarchy)
                chosen = [self.predictor.classes.ids[label] for label in np.flatnonzero(mask)]
        except UserError as found:
            error = _of_expression(found).to_json()["error"]
        examples = [classes.name(class_id) for class_id in chosen[:_EXAMPLES]]
        return {"num_classes": len(chosen), "examples": examples, "error": error}

    def nearest(self, features: Float[np.ndarray, " F"], k: int) -> list[dict[str, Any]]:
        """Return the images nearest to one, whose number gives the image itself (`thumbnail`)."""
        assert self.index is not None
        return [
            {
                "number": found.row,
                "file": visible(Path(found.name).name),
                "class": classes.described(found.class_id) if found.class_id else None,
                "cosine": found.cosine,
            }
            for found in self.index.nearest(features, k)
        ]

    def thumbnail(self, number: int) -> bytes:
        """Return an image that is searched, small.

        Raises:
            RequestError: if there is none of this number, or it cannot be read any more.
        """
        if self.index is None or not 0 <= number < len(self.index.features):
            raise RequestError(404, "unknown_image", "There is no image of this number.")
        assert self._image_of is not None
        try:
            return _SMALL.recoded(self._image_of(number))
        except UserError as error:
            raise RequestError(
                404, "unknown_image", "This image cannot be read any more."
            ) from error

    def _new_view(self, view: str, among: str | None, k: int, accuracy: float) -> View:
        return self.predictor.view(view, among=among, k=k, accuracy=accuracy)

    @functools.cached_property
    def tree(self) -> bytes:
        """All classes and the synsets above them, as compressed JSON (`classes.nodes`)."""
        hierarchy = None if self.no_wordnet else self.predictor.hierarchy
        nodes = classes.nodes(self.predictor.classes, hierarchy)
        return gzip.compress(json.dumps(nodes).encode(), 6, mtime=0)


def served(
    predictors: Iterable[Predictor], batch_size: int, features: Iterable[Features | None] = ()
) -> dict[str, ServedModel]:
    """Return models by name: the last part of the path where each comes from, made unique.

    `features` has those of the images that each model searches.
    """
    found: dict[str, ServedModel] = {}
    for predictor, searched in itertools.zip_longest(predictors, features):
        path = Path(predictor.trained.origin.path).absolute()
        if path.name == "model.onnx":  # in a folder, which has the name
            path = path.parent
        stem = visible(path.stem if path.suffix == ".onnx" else path.name) or "model"
        name, number = stem, 1
        while name in found:
            number += 1
            name = f"{stem} ({number})"
        found[name] = ServedModel(name, predictor, batch_size, searched)
    return found


def expression_help() -> dict[str, Any]:
    """Return what the page completes in an expression besides names."""
    return {"keywords": list(subsets.KEYWORDS), "fold": FOLD_ONTO}


def _tree_of(answers: list[Answer]) -> dict[str, Any]:
    if any(answer.id in wordnet() for answer in answers):
        rows = outline.rows(answers)
        shown = [{**classes.as_json(row.id, row.probability), "depth": row.depth} for row in rows]
    else:
        shown = [{**classes.as_json(*answer), "depth": 0} for answer in answers]
    return {"tree": shown}


def _of_expression(error: UserError) -> RequestError:
    if isinstance(error, subsets.SubsetError):
        return RequestError(422, "bad_expression", error.problem, error.position)
    return RequestError(422, "view_unusable", str(error))
