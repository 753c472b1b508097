"""Read an ONNX file that may come from anyone, and refuse what is damaged or made to harm.

Nothing is executed here, and no file is opened but this one.
"""

import hashlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from i21k import files
from i21k.errors import UserError

MAX_BYTES = 2 << 30  # of a file: the limit of its format
_VALUES_PER_BYTE = 8  # our choice: 4-bit weights have 2, and a bomb has millions
_OPERATOR_SETS = {"", "ai.onnx", "ai.onnx.ml", "com.microsoft"}  # what onnxruntime brings itself
_PYTORCH = "torch.onnx.export(model, torch.zeros(1, 3, 224, 224), 'model.onnx')"
_KERAS = "model.export('model.onnx', format='onnx')"
_OWN_EXPORT = "the program's own export to ONNX"
_OTHER_FORMATS = {  # by suffix: what it is, and how to convert it
    **dict.fromkeys((".pt", ".pth", ".pt2", ".bin", ".safetensors"), ("PyTorch", _PYTORCH)),
    ".ckpt": ("PyTorch or TensorFlow", _OWN_EXPORT),
    **dict.fromkeys((".h5", ".keras"), ("Keras", _KERAS)),
    ".pb": ("TensorFlow", "python -m tf2onnx.convert --saved-model FOLDER --output model.onnx"),
    ".tflite": ("LiteRT", "python -m tf2onnx.convert --tflite FILE --output model.onnx"),
    **dict.fromkeys((".mlmodel", ".mlpackage"), ("Core ML", _OWN_EXPORT)),
    **dict.fromkeys((".engine", ".plan"), ("TensorRT", "the ONNX file that it was built from")),
    **dict.fromkeys((".msgpack", ".npz"), ("JAX", "jax2onnx, or train it again with i21k")),
    ".caffemodel": ("Caffe", _OWN_EXPORT),
}
_BY_CONTENT = {b"PK\x03\x04": ".pt", b"\x89HDF": ".h5", b"\x80\x02": ".pt"}  # whatever its name
_IN_FOLDERS = {  # files by which a folder of another program is recognised
    "saved_model.pb": ".pb",
    "pytorch_model.bin": ".bin",
    "model.safetensors": ".safetensors",
}


def refuse_other_formats(path: Path, beginning: bytes = b"") -> None:
    """Name a file or folder of another program, and how to convert it.

    Args:
        path: to look at.
        beginning: of its content, where it was read.

    Raises:
        UserError: if it is one.
    """
    suffix = path.suffix.lower()
    if path.is_dir():
        suffix = next((s for name, s in _IN_FOLDERS.items() if (path / name).is_file()), suffix)
    for magic, other in _BY_CONTENT.items():
        suffix = other if beginning.startswith(magic) else suffix
    if suffix == ".params":
        raise UserError(f"{path} is a file of MXNet. Convert it with: i21k import-mxnet")
    if suffix in _OTHER_FORMATS:
        program, how = _OTHER_FORMATS[suffix]
        raise UserError(f"{path} is a model of {program}. Convert it to ONNX first: {how}.")


def read(path: Path) -> tuple[Any, str]:
    """Return the model without its external data, checked, and the SHA-256 of the file.

    Raises:
        UserError: if the extra is missing, the file cannot be read, or it is refused.
    """
    refuse_other_formats(path)
    try:
        import onnx
        import onnxruntime  # noqa: F401
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise UserError(
            f'ONNX is not installed ({error}). Install it with: pip install "i21k[onnx]"'
        ) from error
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path} is larger than 2 GiB, the limit of ONNX. Export it again.")
        content = files.read_given(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}). Give an ONNX file.") from error
    refuse_other_formats(path, content[:8])
    damaged = UserError(f"{path} is not an ONNX file, or damaged. Export it again.")
    try:
        proto = onnx.load_model_from_string(content)
    except DecodeError as error:
        raise damaged from error
    if not proto.graph.node:
        raise damaged
    _check_operators(path, proto)
    for graph in _graphs(proto):
        if getattr(graph, "sparse_initializer", ()):
            raise UserError(f"{path} has sparse weights. Export the model with dense weights.")
        for tensor in _tensors(graph):
            _check_tensor(path, tensor)
    return proto, hashlib.sha256(content).hexdigest()


def _graphs(proto: Any) -> Iterator[Any]:
    """Yield the graph, its functions, and all graphs inside of nodes."""
    waiting = [proto.graph, *proto.functions]
    while waiting:
        graph = waiting.pop()
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                waiting.extend(attribute.graphs)
                if attribute.HasField("g"):
                    waiting.append(attribute.g)


def _tensors(graph: Any) -> Iterator[Any]:
    yield from getattr(graph, "initializer", ())  # a function has none
    for node in graph.node:
        for attribute in node.attribute:
            yield from attribute.tensors
            if attribute.HasField("t"):
                yield attribute.t


def _check_operators(path: Path, proto: Any) -> None:
    own = {function.domain for function in proto.functions}
    used = {node.domain for graph in _graphs(proto) for node in graph.node}
    if foreign := sorted(used - _OPERATOR_SETS - own):
        raise UserError(
            f"{path} uses operators of {foreign[0]!r}, which ONNX does not define. Export the model"
            " with ONNX's own operators."
        )


def _check_tensor(path: Path, tensor: Any) -> None:
    """Refuse weights that claim more numbers than there are, or that are outside the folder."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    if tensor.data_location == tensor.EXTERNAL or entries:
        _check_external(path, entries)
    elif min(tensor.dims, default=1) < 0 or (
        math.prod(tensor.dims) > _VALUES_PER_BYTE * max(len(tensor.raw_data), tensor.ByteSize())
    ):
        raise UserError(
            f"{path} is damaged: {tensor.name} has the shape {list(tensor.dims)} and"
            f" {len(tensor.raw_data)} bytes. Export it again."
        )


def _check_external(path: Path, entries: dict[str, str]) -> None:
    location, folder = entries.get("location", ""), path.parent.resolve()
    try:
        file = (path.parent / location).resolve()
        inside = file.is_relative_to(folder) and file.is_file()
        end = int(entries.get("length") or 0) + int(entries.get("offset") or 0)
    except (ValueError, OSError):  # a null byte, a name that is too long, no number
        inside, end = False, 0
    if not inside:
        raise UserError(
            f"{path} keeps weights in {location!r}. Expected a file in the same folder, not a link"
            " out of it. Copy all files of the model into one folder (cp -L)."
        )
    if end > file.stat().st_size or end < 0:
        raise UserError(f"{file} has fewer bytes than {path} refers to. Fetch it again.")


def has_external_data(proto: Any) -> bool:
    """Return whether weights are in other files."""
    return any(
        tensor.data_location == tensor.EXTERNAL
        for graph in _graphs(proto)
        for tensor in _tensors(graph)
    )


def external_folder(path: Path) -> bytes:
    """Return the folder of the external data of a file; its name may be no Unicode."""
    return os.fsencode(path.parent.resolve())
