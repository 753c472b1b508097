"""An ONNX classifier as a trained model: ours, or anyone's with a class list and a preprocessing.

Nothing of the file is executed but ONNX's own operators. Needs the extra `onnx`.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from i21k.errors import UserError
from i21k.labels import ClassList
from i21k.models.probabilities import Probability
from i21k.trained.beside import Beside, Normalisation, own_contract, read_beside
from i21k.trained.model import BATCH_SIZE, Origin
from i21k.trained.onnx_file import (
    check_sizes,
    last_operator,
    layout,
    open_session,
    output_names,
    read,
)
from i21k.trained.preprocessing import AnyImage, Preprocessing
from i21k.wordnet import class_lists


class OnnxModel:
    """An ONNX file on the CPU, with the interface of `i21k.trained.TrainedModel`."""

    def __init__(
        self,
        path: str | Path,
        classes: ClassList | None = None,
        preprocessing: Preprocessing | None = None,
        normalisation: Normalisation | None = None,
    ) -> None:
        """Open and check a file.

        Args:
            path: an ONNX classifier with one image input of rank 4, float or uint8.
            classes: in the order of the outputs. None: those in the file or its folder.
            preprocessing: None: that of the file or its folder.
            normalisation: of a float input. None: that of the folder, else ImageNet's.

        Raises:
            UserError: if the extra is missing, or the file is not a classifier that can be used.
        """
        self._path = Path(path)
        proto, digest = read(self._path)
        about = {entry.key: entry.value for entry in proto.metadata_props}
        found = read_beside(self._path)
        self._session = open_session(self._path)
        self._input = self._session.get_inputs()[0]
        self._channels_first, self._is_uint8 = layout(self._path, self._input)
        fixed_size = self._input.shape[2] if self._channels_first else self._input.shape[1]
        size = fixed_size if isinstance(fixed_size, int) else None
        own = "preprocessing" in about and proto.producer_name == "i21k"
        if own and preprocessing is None:
            preprocessing = own_contract(self._path, about)
        elif preprocessing is None:
            preprocessing = found.preprocessing(size)
        if size is not None and size != preprocessing.image_size:
            raise UserError(
                f"{self._path} takes images of {size} px; the preprocessing is for"
                f" {preprocessing.image_size} px. Use --size {size}."
            )
        self.preprocessing = preprocessing
        self._normalisation = normalisation or found.normalisation()
        if own and "normalisation" in about:  # of an input of floats
            saved = json.loads(about["normalisation"])
            self._normalisation = Normalisation(tuple(saved["mean"]), tuple(saved["std"]))
        self.classes = self._classes(classes, about, found)
        self._outputs = output_names(self._path, self._session, len(self.classes))
        self._ends_in = last_operator(proto, self._outputs[0])
        self.probability: Probability = "sigmoid" if self._ends_in == "Sigmoid" else "softmax"
        if own:
            self.probability = json.loads(about["preprocessing"]).get("probability", "softmax")
        self.origin = Origin(str(self._path), 0, digest)
        self.batch_size = BATCH_SIZE
        self.train_fingerprint: str | None = None
        check_sizes(self._path, proto, self._input, preprocessing.image_size)

    @property
    def image_size(self) -> int:
        """Side of the square that the network takes, in px."""
        return self.preprocessing.image_size

    @property
    def crop_fraction(self) -> float:
        """Side of the central crop over the short side of the image."""
        return self.preprocessing.crop_fraction

    def prepare(self, image: AnyImage) -> UInt8[np.ndarray, "S S 3"]:
        """Return the input for a file, bytes, a PIL image or an array."""
        return self.preprocessing.prepare(image)

    def probabilities(self, images: UInt8[np.ndarray, "B S S 3"]) -> Float[np.ndarray, "B K"]:
        """Return the probability of each class."""
        found = self._run(images, self._outputs[0])
        if self._ends_in in ("Softmax", "Sigmoid"):
            return found
        if self.probability == "sigmoid":
            return (1 / (1 + np.exp(-found.astype(np.float64)))).astype(np.float32)
        wide = found.astype(np.float64)
        exponentials = np.exp(wide - wide.max(axis=1, keepdims=True))
        return (exponentials / exponentials.sum(axis=1, keepdims=True)).astype(np.float32)

    def features(self, images: UInt8[np.ndarray, "B S S 3"]) -> Float[np.ndarray, "B F"]:
        """Return what the classifier head takes.

        Raises:
            UserError: if the file has no second output with one row of numbers per image.
        """
        if self._outputs[1] is None:
            raise UserError(
                f"{self._path} has no output of features. Export the model with a second output"
                " [batch, features] named 'features'."
            )
        return self._run(images, self._outputs[1])

    def _run(self, images: UInt8[np.ndarray, "B S S 3"], output: str) -> np.ndarray:
        fixed = self._input.shape[0]
        size = fixed if isinstance(fixed, int) and fixed > 0 else self.batch_size
        found = []
        for start in range(0, len(images), size):
            part = images[start : start + size]
            num = len(part)
            if isinstance(fixed, int) and num < size:
                part = np.concatenate([part, np.zeros((size - num, *part.shape[1:]), np.uint8)])
            try:
                result = self._session.run([output], {self._input.name: self._as_input(part)})[0]
            except Exception as error:  # onnxruntime has exceptions of its own, all about the file
                raise UserError(
                    f"{self._path} cannot be run ({str(error).splitlines()[0]}). Check it with the"
                    " program that wrote it."
                ) from error
            found.append(np.asarray(result, np.float32).reshape(len(part), -1)[:num])
        width = len(self.classes) if output == self._outputs[0] else 0
        return np.concatenate(found) if found else np.empty((0, width), np.float32)

    def _as_input(self, images: UInt8[np.ndarray, "B S S 3"]) -> np.ndarray:
        if self._is_uint8:
            return images.transpose(0, 3, 1, 2) if self._channels_first else images
        mean = np.array(self._normalisation.mean, np.float32)
        std = np.array(self._normalisation.std, np.float32)
        normalised = (images.astype(np.float32) / np.float32(255) - mean) / std
        if self._channels_first:
            normalised = normalised.transpose(0, 3, 1, 2)
        kind = np.float16 if self._input.type == "tensor(float16)" else np.float32
        return np.ascontiguousarray(normalised, kind)

    def _classes(
        self, given: ClassList | None, about: Mapping[str, str], found: Beside
    ) -> ClassList:
        classes = given
        if classes is None and "class_ids" in about:
            classes = ClassList(tuple(json.loads(about["class_ids"])))
        if classes is None:
            classes = found.classes()
        widths = [s.shape[-1] for s in self._session.get_outputs() if len(s.shape or ()) == 2]
        fits = [name for name in class_lists.NAMES if len(class_lists.named(name)) in widths]
        hint = f"Class lists that fit: {', '.join(fits)}." if fits else "No named list fits."
        if classes is None:
            raise UserError(f"{self._path} has no class list. Give --classes NAME|FILE. {hint}")
        if len(classes) not in widths and any(isinstance(width, int) for width in widths):
            raise UserError(
                f"{self._path} has outputs of {widths} numbers, and the class list has"
                f" {len(classes):,} classes. {hint}"
            )
        return classes
