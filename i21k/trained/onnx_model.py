"""An ONNX classifier as a trained model: ours, or anyone's with a class list and a preprocessing.

Nothing of the file is executed but ONNX's own operators. Needs the extra `onnx`.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from i21k import log
from i21k.errors import UserError
from i21k.files import parse_json
from i21k.labels import ClassList
from i21k.models.probabilities import Probability
from i21k.trained import onnx_file, onnx_graph
from i21k.trained.beside import Normalisation, read_beside
from i21k.trained.model import BATCH_SIZE, Origin
from i21k.trained.onnx_session import OnnxSession
from i21k.trained.preprocessing import AnyImage, Preprocessing
from i21k.wordnet import class_lists


class Graph(NamedTuple):
    """The input and the output of classes of a file."""

    input: onnx_graph.ImageInput
    normalisation: Normalisation  # of an input of floats
    output: str
    ends_in: str  # operator of the output: Softmax, Sigmoid, or another one for logits


class OnnxModel:
    """An ONNX file on the CPU, with the interface of `i21k.trained.TrainedModel`."""

    def __init__(
        self,
        path: str | Path,
        classes: ClassList | None = None,
        preprocessing: Preprocessing | None = None,
        normalisation: Normalisation | None = None,
        image_size: int | None = None,
        crop_fraction: float | None = None,
    ) -> None:
        """Open a file, check it, and run it once.

        Args:
            path: an ONNX classifier with one image input of rank 4, float or uint8.
            classes: in the order of the outputs. None: those in the file or its folder.
            preprocessing: None: that of the file or its folder.
            normalisation: of a float input. None: that of the folder, else ImageNet's.
            image_size: in px, instead of that of `preprocessing`.
            crop_fraction: instead of that of `preprocessing`.

        Raises:
            UserError: if the extra is missing, or the file is not a classifier that can be used.
        """
        self._path = Path(path)
        proto, digest = onnx_file.read(self._path)
        self.has_external_data = onnx_file.has_external_data(proto)
        self._input = onnx_graph.image_input(self._path, proto)
        own = _own_description(self._path, proto)
        beside = read_beside(self._path, self._input.size)
        base = preprocessing or own.preprocessing
        if base is None:
            size = self._input.size if image_size is None else image_size
            base = beside.preprocessing(size, crop_fraction)
        self.preprocessing = dataclasses.replace(
            base,
            image_size=base.image_size if image_size is None else image_size,
            crop_fraction=base.crop_fraction if crop_fraction is None else crop_fraction,
        )
        self._check_size()
        self._normalisation = (
            normalisation or own.normalisation or beside.normalisation or Normalisation()
        )
        onnx_graph.check_sizes(self._path, proto, self._input, self.preprocessing.image_size)
        candidates = onnx_graph.expose_features(proto)
        self._session = OnnxSession(
            self._path, proto.SerializeToString(), onnx_file.external_folder(self._path)
        )
        widths = self._widths()
        self.classes = self._classes(classes or own.classes or beside.classes(), widths)
        self._logits, self._features = self._outputs(widths, candidates)
        self._ends_in = onnx_graph.last_operator(proto, self._logits)
        self.probability: Probability = own.probability or (
            "sigmoid" if self._ends_in == "Sigmoid" else "softmax"
        )
        self.origin = Origin(str(self._path), 0, digest)
        self.batch_size = BATCH_SIZE
        self.train_fingerprint: str | None = None
        self.class_counts: Int[np.ndarray, " K"] | None = None

    @property
    def image_size(self) -> int:
        """Side of the square that the network takes, in px."""
        return self.preprocessing.image_size

    @property
    def crop_fraction(self) -> float:
        """Side of the central crop over the short side of the image."""
        return self.preprocessing.crop_fraction

    @property
    def graph(self) -> Graph:
        """What another program has to know to run the file."""
        return Graph(self._input, self._normalisation, self._logits, self._ends_in)

    @property
    def num_features(self) -> int:
        """The number of features.

        Raises:
            UserError: if the file has none.
        """
        return self._features_or_refuse()[1]

    def prepare(self, image: AnyImage) -> UInt8[np.ndarray, "S S 3"]:
        """Return the input for a file, bytes, a PIL image or an array."""
        return self.preprocessing.prepare(image)

    def probabilities(self, images: UInt8[np.ndarray, "B S S 3"]) -> Float[np.ndarray, "B K"]:
        """Return the probability of each class."""
        found = self._run(images, self._logits, len(self.classes))
        if self._ends_in in ("Softmax", "Sigmoid"):
            return found
        if self.probability == "sigmoid":
            return (1 / (1 + np.exp(-found.astype(np.float64)))).astype(np.float32)
        wide = found.astype(np.float64)
        exponentials = np.exp(wide - wide.max(axis=1, keepdims=True))
        return (exponentials / exponentials.sum(axis=1, keepdims=True)).astype(np.float32)

    def features(self, images: UInt8[np.ndarray, "B S S 3"]) -> Float[np.ndarray, "B F"]:
        """Return what the classifier head takes: the output `features`, or the head's input.

        Raises:
            UserError: if the file has neither.
        """
        return self._run(images, *self._features_or_refuse())

    def _features_or_refuse(self) -> tuple[str, int]:
        if self._features is None:
            raise UserError(
                f"{self._path} has no output of features, and no fully connected layer before its"
                " classes. Export the model with a second output [batch, features] named"
                " 'features'."
            )
        return self._features

    def _run(
        self, images: UInt8[np.ndarray, "B S S 3"], output: str, width: int
    ) -> Float[np.ndarray, "B N"]:
        fixed = self._input.batch
        size = fixed or self.batch_size
        found = np.empty((len(images), width), np.float32)
        for start in range(0, len(images), size):
            part = images[start : start + size]
            num = len(part)
            if fixed is not None and num < fixed:
                part = np.concatenate([part, np.zeros((fixed - num, *part.shape[1:]), np.uint8)])
            (result,) = self._session.run([output], {self._input.name: self._as_input(part)})
            found[start : start + num] = result.reshape(len(part), -1)[:num]
        return found

    def _as_input(self, images: UInt8[np.ndarray, "B S S 3"]) -> np.ndarray:
        first = self._input.channels_first
        if self._input.kind == "uint8":
            return np.ascontiguousarray(images.transpose(0, 3, 1, 2)) if first else images
        mean = np.array(self._normalisation.mean, np.float32)
        std = np.array(self._normalisation.std, np.float32)
        normalised = (images.astype(np.float32) / np.float32(255) - mean) / std
        if first:
            normalised = normalised.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(normalised, self._input.kind)

    def _check_size(self) -> None:
        fixed, ours = self._input.size, self.preprocessing.image_size
        if fixed is not None and fixed != ours:
            raise UserError(
                f"{self._path} takes images of {fixed} px; the preprocessing is for {ours} px. Use"
                f" --size {fixed}."
            )

    def _widths(self) -> dict[str, int]:
        """Run the model once; return the outputs with one row of numbers per image."""
        shape = self._input.shape(self.preprocessing.image_size)
        blank = np.zeros(shape, np.dtype(self._input.kind))
        found = self._session.try_run({self._input.name: blank})
        rows = {name: x for name, x in found.items() if x.ndim >= 2 and len(x) == len(blank)}
        return {name: x[0].size for name, x in rows.items() if x[0].size == max(x.shape[1:])}

    def _classes(self, classes: ClassList | None, widths: Mapping[str, int]) -> ClassList:
        named = {name: len(class_lists.named(name)) for name in class_lists.NAMES}
        fits = [name for name, num in named.items() if num in widths.values()]
        hint = f"Class lists that fit: {', '.join(fits)}." if fits else "No named list fits."
        if classes is None:
            raise UserError(f"{self._path} has no class list. Give --classes NAME|FILE. {hint}")
        if len(classes) not in widths.values():
            sizes = " and ".join(f"{width:,}" for width in widths.values()) or "no"
            raise UserError(
                f"{self._path} has outputs of {sizes} numbers, and the class list has"
                f" {len(classes):,} classes. {hint}"
            )
        if fits and not any(c in class_lists.named(fits[0]).label_of for c in classes.ids):
            log.note(
                f"the classes of {self._path} are no WordNet ids, so only the view top answers."
                f" If they are in the order of a known list, give --classes ({', '.join(fits)})."
            )
        return classes

    def _outputs(
        self, widths: Mapping[str, int], candidates: list[str]
    ) -> tuple[str, tuple[str, int] | None]:
        """Return the output of classes, and the one of features with its width."""
        fits = [name for name, width in widths.items() if width == len(self.classes)]
        logits = "logits" if "logits" in fits else fits[0]
        features = [name for name in candidates if name in widths and name != logits]
        return logits, (features[0], widths[features[0]]) if features else None


class _Own(NamedTuple):
    """The metadata of a file of ours."""

    classes: ClassList | None = None
    preprocessing: Preprocessing | None = None
    normalisation: Normalisation | None = None  # of an input of floats
    probability: Probability | None = None


def _own_description(path: Path, proto: Any) -> _Own:
    """Read the metadata of a file of ours; of others there is nothing to read.

    Raises:
        UserError: if it is damaged.
    """
    about = {entry.key: entry.value for entry in proto.metadata_props}
    if not {"class_list_hash", "preprocessing"} <= about.keys():
        return _Own()
    try:
        saved = parse_json(about["preprocessing"])
        probability = saved.pop("probability", "softmax")
        scaling = parse_json(about["normalisation"])
        return _Own(
            ClassList(tuple(parse_json(about["class_ids"]))),
            Preprocessing.from_json(saved),
            Normalisation(tuple(scaling["mean"]), tuple(scaling["std"])),
            "sigmoid" if probability == "sigmoid" else "softmax",
        )
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise UserError(f"The metadata of {path} is damaged ({error}). Export it again.") from error
