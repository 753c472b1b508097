"""Read the graph of an ONNX classifier: its image input, its head, and the sizes of arrays."""

import math
from pathlib import Path
from typing import Any, NamedTuple

from i21k.errors import UserError

MAX_VALUES = 1 << 27  # of one array for one image, our choice: a larger one is damage or an attack
_SMALL = 1024  # our choice: constants of at most so many values may be shapes
_KINDS = {1: "float32", 2: "uint8", 10: "float16"}  # by the number of onnx.TensorProto
_PASS_ON: tuple[str, ...] = ("Identity", "Cast", "Flatten", "Reshape", "Squeeze")
_PASS_ON += ("QuantizeLinear", "DequantizeLinear")
_NORMALISING = ("Softmax", "LogSoftmax", "Sigmoid")


class ImageInput(NamedTuple):
    """The only input of a classifier."""

    name: str
    kind: str  # "uint8", "float32" or "float16"
    channels_first: bool
    batch: int | None  # None: any
    size: int | None  # px; None: any

    def shape(self, size: int) -> tuple[int, int, int, int]:
        """Return the shape for images of a size, with one image if the batch is free."""
        batch = self.batch or 1
        return (batch, 3, size, size) if self.channels_first else (batch, size, size, 3)


def image_input(path: Path, proto: Any) -> ImageInput:
    """Return the image input of a graph.

    Raises:
        UserError: if there is not exactly one input, and of images.
    """
    weights = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in weights]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs) or "none"
        raise UserError(
            f"{path} has {len(inputs)} inputs ({names}). Expected one, of images. Export only the"
            " image classifier."
        )
    (given,) = inputs
    dims = given.type.tensor_type.shape.dim
    sizes = [dim.dim_value if dim.dim_value > 0 else None for dim in dims]
    kind = _KINDS.get(given.type.tensor_type.elem_type, "another type")
    shown = [dim.dim_value or dim.dim_param or "?" for dim in dims]
    free = len(sizes) == 4 and sizes[1] is None and sizes[3] is None
    is_first = free or (len(sizes) == 4 and sizes[1] == 3)  # ONNX's own order is channels first
    is_last = not free and len(sizes) == 4 and sizes[3] == 3
    height, width = (sizes[2:] if is_first else sizes[1:3]) if len(sizes) == 4 else (None, None)
    if is_first == is_last or kind not in _KINDS.values() or height != width:
        raise UserError(
            f"{path} takes {given.name}: {kind} {shown}. Expected square images: float or uint8,"
            " [batch, 3, height, width] or [batch, height, width, 3]."
        )
    return ImageInput(given.name, kind, is_first, sizes[0], height)


def check_sizes(path: Path, proto: Any, given: ImageInput, image_size: int) -> None:
    """Refuse a graph whose arrays for one image are absurdly large.

    Raises:
        UserError: naming the array, or if shapes contradict each other.
    """
    import onnx

    shaped = onnx.ModelProto()
    shaped.CopyFrom(proto)
    graph = shaped.graph
    value = next(value for value in graph.input if value.name == given.name)
    for dim, size in zip(value.type.tensor_type.shape.dim, given.shape(image_size), strict=True):
        dim.dim_value = size
    _forget_values(onnx, graph)
    try:
        shaped = onnx.shape_inference.infer_shapes(shaped, data_prop=True)
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{path} is damaged ({reason}). Export it again.") from error
    for value in shaped.graph.value_info:
        dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        if math.prod(max(dim, 1) for dim in dims) > MAX_VALUES * (given.batch or 1):
            raise UserError(
                f"{path} makes an array {value.name} of the shape {dims} for one image. Use a model"
                f" with at most {MAX_VALUES:,} numbers in one array."
            )


def _forget_values(onnx: Any, graph: Any) -> None:
    """Replace large weights by inputs of the same shape, which spares copies of their values."""
    large = [t for t in graph.initializer if math.prod(t.dims) > _SMALL]
    kept = [t for t in graph.initializer if math.prod(t.dims) <= _SMALL]
    inputs = {value.name for value in graph.input}
    for t in large:
        if t.name not in inputs:
            value = onnx.helper.make_tensor_value_info(t.name, t.data_type, list(t.dims))
            graph.input.append(value)
    del graph.initializer[:]
    graph.initializer.extend(kept)


def last_operator(proto: Any, output: str) -> str:
    """Return the operator that makes an output, looking through those that only pass it on."""
    made_by = {name: node for node in proto.graph.node for name in node.output}
    while (node := made_by.get(output)) is not None:
        if node.op_type not in _PASS_ON:
            return node.op_type
        output = node.input[0]
    return ""


def expose_features(proto: Any) -> list[str]:
    """Add to the outputs what the fully connected layers before outputs take; return the names.

    A graph with an output `features` stays as it is.
    """
    outputs = [value.name for value in proto.graph.output]
    if "features" in outputs:
        return ["features"]
    found = [name for name in (_input_of_head(proto, o) for o in outputs) if name]
    for name in dict.fromkeys(found):
        if name not in outputs:
            proto.graph.output.add().name = name
    return list(dict.fromkeys(found))


def _input_of_head(proto: Any, output: str) -> str | None:
    """Return what the last fully connected layer before an output takes, if one comes last."""
    made_by = {name: node for node in proto.graph.node for name in node.output}
    while (node := made_by.get(output)) is not None:
        if node.op_type in ("Gemm", "MatMul"):
            return node.input[0] if node.input[0] in made_by else None
        if node.op_type == "Add":  # of a bias, which may come first
            inputs = [name for name in node.input if name in made_by]
            if len(inputs) != 1:
                return None
            output = inputs[0]
        elif node.op_type in (*_PASS_ON, *_NORMALISING):
            output = node.input[0]
        else:
            return None
    return None
