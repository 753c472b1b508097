"""Write a network as an ONNX graph. Needs the extra `onnx` (`pip install "i21k[onnx]"`).

The graph is the folded network: convolution, bias and ReLU, pools, concatenations and the head.
Numbers agree with the JAX network to 1e-5 (relative) for both revisions of Inception-BN.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from i21k import files
from i21k.errors import UserError
from i21k.labels import ClassList
from i21k.models.inception_bn import MEAN, REVISIONS, WIDTHS, Mixed, Reduction

Precision = Literal["float32", "float16", "int8", "int8-head", "int8-static"]
Input = Literal["uint8", "float32"]
OPSET, IR_VERSION = 17, 8  # read by onnxruntime 1.14 and newer
INPUT, LOGITS, FEATURES = "images", "logits", "features"
PRODUCER = "i21k"


def write_onnx(
    path: str | Path,
    description: Mapping[str, Any],
    params: Mapping[str, Mapping[str, np.ndarray]],
    metadata: Mapping[str, str],
    *,
    input_type: Input = "uint8",
    precision: Precision = "float32",
) -> None:
    """Write the folded network with dynamic batch size, height and width.

    Inputs and outputs of the graph:
        images: with `uint8`, RGB [batch, height, width, 3] as decoded; the graph subtracts the
            mean. With `float32`, [batch, 3, height, width] from which the mean was subtracted.
        logits: float32 [batch, K].
        features: float32 [batch, C], what the head takes.

    Args:
        path: file to write.
        description: of the network, as its `describe()` gives it: variant, revision, ...
        params: folded parameters by layer, float32: `kernel` (HWIO, or [C, K] of the head), `bias`.
        metadata: text by key, stored in the file.
        input_type: what the graph takes.
        precision: how weights are stored. `float16` and `int8` are widened to float32 when the
            model is loaded, so that results hardly change. `int8-head` stores the head in int8 and
            the trunk in float16. `int8-static` needs `quantize` afterwards and is refused here.

    Raises:
        UserError: if the extra is not installed.
    """
    assert precision != "int8-static", "write float32 and call quantize"
    onnx = import_onnx()
    graph = _Graph(onnx, params, precision)
    revision, blocks = REVISIONS[description["revision"]], WIDTHS[description["variant"]].blocks
    count_padding = description.get("count_padding")
    count_padding = revision.count_padding if count_padding is None else count_padding

    def unit(x: str, name: str, side: int = 1, stride: int = 1) -> str:
        return graph.add("Relu", [graph.convolution(x, f"conv_{name}", side, stride)], name)

    def pool(x: str, name: str, kind: str, stride: int = 1, padding: int = 0) -> str:
        options: dict[str, Any] = {
            "kernel_shape": [3, 3],
            "strides": [stride, stride],
            "pads": [padding] * 4,
            "ceil_mode": int(revision.ceil_pools),
        }
        if kind == "avg":
            options["count_include_pad"] = int(count_padding)
        operator = "AveragePool" if kind == "avg" else "MaxPool"
        return graph.add(operator, [x], name, **options)

    def block(x: str, name: str, filters: Mixed | Reduction) -> str:
        stride = 2 if isinstance(filters, Reduction) else 1
        branches = [] if stride == 2 else [unit(x, f"{name}_1x1")]
        branches.append(unit(unit(x, f"{name}_3x3_reduce"), f"{name}_3x3", 3, stride))
        double = unit(unit(x, f"{name}_double_3x3_reduce"), f"{name}_double_3x3_0", 3)
        branches.append(unit(double, f"{name}_double_3x3_1", 3, stride))
        if isinstance(filters, Reduction):
            padding = revision.reduction_pool_padding
            branches.append(pool(x, f"{name}_pool", "max", 2, padding))
        else:
            pooled = pool(x, f"{name}_pool", filters.pool, 1, 1)
            branches.append(unit(pooled, f"{name}_proj"))
        return graph.add("Concat", branches, f"{name}_concat", axis=1)

    x = INPUT
    if input_type == "uint8":
        x = graph.add("Cast", [x], "cast", to=onnx.TensorProto.FLOAT)
        x = graph.add("Sub", [x, graph.constant("mean", np.float32(MEAN))], "centre")
        x = graph.add("Transpose", [x], "to_nchw", perm=[0, 3, 1, 2])
    x = pool(unit(x, "conv1", 7, 2), "pool1", "max", 2)
    x = pool(unit(unit(x, "conv2red"), "conv2", 3), "pool2", "max", 2)
    for name, filters in blocks.items():
        x = block(x, name, filters)
    graph.head(graph.add("GlobalAveragePool", [x], "global_pool"))
    graph.save(Path(path), input_type, metadata)


class _Graph:
    """Nodes and weights of an unfinished graph. Layer names become node names."""

    def __init__(
        self, onnx: Any, params: Mapping[str, Mapping[str, np.ndarray]], precision: Precision
    ) -> None:
        self.onnx, self._params, self._precision = onnx, params, precision
        self._nodes: list[Any] = []
        self._initializers: list[Any] = []

    def add(self, operator: str, inputs: list[str], name: str, **attributes: Any) -> str:
        """Append a node and return the name of its output."""
        make = self.onnx.helper.make_node
        self._nodes.append(make(operator, inputs, [name], name=f"{name}_node", **attributes))
        return name

    def constant(self, name: str, array: Any) -> str:
        """Store an array and return its name."""
        from_array = self.onnx.numpy_helper.from_array
        self._initializers.append(from_array(np.ascontiguousarray(array), name))
        return name

    def convolution(self, x: str, layer: str, side: int, stride: int) -> str:
        kernel = self._params[layer]["kernel"].transpose(3, 2, 0, 1)  # HWIO to OIHW
        weights = [
            self._weights(f"{layer}_kernel", kernel, is_head=False),
            self.constant(f"{layer}_bias", self._params[layer]["bias"]),
        ]
        geometry = {"strides": [stride, stride], "pads": [side // 2] * 4}
        return self.add("Conv", [x, *weights], layer, kernel_shape=[side, side], **geometry)

    def head(self, pooled: str) -> None:
        self.add("Flatten", [pooled], FEATURES, axis=1)
        (layer,) = (name for name in self._params if not name.startswith("conv_"))
        kernel = self._weights(f"{layer}_kernel", self._params[layer]["kernel"].T, is_head=True)
        bias = self.constant(f"{layer}_bias", self._params[layer]["bias"])
        self.add("Gemm", [FEATURES, kernel, bias], LOGITS, transB=1)

    def _weights(self, name: str, array: np.ndarray, *, is_head: bool) -> str:
        """Store weights, whose first axis is that of the outputs; return the float32 name."""
        to_float = {"to": self.onnx.TensorProto.FLOAT}
        if self._precision == "float32":
            return self.constant(name, array)
        if self._precision == "int8" or (self._precision == "int8-head" and is_head):
            axes = tuple(range(1, array.ndim))
            scale = np.abs(array).max(axis=axes, keepdims=True) / 127
            scale = np.where(scale == 0, 1, scale).astype(np.float32)
            stored = self.constant(f"{name}_int8", np.rint(array / scale).astype(np.int8))
            wide = self.add("Cast", [stored], f"{name}_wide", **to_float)
            return self.add("Mul", [wide, self.constant(f"{name}_scale", scale)], name)
        return self.add("Cast", [self._half(name, array)], name, **to_float)

    def _half(self, name: str, array: np.ndarray) -> str:
        with np.errstate(over="ignore"):
            half = array.astype(np.float16)
        if not np.isfinite(half).all():
            raise UserError(
                f"{name} has values up to {np.abs(array).max():.3g}, too large for float16. "
                "Use --precision float32 or int8."
            )
        return self.constant(f"{name}_half", half)

    def save(self, path: Path, input_type: Input, metadata: Mapping[str, str]) -> None:
        helper, tensor = self.onnx.helper, self.onnx.TensorProto
        if input_type == "uint8":
            shape: tuple[Any, ...] = ("batch", "height", "width", 3)
            images = helper.make_tensor_value_info(INPUT, tensor.UINT8, shape)
        else:
            shape = ("batch", 3, "height", "width")
            images = helper.make_tensor_value_info(INPUT, tensor.FLOAT, shape)
        head = next(n for n in reversed(self._nodes) if n.op_type == "Gemm")
        (layer,) = (name for name in self._params if not name.startswith("conv_"))
        num_features, num_classes = self._params[layer]["kernel"].shape
        assert head.output[0] == LOGITS
        outputs = [
            helper.make_tensor_value_info(LOGITS, tensor.FLOAT, ("batch", num_classes)),
            helper.make_tensor_value_info(FEATURES, tensor.FLOAT, ("batch", num_features)),
        ]
        graph = helper.make_graph(self._nodes, PRODUCER, [images], outputs, self._initializers)
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name=PRODUCER,
        )
        helper.set_model_props(model, dict(metadata))
        self.onnx.checker.check_model(model)
        self.onnx.save(model, str(path))


def quantize(source: Path, target: Path, batches: Iterable[np.ndarray]) -> None:
    """Quantise weights and activations to int8 (QDQ, per output channel).

    Args:
        source: float32 model that `write_onnx` wrote.
        target: file to write.
        batches: calibration images as the model takes them, a few dozen to a few hundred.

    Raises:
        UserError: if the extra is not installed.
    """
    import_onnx()
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self._batches = iter(batches)

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self._batches, None)
            return None if batch is None else {INPUT: batch}

    with files.plainly_named(source.parent) as folder:
        quantization.quantize_static(
            str(folder / source.name),
            str(target),
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod.MinMax,
            op_types_to_quantize=["Conv", "Gemm", "MaxPool", "AveragePool", "Concat", "Relu"],
        )
    onnx = import_onnx()
    props = {entry.key: entry.value for entry in onnx.load(str(source)).metadata_props}
    model = onnx.load(str(target))
    onnx.helper.set_model_props(model, props)
    onnx.save(model, str(target))


def metadata_of(
    classes: ClassList, names: list[str], contract: Mapping[str, Any]
) -> dict[str, str]:
    """Return the metadata of the file: class ids, their names, and the preprocessing contract."""
    return {
        "class_ids": json.dumps(list(classes.ids)),
        "class_names": json.dumps(names, ensure_ascii=False),
        "class_list_hash": classes.hash,
        "preprocessing": json.dumps(dict(contract)),
    }


def import_onnx() -> Any:
    """Return the module `onnx`.

    Raises:
        UserError: if it is not installed.
    """
    try:
        import onnx
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise UserError(
            f'ONNX is not installed ({error}). Install it with: pip install "i21k[onnx]"'
        ) from error
    return onnx


@dataclasses.dataclass(frozen=True)
class Agreement:
    """The differences between an exported model and the network that it was made from."""

    max_difference: float  # of logits
    relative: float  # L2 of the difference over L2 of the logits
    top1: float  # share of images with the same best class


def compare(
    path: str | Path,
    images: np.ndarray,
    expected: np.ndarray,
    run: Callable[[str | Path, np.ndarray], np.ndarray] | None = None,
) -> Agreement:
    """Run an exported model with onnxruntime and compare its logits.

    Args:
        path: the model.
        images: as the model takes them.
        expected: logits [B, K] of the network.
        run: what runs the model; onnxruntime on the CPU by default.
    """
    logits = (run or run_onnx)(path, images).astype(np.float64)
    difference = logits - expected
    return Agreement(
        float(np.abs(difference).max()),
        float(np.linalg.norm(difference) / np.linalg.norm(expected)),
        float((logits.argmax(1) == expected.argmax(1)).mean()),
    )


def run_onnx(path: str | Path, images: np.ndarray) -> np.ndarray:
    """Return the logits [B, K] of an exported model on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(
        Path(path).read_bytes(), providers=["CPUExecutionProvider"]
    )
    return session.run([LOGITS], {INPUT: images})[0]
