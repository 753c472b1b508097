"""A checkpoint of ours as a trained model: read, checked against its description, and compiled."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from flax import traverse_util
from jaxtyping import Array, Float, Int, UInt8

from i21k import log
from i21k.checkpoints import Checkpoint, Checkpoints, Which
from i21k.errors import UserError
from i21k.models.network import Network, build
from i21k.models.probabilities import Probability
from i21k.trained.model import BATCH_SIZE, Origin
from i21k.trained.onnx_file import refuse_other_formats
from i21k.trained.preprocessing import AnyImage, Preprocessing, is_number
from i21k.trained.safetensors import is_safetensors, read_safetensors

Weights = Literal["recipe", "last", "average"]

_NEGATIVE_VARIANCE = -1e-3  # of the largest variance: rounding gives less, damage gives more


class CheckpointModel:
    """A checkpoint of ours on one device; compiled at its first batch."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        path: str | Path,
        preprocessing: Preprocessing,
        network: Network,
        probability: Probability,
        is_average: bool = False,
    ) -> None:
        """Describe a model.

        Args:
            checkpoint: with its metadata.
            path: of its run.
            preprocessing: of images.
            network: to run.
            probability: how logits become probabilities.
            is_average: whether its weights are the moving average of the training.
        """
        self.checkpoint, self.preprocessing = checkpoint, preprocessing
        self.network, self.probability = network, probability
        self.classes = checkpoint.classes
        digest = checkpoint.meta["meta_digest"]
        if is_average:  # so that nothing that was measured with the other weights is taken for it
            digest = hashlib.sha256(f"{digest} average".encode()).hexdigest()
        self.origin = Origin(str(path), checkpoint.step, digest)
        self.is_average = is_average
        self.variables = _weights(checkpoint, is_average)
        self.batch_size = BATCH_SIZE
        data = checkpoint.meta.get("data", {})
        self.train_fingerprint: str | None = data.get("fingerprint")
        counts = checkpoint.meta.get("class_counts")
        self.class_counts: Int[np.ndarray, " K"] | None = (
            None if counts is None else np.array(counts, np.int64)
        )
        self._ready: tuple[Any, Any] | None = None

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


def load_checkpoint(
    path: str | Path, step: Which = "last", weights: Weights = "recipe"
) -> CheckpointModel:
    """Load a checkpoint of a run, of an imported model or of an export as safetensors.

    Args:
        path: the working directory, or the folder of the export.
        step: which checkpoint: "last" is the newest intact one, "best" the best by the metric that
            the recipe names in `log.keep_best`, a number that of a step. An export has only one.
        weights: those of the last step, their moving average, or those that `ema.use` of the
            recipe selects.

    Raises:
        UserError: if there is no such intact checkpoint, its description does not fit its arrays,
            or it has no average.
    """
    if is_safetensors(Path(path)):
        checkpoint: Checkpoint | None = read_safetensors(Path(path))
    else:
        checkpoint = Checkpoints(Path(path) / "checkpoints").find(step)
    if checkpoint is None:
        refuse_other_formats(Path(path))
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
        is_average = _is_average(checkpoint, weights)
        preprocessing, network, probability = described(checkpoint, is_average)
    except UserError as error:
        raise UserError(
            f"Checkpoint {checkpoint.step} of {path} cannot be used: {error} Use another "
            "checkpoint, or train or import the model again."
        ) from error
    if "preprocessing" not in checkpoint.meta:
        log.note(
            f"checkpoint {checkpoint.step} of {path} has no record of how its images were packed; "
            f"assuming --short-side {preprocessing.short_side_px} --quality {preprocessing.quality}"
        )
    return CheckpointModel(checkpoint, path, preprocessing, network, probability, is_average)


def _is_average(checkpoint: Checkpoint, weights: Weights) -> bool:
    """Return whether the moving average is to be used.

    Raises:
        UserError: if the checkpoint has none.
    """
    has_average = "ema" in checkpoint.tree
    if weights == "average" and not has_average:
        raise UserError("It has no moving average of the weights, because config.ema.decay was 0.")
    if weights != "recipe":
        return weights == "average"
    return has_average and checkpoint.meta.get("weights") == "average"


def _weights(checkpoint: Checkpoint, is_average: bool) -> dict[str, Any]:
    tree = checkpoint.tree["ema"] if is_average else checkpoint.tree
    return {key: tree[key] for key in ("params", "batch_stats") if key in tree}


def described(
    checkpoint: Checkpoint, is_average: bool = False
) -> tuple[Preprocessing, Network, Probability]:
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
    counts = meta.get("class_counts")
    if counts is not None and not (
        isinstance(counts, list)
        and len(counts) == len(classes)
        and all(type(n) is int and 0 <= n < 2**40 for n in counts)
    ):
        raise UserError(f"class_counts is not a list of {len(classes):,} numbers of images.")
    _check_facts(meta)
    saved = meta.get("preprocessing", meta.get("input"))
    preprocessing = Preprocessing.from_json(saved)
    probability = meta.get("probability", "softmax")
    if probability not in ("softmax", "sigmoid"):
        raise UserError(f"probability is {probability!r}. Expected 'softmax' or 'sigmoid'.")
    network = _network(meta.get("model"), len(classes))
    network.check_size(preprocessing.image_size, preprocessing.image_size)
    _check_arrays(network, _weights(checkpoint, is_average), preprocessing.image_size)
    return preprocessing, network, probability


def _check_facts(meta: Mapping[str, Any]) -> None:
    """Check the form of what is said of the data and the recipe, where it is there."""
    for path in ("config", "config.data", "config.loss", "data"):
        facts: Any = meta
        for key in path.split("."):
            facts = facts.get(key, {})
        if not isinstance(facts, dict):
            raise UserError(f"{path} is {facts!r}. Expected names and values.")
    fingerprint = meta.get("data", {}).get("fingerprint", "")
    if not isinstance(fingerprint, str):
        raise UserError(f"data.fingerprint is {fingerprint!r}. Expected a text.")
    weight = meta.get("config", {}).get("loss", {}).get("prior_weight", 0.0)
    if not is_number(weight):
        raise UserError(f"config.loss.prior_weight is {weight!r}. Expected a number.")


def _network(description: Any, num_classes: int) -> Network:
    if not isinstance(description, dict):
        raise UserError(f"model is {description!r}. Expected the description of a network.")
    for key, value in description.items():
        if value is not None and not isinstance(value, (str, bool)) and not is_number(value):
            raise UserError(f"model.{key} is {value!r}. Expected a text or a number.")
    width = description.get("width", 1.0)
    if not is_number(width) or not 0 < width <= 64:
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
