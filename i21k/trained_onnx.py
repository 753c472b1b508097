"""An ONNX classifier as a trained model: ours, or anyone's with a class list and a preprocessing.

Nothing of the file is executed but ONNX's own operators. Needs the extra `onnx`.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from i21k.errors import UserError
from i21k.files import read_json
from i21k.labels import ClassList
from i21k.trained import AnyImage, Origin, Preprocessing, Probability
from i21k.wordnet import class_lists

SUFFIX = ".onnx"
MAX_BYTES = 2 << 30  # of a file: the limit of its format
MAX_VALUES = 1 << 28  # of one array for one image, our choice: a larger one is damage or an attack
BATCH_SIZE = 8  # our choice
_OPERATOR_SETS = {"", "ai.onnx", "ai.onnx.ml", "com.microsoft"}  # what onnxruntime brings itself
_OTHER_FORMATS = {
    ".pt": "PyTorch", ".pth": "PyTorch", ".bin": "PyTorch", ".ckpt": "PyTorch or TensorFlow",
    ".h5": "Keras", ".keras": "Keras", ".pb": "TensorFlow", ".tflite": "TensorFlow Lite",
    ".mlpackage": "Core ML", ".safetensors": "safetensors of another program",
}  # fmt: skip
_HOW_TO_CONVERT = {
    "PyTorch": "torch.onnx.export(model, torch.zeros(1, 3, 224, 224), 'model.onnx')",
    "Keras": "model.export('model.onnx', format='onnx')",
}


@dataclasses.dataclass(frozen=True)
class Normalisation:
    """What happens to RGB values of 0 to 255 before a model: (x / 255 - mean) / std, per
    channel."""

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)  # of ImageNet, as timm and others have
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        numbers = (*self.mean, *self.std)
        if len(numbers) != 6 or not all(math.isfinite(x) for x in numbers) or min(self.std) <= 0:
            raise UserError(
                f"mean is {self.mean} and std is {self.std}. Give three finite numbers each, with"
                " std above 0."
            )


def refuse_other_formats(path: Path) -> None:
    """Name a file of another framework, and say how to convert it.

    Raises:
        UserError: if the suffix is that of another framework.
    """
    framework = _OTHER_FORMATS.get(path.suffix.lower())
    if framework is not None:
        how = _HOW_TO_CONVERT.get(framework, "the framework's own export to ONNX")
        raise UserError(f"{path} is a {framework} file. Convert it to ONNX first: {how}.")


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
            preprocessing: None: what the file or its folder says.
            normalisation: of a float input. None: what the folder says, else ImageNet's.

        Raises:
            UserError: if the extra is missing, or the file is not a classifier that can be used.
        """
        self._path = Path(path)
        proto, digest = _read(self._path)
        about = {entry.key: entry.value for entry in proto.metadata_props}
        found = _beside(self._path)
        self._session = _session(self._path)
        self._input = self._session.get_inputs()[0]
        self._channels_first, self._is_uint8 = _layout(self._path, self._input)
        fixed_size = self._input.shape[2] if self._channels_first else self._input.shape[1]
        size = fixed_size if isinstance(fixed_size, int) else None
        own = "preprocessing" in about and proto.producer_name == "i21k"
        if own and preprocessing is None:
            preprocessing = _own_contract(self._path, about)
        elif preprocessing is None:
            preprocessing = found.preprocessing(size)
        if size is not None and size != preprocessing.image_size:
            raise UserError(
                f"{self._path} takes images of {size} px; the preprocessing says"
                f" {preprocessing.image_size} px. Use --size {size}."
            )
        self.preprocessing = preprocessing
        self._normalisation = normalisation or found.normalisation()
        if own:  # the mean is subtracted in the graph, or 117 of every channel outside of it
            self._normalisation = Normalisation((117 / 255,) * 3, (1 / 255,) * 3)
        self.classes = self._classes(classes, about, found)
        self._outputs = _outputs(self._path, self._session, len(self.classes))
        self._ends_in = _last_operator(proto, self._outputs[0])
        self.probability: Probability = "sigmoid" if self._ends_in == "Sigmoid" else "softmax"
        if own:
            self.probability = json.loads(about["preprocessing"]).get("probability", "softmax")
        self.origin = Origin(str(self._path), 0, digest)
        self.batch_size = BATCH_SIZE
        self.train_fingerprint: str | None = None
        _check_sizes(self._path, proto, self._input, preprocessing.image_size)

    @property
    def image_size(self) -> int:
        """Side of the square that the network takes, in px."""
        return self.preprocessing.image_size

    @property
    def crop_fraction(self) -> float:
        """Side of the central crop over the short side of the image."""
        return self.preprocessing.crop_fraction

    def prepare(self, image: AnyImage) -> UInt8[np.ndarray, "S S 3"]:
        """Return what the model sees of a file, of bytes, of a PIL image or of an array."""
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
        self, given: ClassList | None, about: Mapping[str, str], found: "_Beside"
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
            raise UserError(
                f"{self._path} does not say what its outputs mean. Give --classes NAME|FILE. {hint}"
            )
        if len(classes) not in widths and any(isinstance(width, int) for width in widths):
            raise UserError(
                f"{self._path} has outputs of {widths} numbers, and the class list has"
                f" {len(classes):,} classes. {hint}"
            )
        return classes


