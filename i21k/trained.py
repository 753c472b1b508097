"""A trained model: its classes, how images are prepared for it, and its probabilities and features.

Everything that uses a trained model starts here. `TrainedModel` knows nothing of JAX, so that
models of other frameworks can implement it.
"""

import dataclasses
import io
import math
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from flax import traverse_util
from jaxtyping import Array, Float, UInt8
from PIL import Image, ImageOps

from i21k import log
from i21k.checkpoints import Checkpoint, Checkpoints, Which
from i21k.data.format.manifest import read_manifest
from i21k.data.format.splits import Split
from i21k.errors import UserError
from i21k.images.boxes import window_boxes
from i21k.images.decode import crop_into, decode, read_size
from i21k.images.recode import FORMATS, MAX_SIDE_PX, Unreadable, recode
from i21k.labels import ClassList
from i21k.models.network import Network, build
from i21k.models.probabilities import Probability

MAX_IMAGE_SIZE = 4096  # px, our choice: a larger number is damage, not a network's input
MAX_FILE_BYTES = 1 << 27  # our choice, as for the packer: no larger file is read into memory
BATCH_SIZE = 8  # our choice: what the network takes at a time on a CPU
_DEFAULT_SHORT_SIDE_PX, _DEFAULT_QUALITY = 256, 90  # of the packer when contracts were not saved
_NEGATIVE_VARIANCE = -1e-3  # of the largest variance: rounding gives less, damage gives more

AnyImage = str | Path | bytes | Image.Image | np.ndarray


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """What happens to an image before the network: the contract between packing and prediction."""

    image_size: int  # px, of the square that the network takes
    crop_fraction: float  # side of the central crop over the short side of the image
    short_side_px: int | None = _DEFAULT_SHORT_SIDE_PX  # 0 or None: images keep their size
    quality: int | None = _DEFAULT_QUALITY  # of the JPEG that is stored; None: images are as found
    resampling: str = "bicubic, antialiased"  # from the original to the short side
    normalisation: str = "by the network, which takes RGB values of 0 to 255"

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            UserError: naming the first value that is out of range.
        """
        _check_int("image_size", self.image_size, 1, MAX_IMAGE_SIZE)
        if not _is_number(self.crop_fraction) or not 0 < self.crop_fraction <= 1:
            raise UserError(
                f"crop_fraction is {self.crop_fraction!r}. Expected a number above 0, at most 1."
            )
        if self.short_side_px is not None:
            _check_int("short_side_px", self.short_side_px, 0, MAX_SIDE_PX)
        if self.quality is not None:
            _check_int("quality", self.quality, 1, 100)
        if not isinstance(self.resampling, str) or not isinstance(self.normalisation, str):
            raise UserError("resampling and normalisation must be texts.")

    @classmethod
    def from_split(cls, split: Split, image_size: int, crop_fraction: float) -> "Preprocessing":
        """Return the contract of a model that is trained on a split.

        The packing options come from the manifest. A dataset that TFDS made has none: its images
        are as they were found.
        """
        manifest = read_manifest(split.directory)
        if manifest is None or split.split not in manifest.splits:
            return cls(image_size, crop_fraction, None, None, "none")
        options = manifest.splits[split.split].options
        return cls(
            image_size,
            crop_fraction,
            options.get("short_side", _DEFAULT_SHORT_SIDE_PX),
            options.get("quality", _DEFAULT_QUALITY),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the contract as it is saved with a checkpoint."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, saved: Any) -> "Preprocessing":
        """Return the contract that `to_json` gave.

        Raises:
            UserError: if a key is unknown or missing, or a value is out of range.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(saved, dict):
            raise UserError(f"preprocessing is {saved!r}. Expected an object with {sorted(known)}.")
        if unknown := sorted(set(saved) - known):
            raise UserError(f"preprocessing has the unknown key {unknown[0]!r}. Update i21k.")
        if missing := sorted({"image_size", "crop_fraction"} - set(saved)):
            raise UserError(f"preprocessing lacks {missing[0]}. The description is damaged.")
        return cls(**saved)

    def prepare(self, image: AnyImage) -> UInt8[np.ndarray, "S S 3"]:
        """Return what a network sees of an image: recoded as by the packer, then the central crop.

        Raises:
            UserError: if it is not an image, or cannot be read.
        """
        jpeg = self.recoded(image)
        height, width = read_size(jpeg)
        prepared = np.empty((self.image_size, self.image_size, 3), np.uint8)
        y, x, h, w = window_boxes(np.array([[height, width]]), self.crop_fraction, 0.5)[0].tolist()
        crop_into(prepared, decode(jpeg, height, width), (y, x, h, w))
        return prepared

    def recoded(self, image: AnyImage) -> bytes:
        """Return an image as the packer would have stored it in the training data.

        Raises:
            UserError: if it is not an image, or cannot be read.
        """
        name, content = _encoded(image)
        try:
            return recode(content, self.short_side_px or 0, self.quality or _DEFAULT_QUALITY)
        except Unreadable as error:
            raise UserError(f"{name}: {error}; expected a whole {', '.join(FORMATS)}") from error


