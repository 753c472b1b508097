"""Predict with a trained model: from image files to answers, in one of several views.

An image is prepared as the model's training images were (`i21k.trained.Preprocessing`).
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from i21k.checkpoints import Which
from i21k.errors import UserError
from i21k.evaluation import priors
from i21k.evaluation.temperature import logs_of, tempered
from i21k.prediction.calibration import Calibrated, Calibrations
from i21k.prediction.held_out import calibrate_on, open_held_out
from i21k.prediction.model_views import View, check_regions, make_view
from i21k.prediction.regions import combined, parts
from i21k.trained import AnyImage, TrainedModel, in_batches_of, load_if_path
from i21k.wordnet.hierarchy import Hierarchy
from i21k.wordnet.taxonomy import wordnet
from i21k.wordnet.views import Answer, Probabilities

BATCH_SIZE = 8  # our choice: what the network takes at a time on a CPU, and little to pad


class Predictor:
    """A trained model with WordNet: classes, probabilities, features, and answers in a view.

    Wherever an image is taken it may be a path, the content of a file (bytes), a PIL image or a
    uint8 array [height, width, 3].
    """

    def __init__(
        self,
        model: str | Path | TrainedModel,
        batch_size: int = BATCH_SIZE,
        step: Which = "last",
    ) -> None:
        """Load a model.

        Args:
            model: a path as for `i21k.trained.load`, or what it returned.
            batch_size: how many images the network takes at a time; changes speed and memory only.
            step: which checkpoint of the run, as for `i21k.trained.load`.

        Raises:
            UserError: if there is no usable checkpoint, or a step is given with a loaded model.
        """
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}. Use at least 1.")
        self.trained = load_if_path(model, step)
        self.batch_size = batch_size
        self.workdir, self.classes = Path(self.trained.origin.path), self.trained.classes
        self.image_size = self.trained.preprocessing.image_size
        self.calibration = Calibrations(self.trained.origin)

    def __repr__(self) -> str:
        return f"Predictor({self.trained.origin}, {len(self.classes):,} classes)"

    # Probabilities and features

    def probabilities(
        self, images: AnyImage | Sequence[AnyImage], regions: bool = False
    ) -> Float[np.ndarray, "K"] | Float[np.ndarray, "B K"]:
        """Return the probability of each class: [K] for one image, [B, K] for several.

        Args:
            images: one image or several.
            regions: combine the probabilities of the whole image with those of nine regions of it
                (`i21k.prediction.regions`). A scene of several objects then shows more of them.

        Raises:
            UserError: naming the first that is not an image.
        """
        several, given = _as_list(images)
        prepared = [self.prepare(image, regions) for image in given]
        found = self.probabilities_of(prepared)
        return found if several else found[0]

    def calibrated(self, probabilities: Probabilities) -> Probabilities:
        """Return probabilities at the temperature of the newest calibration, as the views do.

        Raises:
            UserError: if the file of calibrations is damaged.
        """
        temperature = self.calibration.temperature()
        if temperature == 1:
            return probabilities
        return np.exp(tempered(logs_of(probabilities), temperature))

    def prepare(self, image: AnyImage, regions: bool = False) -> UInt8[np.ndarray, "R S S 3"]:
        """Return what the network is given for an image: R parts of S x S pixels.

        Args:
            image: to prepare.
            regions: False: only the whole image; True: it and nine regions of it.

        Raises:
            UserError: if it is no image.
        """
        if regions:
            return parts(self.trained.preprocessing, image)
        return self.trained.prepare(image)[None]

    def probabilities_of(
        self, prepared: Sequence[UInt8[np.ndarray, "R S S 3"]]
    ) -> Float[np.ndarray, "B K"]:
        """Return the probabilities of each image, from those of its parts (`prepare`)."""
        if not prepared:
            return np.empty((0, len(self.classes)), np.float32)
        with in_batches_of(self.trained, self.batch_size):
            found = self.trained.probabilities(np.concatenate(prepared))
        by_image = found.reshape(len(prepared), -1, found.shape[1])
        if by_image.shape[1] == 1:
            return by_image[:, 0]
        return np.stack([combined(of_parts) for of_parts in by_image])

    def features(
        self, images: AnyImage | Sequence[AnyImage]
    ) -> Float[np.ndarray, "F"] | Float[np.ndarray, "B F"]:
        """Return what the network knows of an image before its classes: [F], or [B, F] for several.

        Raises:
            UserError: naming the first that is not an image.
        """
        several, given = _as_list(images)
        size = self.image_size
        prepared = [self.trained.prepare(image) for image in given]
        with in_batches_of(self.trained, self.batch_size):
            found = self.trained.features(
                np.stack(prepared) if prepared else np.empty((0, size, size, 3), np.uint8)
            )
        return found if several else found[0]

    def predict(
        self,
        images: AnyImage | Sequence[AnyImage],
        view: str | View = "top",
        regions: bool = False,
        **options: Any,
    ) -> list[Answer] | list[list[Answer]]:
        """Return the answers for one image, or a list of answers for each of several.

        Args:
            images: one image or several.
            view: the name of a view, or what `view()` returned.
            regions: look at nine regions of each image too, as `probabilities` does.
            options: of the view, such as `k=3` or `among="under(dog)"`; with its name only.

        Raises:
            UserError: if the view cannot be used, or naming the first that is not an image.
        """
        if isinstance(view, str):
            view = self.view(view, **options)
        elif options:
            raise UserError(
                f"{', '.join(options)} is given with a view that is made already. Give options to"
                f" view(), or give the name {view.name!r} with them."
            )
        check_regions(view.name, regions)
        several, given = _as_list(images)
        answers = view(self.probabilities(given, regions))
        return answers if several else answers[0]

    # Answers

    @functools.cached_property
    def hierarchy(self) -> Hierarchy:
        """The model's classes in WordNet."""
        return Hierarchy(self.classes)

    def name(self, class_id: str) -> str:
        """Return the display name of a class or synset; other class ids are their own names."""
        return wordnet().name(class_id)

    def view(
        self,
        name: str = "top",
        among: str | None = None,
        k: int = 5,
        accuracy: float = 0.9,
        prior: str | Path | None = None,
        tau: float = 1.0,
        data: str | Path | None = None,
    ) -> View:
        """Return a function from probabilities [B, K] to answers.

        The probabilities are calibrated first, if the checkpoint has a temperature, and adjusted to
        other class frequencies. What is wrong with a view is found here, before any image is read.

        Args:
            name: one of `VIEWS`.
            among: expression (see `i21k.wordnet.subsets`): the classes of `subset`, or the synsets
                of `fold`, chosen from the classes of the model, of fall11 and of ilsvrc2012. With
                a `partition(...)` in it, each class counts for one synset only.
            k: at most this many answers; `hedge` gives one.
            accuracy: of `hedge`, for which the checkpoint was calibrated.
            prior: the class frequencies to expect: those of the training images ("train"), equal
                ones ("uniform"), or those of a file, see `i21k.evaluation.priors`. None: those that
                the model was trained for.
            tau: strength of the correction for them.
            data: dataset that the model was trained on, if the checkpoint has no class counts.

        Raises:
            UserError: if the view does not exist, the expression is wrong, the classes are not in
                WordNet, or `hedge` is not calibrated.
        """
        inner = make_view(
            name, self.trained, lambda: self.hierarchy, self.calibration, among, k, accuracy
        )
        offsets = priors.offsets_of(self.trained, prior, tau, data)
        if name == "hedge":
            if offsets is None:
                return View(name, inner)
            raise UserError(
                "view 'hedge' is calibrated for the class frequencies of its held-out images."
                " Omit the prior, or use another view."
            )
        temperature = self.calibration.temperature()
        if temperature == 1 and offsets is None:
            return View(name, inner)
        return View(
            name,
            lambda probabilities: inner(
                np.exp(priors.adjusted(tempered(logs_of(probabilities), temperature), offsets))
            ),
        )

    def calibrate(self, data: str | Path, split: str = "val", accuracy: float = 0.9) -> Calibrated:
        """Fit the temperature on held-out images, and how general `hedge` has to be.

        Both are saved beside the checkpoint. The other views use the temperature from then on.

        The other accuracies from 0.5 to 0.99 are calibrated on the way.

        Raises:
            UserError: if the data cannot be used (see `open_held_out`), or the accuracy is out of
                range or cannot be reached.
        """
        opened = open_held_out(self.trained, data, split)
        found, curve = calibrate_on(opened, self.trained, self.hierarchy, accuracy, self.batch_size)
        self.calibration.save(accuracy, found, data, split, opened.fingerprint, curve)
        return found