@dataclasses.dataclass(frozen=True)
class _Beside:
    """What timm's `config.json` or Hugging Face's `preprocessor_config.json` says of a model."""

    config: dict[str, Any]
    processor: dict[str, Any]

    def preprocessing(self, size: int | None) -> Preprocessing:
        """Return the contract; 224 px and a crop of 0.875 where nothing says otherwise."""
        timm = self.config.get("pretrained_cfg", {})
        crop = timm.get("crop_pct", 0.875)
        found = timm.get("input_size", [3, size or 224, size or 224])[-1]
        if self.processor:
            cropped = self.processor.get("crop_size", self.processor.get("size", {}))
            cropped = cropped if isinstance(cropped, int) else _side(cropped)
            resized = self.processor.get("size", {})
            resized = resized if isinstance(resized, int) else _side(resized)
            found = cropped or found
            if resized and found <= resized:
                crop = found / resized
        found = size or found
        return Preprocessing(found, crop, round(found / crop), 95)

    def normalisation(self) -> Normalisation:
        timm = self.config.get("pretrained_cfg", {})
        mean = self.processor.get("image_mean", timm.get("mean"))
        std = self.processor.get("image_std", timm.get("std"))
        if mean is None or std is None:
            return Normalisation()
        return Normalisation(tuple(map(float, mean)), tuple(map(float, std)))  # type: ignore[arg-type]

    def classes(self) -> ClassList | None:
        names = self.config.get("label_names", self.config.get("id2label"))
        if isinstance(names, dict):
            names = [names[key] for key in sorted(names, key=int)]
        if not isinstance(names, list) or all(str(n).startswith("LABEL_") for n in names):
            return None
        return ClassList(tuple(map(str, names)))


def _side(size: Mapping[str, int]) -> int:
    return size.get("shortest_edge", size.get("height", 0))


def _beside(path: Path) -> _Beside:
    files = (path.with_name("config.json"), path.with_name("preprocessor_config.json"))
    try:
        config, processor = (read_json(file) if file.is_file() else {} for file in files)
        found = _Beside(config, processor)
        found.preprocessing(None), found.normalisation(), found.classes()
    except (TypeError, ValueError, AttributeError, IndexError, ZeroDivisionError) as error:
        raise UserError(
            f"{files[0]} or {files[1].name} beside the model cannot be used ({error}). Correct it,"
            " or move it away and give --size, --mean, --std, --crop and --classes."
        ) from error
    return found


def _own_contract(path: Path, about: Mapping[str, str]) -> Preprocessing:
    try:
        saved = json.loads(about["preprocessing"])
        saved.pop("probability", None)
        return Preprocessing.from_json(saved)
    except (ValueError, AttributeError) as error:
        raise UserError(
            f"The preprocessing in {path} is damaged ({error}). Export it again."
        ) from error


def _read(path: Path) -> tuple[Any, str]:
    """Return the graph without its external data, checked, and the SHA-256 of the file."""
    refuse_other_formats(path)
    try:
        import onnx
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise UserError(
            f'ONNX is not installed ({error}). Install it with: pip install "i21k[onnx]"'
        ) from error
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path} is larger than 2 GiB, the limit of ONNX. Export it again.")
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}). Give an ONNX file.") from error
    try:
        proto = onnx.load_model_from_string(content)
    except Exception as error:  # of protobuf
        raise UserError(f"{path} is not an ONNX file, or damaged. Export it again.") from error
    if not proto.graph.node:
        raise UserError(f"{path} is not an ONNX file, or damaged. Export it again.")
    _check_operators(path, proto)
    _check_initializers(path, proto)
    return proto, hashlib.sha256(content).hexdigest()


