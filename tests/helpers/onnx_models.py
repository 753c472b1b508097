"""Small ONNX classifiers as other programs write them, and damage to them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from i21k.trained.beside import Normalisation


def classifier(
    path: Path,
    channels_first: bool = True,
    last: str = "",
    classes: int = 4,
    batch: str | int = "b",
    kind: str = "FLOAT",
    names: tuple[str, str] = ("x", "y"),
    with_pooled: bool = False,
    free: bool = False,
) -> Path:
    """Write a classifier: mean of the colours times a matrix.

    Args:
        path: to write.
        channels_first: layout of the input.
        last: operator after the head, such as Softmax.
        classes: number of outputs.
        batch: size of a batch, or its name if it is free.
        kind: type of the input.
        names: of input and output.
        with_pooled: the mean of the colours is a second output.
        free: no side of the input is fixed.
    """
    import onnx

    helper, tensor = onnx.helper, onnx.TensorProto
    shape = (batch, 3, 32, 32) if channels_first else (batch, 32, 32, 3)
    shape = (batch, "channels", "height", "width") if free else shape
    x, y = names
    axes = [2, 3] if channels_first else [1, 2]
    nodes = [
        helper.make_node("Cast", [x], ["wide"], to=tensor.FLOAT),
        helper.make_node("ReduceMean", ["wide"], ["pooled"], axes=axes, keepdims=0),
        helper.make_node("MatMul", ["pooled", "m"], ["product"]),
        helper.make_node("Add", ["c", "product"], ["z" if last else y]),
    ]
    if last:
        nodes.append(helper.make_node(last, ["z"], [y]))
    outputs = [helper.make_tensor_value_info(y, tensor.FLOAT, (batch, classes))]
    if with_pooled:
        outputs.insert(0, helper.make_tensor_value_info("pooled", tensor.FLOAT, (batch, 3)))
    weights = {"m": matrix(classes), "c": np.zeros(classes, np.float32)}
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info(x, getattr(tensor, kind), shape)],
        outputs,
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), str(path))
    return path


def matrix(classes: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(3, classes)).astype(np.float32)


def expected_logits(
    images: np.ndarray, normalisation: Normalisation, classes: int = 4
) -> np.ndarray:
    pooled = ((images / 255 - normalisation.mean) / normalisation.std).mean((1, 2))
    return pooled @ matrix(classes)


def softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)


def changed(path: Path, change: Callable[[Any], None]) -> Path:
    import onnx

    model = onnx.load(path)
    change(model)
    path.write_bytes(model.SerializeToString())
    return path