def _as_list(images: AnyImage | Sequence[AnyImage]) -> tuple[bool, list[AnyImage]]:
    """Return whether several images are given, and the images as a list."""
    several = not isinstance(images, (str, Path, bytes, Image.Image)) and not (
        isinstance(images, np.ndarray) and images.ndim < 4
    )
    return several, list(images) if several else [images]  # type: ignore[arg-type, list-item]


def load_model(path: str | Path, batch_size: int = BATCH_SIZE, step: Which = "last") -> Predictor:
    """Load a trained model: a checkpoint, an export or an ONNX classifier.

    >>> import i21k
    >>> model = i21k.load_model("runs/quickstart")
    >>> answers = model.predict("fruit.jpg", k=2)
    >>> [model.name(answer.id) for answer in answers]
    ['great white shark', 'tench']
    >>> model.probabilities(["fruit.jpg", "fruit.jpg"]).shape
    (2, 4)
    >>> model.features(["fruit.jpg"]).ndim
    2
    >>> diverse = model.view("diverse")
    >>> len(model.predict(["fruit.jpg"], diverse))
    1

    Args:
        path: the working directory of a run or of an imported model; a folder with an export as
            safetensors; or an ONNX file with its class list.
        batch_size: how many images the network takes at a time; changes speed and memory only.
        step: which checkpoint of the run: "last", "best" or a number. Other models have only one.

    Raises:
        UserError: if there is no usable checkpoint.
    """
    return Predictor(path, batch_size, step)