def _check_operators(path: Path, proto: Any) -> None:
    used = {node.domain for node in proto.graph.node} | {f.domain for f in proto.functions}
    foreign = sorted(used - _OPERATOR_SETS - {f.domain for f in proto.functions})
    if foreign:
        raise UserError(
            f"{path} uses operators of {foreign[0]!r}, which ONNX does not define. Export the model"
            " with ONNX's own operators."
        )


def _check_initializers(path: Path, proto: Any) -> None:
    """Refuse weights that claim more numbers than the file has, or that are outside its folder."""
    for tensor in proto.graph.initializer:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if entries:
            file = path.parent / entries.get("location", "")
            inside = file.resolve().parent == path.parent.resolve() and not file.is_symlink()
            if not inside or not file.is_file():
                raise UserError(
                    f"{path} keeps weights in {entries.get('location')!r}. Expected a file in the"
                    " same folder. Export the model into one file."
                )
            length = int(entries.get("length") or 0) + int(entries.get("offset") or 0)
            if length > file.stat().st_size:
                raise UserError(f"{file} is shorter than {path} says. Copy it again.")
        elif min(tensor.dims, default=1) < 0 or (
            math.prod(tensor.dims) > 8 * max(len(tensor.raw_data), tensor.ByteSize())
        ):
            raise UserError(
                f"{path} is damaged: {tensor.name} has the shape {list(tensor.dims)} and"
                f" {len(tensor.raw_data)} bytes. Export it again."
            )


def _check_sizes(path: Path, proto: Any, given: Any, image_size: int) -> None:
    """Refuse a graph whose arrays for one image are absurdly large."""
    import onnx

    shaped = onnx.ModelProto()
    shaped.CopyFrom(proto)
    channels_first = given.shape[1] == 3
    shape = (1, 3, image_size, image_size) if channels_first else (1, image_size, image_size, 3)
    (value,) = (v for v in shaped.graph.input if v.name == given.name)
    for dim, size in zip(value.type.tensor_type.shape.dim, shape, strict=True):
        dim.dim_value = size
    try:
        shaped = onnx.shape_inference.infer_shapes(shaped, data_prop=True)
    except Exception as error:  # of the C++ library, all about the file
        raise UserError(f"{path} is damaged ({error}). Export it again.") from error
    for value in shaped.graph.value_info:
        dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        if math.prod(max(dim, 1) for dim in dims) > MAX_VALUES:
            raise UserError(
                f"{path} makes an array {value.name} of the shape {dims} for one image. That is "
                f"more"
                f" than {MAX_VALUES:,} numbers; use another model."
            )


def _session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(
            str(path.resolve()), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime has exceptions of its own, all about the file
        raise UserError(
            f"{path} cannot be loaded by onnxruntime ({str(error).splitlines()[0]}). Export it"
            " again."
        ) from error


def _layout(path: Path, given: Any) -> tuple[bool, bool]:
    """Tell whether the channels come first, and whether the input is uint8."""
    shape = list(given.shape or ())
    kinds = ("tensor(float)", "tensor(float16)", "tensor(uint8)")
    if len(shape) != 4 or given.type not in kinds or (shape[1] != 3) == (shape[3] != 3):
        raise UserError(
            f"{path} takes {given.name} of type {given.type} and shape {shape}. Expected images:"
            " float or uint8, [batch, 3, height, width] or [batch, height, width, 3]."
        )
    return shape[1] == 3, given.type == "tensor(uint8)"


def _outputs(path: Path, session: Any, num_classes: int) -> tuple[str, str | None]:
    """Return the names of the outputs for classes and for features."""
    outputs = [o for o in session.get_outputs() if len(o.shape or ()) in (2, 4)]
    fits = [o.name for o in outputs if o.shape[1] == num_classes]
    fits = fits or [o.name for o in outputs if not isinstance(o.shape[1], int)]
    if not fits:
        shapes = {o.name: o.shape for o in session.get_outputs()}
        raise UserError(f"{path} has the outputs {shapes}. Expected one of {num_classes} classes.")
    logits = "logits" if "logits" in fits else fits[0]
    others = [o.name for o in outputs if o.name != logits]
    features = "features" if "features" in others else (others or [None])[0]
    return logits, features


def _last_operator(proto: Any, output: str) -> str:
    """Return the operator that makes an output, looking through those that only pass it on."""
    made_by = {name: node for node in proto.graph.node for name in node.output}
    while (node := made_by.get(output)) is not None:
        if node.op_type not in ("Identity", "Cast", "Flatten", "Reshape", "Squeeze"):
            return node.op_type
        output = node.input[0]
    return ""
