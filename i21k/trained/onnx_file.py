"""Open and check an ONNX file that may come from anyone, and find its inputs and outputs.

Nothing of the file is executed but ONNX's own operators.
"""

import hashlib
import math
from pathlib import Path
from typing import Any

from i21k.errors import UserError

MAX_BYTES = 2 << 30  # of a file: the limit of its format
MAX_VALUES = 1 << 28  # of one array for one image, our choice: a larger one is damage or an attack
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


def refuse_other_formats(path: Path) -> None:
    """Name a file of another framework, and say how to convert it.

    Raises:
        UserError: if the suffix is that of another framework.
    """
    framework = _OTHER_FORMATS.get(path.suffix.lower())
    if framework is not None:
        how = _HOW_TO_CONVERT.get(framework, "the framework's own export to ONNX")
        raise UserError(f"{path} is a {framework} file. Convert it to ONNX first: {how}.")


def read(path: Path) -> tuple[Any, str]:
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
                raise UserError(f"{file} has fewer bytes than {path} refers to. Fetch it again.")
        elif min(tensor.dims, default=1) < 0 or (
            math.prod(tensor.dims) > 8 * max(len(tensor.raw_data), tensor.ByteSize())
        ):
            raise UserError(
                f"{path} is damaged: {tensor.name} has the shape {list(tensor.dims)} and"
                f" {len(tensor.raw_data)} bytes. Export it again."
            )


def check_sizes(path: Path, proto: Any, given: Any, image_size: int) -> None:
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
                f"{path} makes an array {value.name} of the shape {dims} for one image. Use a model"
                f" with at most {MAX_VALUES:,} numbers in one array."
            )


def open_session(path: Path) -> Any:
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


def layout(path: Path, given: Any) -> tuple[bool, bool]:
    """Tell whether the channels come first, and whether the input is uint8."""
    shape = list(given.shape or ())
    kinds = ("tensor(float)", "tensor(float16)", "tensor(uint8)")
    if len(shape) != 4 or given.type not in kinds or (shape[1] != 3) == (shape[3] != 3):
        raise UserError(
            f"{path} takes {given.name} of type {given.type} and shape {shape}. Expected images:"
            " float or uint8, [batch, 3, height, width] or [batch, height, width, 3]."
        )
    return shape[1] == 3, given.type == "tensor(uint8)"


def output_names(path: Path, session: Any, num_classes: int) -> tuple[str, str | None]:
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


def last_operator(proto: Any, output: str) -> str:
    """Return the operator that makes an output, looking through those that only pass it on."""
    made_by = {name: node for node in proto.graph.node for name in node.output}
    while (node := made_by.get(output)) is not None:
        if node.op_type not in ("Identity", "Cast", "Flatten", "Reshape", "Squeeze"):
            return node.op_type
        output = node.input[0]
    return ""