class Origin(NamedTuple):
    """Where a trained model comes from."""

    path: str
    step: int
    digest: str  # of the description, which has the digests of all arrays

    def __str__(self) -> str:
        return f"{self.path}, step {self.step:,}"


@runtime_checkable
class TrainedModel(Protocol):
    """A model that is ready to answer. Nothing here depends on a framework."""

    @property
    def classes(self) -> ClassList:
        """The classes, in the order of the outputs."""

    @property
    def preprocessing(self) -> Preprocessing:
        """What has to happen to an image first."""

    @property
    def origin(self) -> Origin:
        """Where the model comes from."""

    @property
    def probability(self) -> Probability:
        """Whether the classes exclude each other ("softmax") or not ("sigmoid")."""

    def prepare(self, image: AnyImage) -> UInt8[np.ndarray, "S S 3"]:
        """Return what the model sees of a file, of bytes, of a PIL image or of an array."""

    def probabilities(self, images: UInt8[np.ndarray, "B S S 3"]) -> Float[np.ndarray, "B K"]:
        """Return the probability of each class. Images do not influence each other."""

    def features(self, images: UInt8[np.ndarray, "B S S 3"]) -> Float[np.ndarray, "B F"]:
        """Return what the classifier head takes: a description of the image without classes."""


class CheckpointModel:
    """A checkpoint of ours on one device; compiled at its first batch."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        path: str | Path,
        preprocessing: Preprocessing,
        network: Network,
        probability: Probability,
    ) -> None:
        self.checkpoint, self.preprocessing = checkpoint, preprocessing
        self.network, self.probability = network, probability
        self.classes = checkpoint.classes
        self.origin = Origin(str(path), checkpoint.step, checkpoint.meta["meta_digest"])
        self.variables = {key: checkpoint.tree[key] for key in ("params", "batch_stats")}
        self.batch_size = BATCH_SIZE
        self._ready: tuple[Any, Any] | None = None

    @property
    def image_size(self) -> int:
        """Side of the square that the network takes, in px."""
        return self.preprocessing.image_size

    @property
    def crop_fraction(self) -> float:
        """Side of the central crop over the short side of the image."""
        return self.preprocessing.crop_fraction

    @property
    def train_fingerprint(self) -> str | None:
        """Fingerprint of the split that it was trained on, where that is known."""
        return self.checkpoint.meta.get("data", {}).get("fingerprint")

    def prepare(self, image: AnyImage) -> UInt8[np.ndarray, "S S 3"]:
        """Return what the model sees of a file, of bytes, of a PIL image or of an array."""
        return self.preprocessing.prepare(image)

    def probabilities(self, images: UInt8[np.ndarray, "B S S 3"]) -> Float[np.ndarray, "B K"]:
        """Return the probability of each class; how many images come together changes nothing."""
        return self._outputs(images, 0, len(self.classes))

    def features(self, images: UInt8[np.ndarray, "B S S 3"]) -> Float[np.ndarray, "B F"]:
        """Return what the classifier head takes."""
        return self._outputs(images, 1, self.network.num_features)

    def logits(self, images: UInt8[np.ndarray, "B S S 3"]) -> Float[np.ndarray, "B K"]:
        """Return the outputs before they become probabilities."""
        return self._outputs(images, 2, len(self.classes))

    def _outputs(self, images: UInt8[np.ndarray, "B S S 3"], which: int, width: int) -> np.ndarray:
        answer, variables = self._answer()
        found = np.empty((len(images), width), np.float32)
        for start in range(0, len(images), self.batch_size):
            part = images[start : start + self.batch_size]
            padded = np.zeros((self.batch_size, *images.shape[1:]), np.uint8)
            padded[: len(part)] = part
            outputs = jax.device_get(answer(variables, padded)[which])
            found[start : start + len(part)] = outputs[: len(part)]
        return found

    def _answer(self) -> tuple[Any, Any]:
        """Return the compiled function, and the variables for it on the device."""
        if self._ready is None:
            device = jax.local_devices()[0]
            network, convert = self.network.for_inference(device.platform)
            normalised = jax.nn.softmax if self.probability == "softmax" else jax.nn.sigmoid

            def answer(
                variables: Any, images: UInt8[Array, "B S S 3"]
            ) -> tuple[Float[Array, "B K"], Float[Array, "B F"], Float[Array, "B K"]]:
                output = network.apply(variables, network.prepare(images))
                return normalised(output.logits), output.features, output.logits

            self._ready = jax.jit(answer), jax.device_put(convert(self.variables), device)
        return self._ready


def load(path: str | Path, step: Which = "last") -> CheckpointModel:
    """Load a checkpoint of a run or of an imported model.

    Args:
        path: the working directory of the run.
        step: which checkpoint: "last" is the newest intact one, "best" the best by the metric that
            the recipe names in `log.keep_best`, a number that of a step.

    Raises:
        UserError: if there is no such intact checkpoint, or its description does not fit its arrays.
    """
    checkpoint = Checkpoints(Path(path) / "checkpoints").find(step)
    if checkpoint is None:
        raise UserError(
            f"{path} holds no checkpoint. Give the working directory of a run, such as "
            "runs/quickstart."
        )
    if "classes" not in checkpoint.meta:
        raise UserError(
            f"Checkpoint {checkpoint.step} of {path} has no class list, so the meaning of its "
            "outputs is unknown. Import the model again with its --synset, or train it again."
        )
    try:
        preprocessing, network, probability = _described(checkpoint)
    except UserError as error:
        raise UserError(
            f"Checkpoint {checkpoint.step} of {path} cannot be used: {error} Use another "
            "checkpoint, or train or import the model again."
        ) from error
    if "preprocessing" not in checkpoint.meta:
        log.note(
            f"checkpoint {checkpoint.step} of {path} does not say how its images were packed; "
            f"assuming --short-side {preprocessing.short_side_px} --quality {preprocessing.quality}"
        )
    return CheckpointModel(checkpoint, path, preprocessing, network, probability)


def _described(checkpoint: Checkpoint) -> tuple[Preprocessing, Network, Probability]:
    """Check the whole description of a checkpoint against its arrays, and return what it describes.

    Raises:
        UserError: naming what is wrong.
    """
    meta = checkpoint.meta
    if not isinstance(meta["classes"], list) or not all(
        isinstance(c, str) for c in meta["classes"]
    ):
        raise UserError("classes is not a list of texts.")
    classes = checkpoint.classes
    if meta.get("classes_hash", classes.hash) != classes.hash:
        raise UserError("The class list does not match its SHA-256.")
    saved = meta.get("preprocessing", meta.get("input"))
    preprocessing = Preprocessing.from_json(saved)
    probability = meta.get("probability", "softmax")
    if probability not in ("softmax", "sigmoid"):
        raise UserError(f"probability is {probability!r}. Expected 'softmax' or 'sigmoid'.")
    network = _network(meta.get("model"), len(classes))
    network.check_size(preprocessing.image_size, preprocessing.image_size)
    _check_arrays(network, checkpoint.tree, preprocessing.image_size)
    return preprocessing, network, probability


def _network(description: Any, num_classes: int) -> Network:
    if not isinstance(description, dict):
        raise UserError(f"model is {description!r}. Expected the description of a network.")
    for key, value in description.items():
        if value is not None and not isinstance(value, (str, bool)) and not _is_number(value):
            raise UserError(f"model.{key} is {value!r}. Expected a text or a number.")
    width = description.get("width", 1.0)
    if not _is_number(width) or not 0 < width <= 64:
        raise UserError(f"model.width is {width!r}. Expected a number above 0, at most 64.")
    try:
        return build(description, num_classes)
    except TypeError as error:  # of a value, such as the name of a type that does not exist
        raise UserError(f"model is {description!r}, which is not a network ({error}).") from error


def _check_arrays(network: Network, tree: Mapping[str, Any], image_size: int) -> None:
    """Check that the variables are those of the network: names, shapes, finite, variances."""
    expected = traverse_util.flatten_dict(network.shapes(image_size), sep="/")
    variables = {key: tree[key] for key in ("params", "batch_stats") if key in tree}
    given = traverse_util.flatten_dict(variables, sep="/")
    for path in sorted(set(expected) | set(given)):
        if path not in given:
            raise UserError(f"The array {path} is missing.")
        if path not in expected:
            raise UserError(f"The array {path} is not part of the network.")
        array = np.asarray(given[path])
        if array.shape != expected[path].shape or not np.issubdtype(array.dtype, np.floating):
            wanted = f"float32{list(expected[path].shape)}"
            raise UserError(
                f"The array {path} is {array.dtype}{list(array.shape)}. Expected {wanted}."
            )
        if not np.isfinite(array).all():
            raise UserError(f"The array {path} has values that are not finite.")
    for _, variance in network.moments(variables.get("batch_stats", {})):
        array = np.asarray(given["/".join(("batch_stats", *variance))])
        if array.min() < _NEGATIVE_VARIANCE * max(float(array.max()), 1e-6):
            raise UserError(f"The variance {'/'.join(variance)} is negative ({array.min():g}).")


def _encoded(image: AnyImage) -> tuple[str, bytes]:
    """Return a name for messages, and the image as a file's content."""
    if isinstance(image, bytes):
        return "The image given as bytes", image
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)):
            raise UserError(
                f"An image is given as an array {image.dtype}{list(image.shape)}. "
                "Expected uint8 [height, width, 3], RGB."
            )
        image = Image.fromarray(image)
    if isinstance(image, Image.Image):
        upright = ImageOps.exif_transpose(image)
        if upright.mode not in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
            upright = upright.convert("RGB")
        file = io.BytesIO()
        upright.save(file, "PNG", compress_level=1, icc_profile=upright.info.get("icc_profile"))
        return "The image given", file.getvalue()
    if not isinstance(image, (str, Path)):
        raise UserError(
            f"An image is given as {type(image).__name__}. "
            "Expected a path, bytes, a PIL image or a uint8 array."
        )
    path = Path(image)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device may never end
            raise UserError(f"{path}: not a regular file; expected a whole {', '.join(FORMATS)}")
        if status.st_size > MAX_FILE_BYTES:
            raise UserError(
                f"{path}: file larger than {MAX_FILE_BYTES >> 20} MiB; "
                f"expected a whole {', '.join(FORMATS)}"
            )
        return str(path), path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path}: {error.strerror or error}; expected an image that can be read"
        ) from error


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _check_int(name: str, value: Any, least: int, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise UserError(f"{name} is {value!r}. Expected a whole number from {least} to {most:,}.")
