"""ONNX files that are damaged or made to harm end in an error that names them."""

import json

import numpy as np
import pytest

from i21k.errors import UserError
from i21k.trained import load
from tests.helpers.datasets import CLASSES
from tests.helpers.onnx_models import changed, classifier

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the extra onnx")

from i21k.trained.onnx_model import OnnxModel

EXTERNAL = onnx.TensorProto.EXTERNAL


def external(tensor, **entries):
    tensor.ClearField("raw_data")
    tensor.data_location = EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))


def in_a_node(model, tensor):
    """Make a tensor the constant of a node inside the branch of an `If`."""
    helper = onnx.helper
    inner = helper.make_graph(
        [helper.make_node("Constant", [], ["t"], value=tensor)],
        "branch",
        [],
        [helper.make_tensor_value_info("t", onnx.TensorProto.FLOAT, None)],
    )
    truth = onnx.numpy_helper.from_array(np.array(True), "truth")
    model.graph.initializer.append(truth)
    node = helper.make_node("If", ["truth"], ["unused"], then_branch=inner, else_branch=inner)
    model.graph.node.append(node)


def outside(model):
    external(model.graph.initializer[0], location="../../etc/passwd")


def absolute(model):
    external(model.graph.initializer[0], location="/etc/passwd")


def outside_in_a_branch(model):
    tensor = onnx.numpy_helper.from_array(np.zeros(4, np.float32), "secret")
    external(tensor, location="../secret")
    in_a_node(model, tensor)


def too_long(model):
    external(model.graph.initializer[0], location="weights.bin", offset=8, length=1 << 40)


def absent(model):
    external(model.graph.initializer[0], location="absent.bin")


def absurd(model):
    model.graph.initializer[0].dims[:] = [1 << 40, 4]


def negative(model):
    model.graph.initializer[0].dims[:] = [-3, 4]


def sparse(model):
    values = onnx.numpy_helper.from_array(np.ones(1, np.float32), "s")
    indices = onnx.numpy_helper.from_array(np.zeros(1, np.int64), "i")
    model.graph.sparse_initializer.add(values=values, indices=indices, dims=[1 << 40])


def custom(model):
    model.graph.node[0].domain = "evil.ops"
    model.opset_import.add(domain="evil.ops", version=1)


def bomb(model):  # one number becomes 2^40
    helper = onnx.helper
    shape = np.array([1 << 20, 1 << 20], np.int64)
    model.graph.initializer.append(onnx.numpy_helper.from_array(shape, "s"))
    model.graph.node.append(helper.make_node("ConstantOfShape", ["s"], ["huge"]))
    model.graph.node.append(helper.make_node("ReduceSum", ["huge"], ["t"], keepdims=0))
    model.graph.output.append(helper.make_tensor_value_info("t", onnx.TensorProto.FLOAT, ()))


def hidden_bomb(model):  # the same of 2^34, with a shape that no inference finds
    helper = onnx.helper
    numbers = np.array([1 << 17, 1 << 17], np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(numbers, "f"))
    model.graph.node.extend(
        [
            helper.make_node("ReduceProd", ["f"], ["product"], keepdims=1),
            helper.make_node("Cast", ["product"], ["s"], to=onnx.TensorProto.INT64),
            helper.make_node("ConstantOfShape", ["s"], ["huge"]),
            helper.make_node("ReduceSum", ["huge"], ["t"], keepdims=0),
        ]
    )
    model.graph.output.append(helper.make_tensor_value_info("t", onnx.TensorProto.FLOAT, ()))


def two_inputs(model):
    kind = onnx.TensorProto.INT64
    model.graph.input.append(onnx.helper.make_tensor_value_info("ids", kind, ("b", 7)))


def oblong(model):
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 48


def text(model):
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.STRING


def contradicting(model):
    model.graph.initializer[0].dims[:] = [4, 3]


def unknown(model):
    model.graph.node[0].op_type = "NoSuchOperator"


def future(model):
    model.opset_import[0].version = 9999


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (outside, r"keeps weights in '\.\./\.\./etc/passwd'"),
        (absolute, "keeps weights in '/etc/passwd'"),
        (outside_in_a_branch, r"keeps weights in '\.\./secret'"),
        (too_long, "has fewer bytes than"),
        (absent, "keeps weights in 'absent.bin'"),
        (absurd, "is damaged: m has the shape"),
        (negative, "is damaged: m has the shape"),
        (sparse, "has sparse weights"),
        (custom, "uses operators of 'evil.ops'"),
        (bomb, "makes an array huge of the shape"),
        (hidden_bomb, "of memory|cannot be (loaded|run)"),
        (two_inputs, r"has 2 inputs \(x, ids\)"),
        (oblong, "Expected square images"),
        (text, "Expected square images"),
        (contradicting, "is damaged|cannot be loaded"),
        (unknown, "is damaged|cannot be loaded"),
        (future, "is damaged|cannot be loaded"),
    ],
)
def test_hostile_files_are_refused(tmp_path, change, message):
    (tmp_path / "weights.bin").write_bytes(bytes(100))
    path = changed(classifier(tmp_path / "model.onnx"), change)
    with pytest.raises(UserError, match=message) as caught:
        OnnxModel(path, CLASSES)
    assert "model.onnx" in str(caught.value)


def test_links_out_of_the_folder_are_not_followed(tmp_path):
    folder = tmp_path / "inside"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(48))
    (folder / "weights.bin").symlink_to(tmp_path / "secret.bin")
    path = classifier(folder / "model.onnx")
    changed(path, lambda model: external(model.graph.initializer[0], location="weights.bin"))
    with pytest.raises(UserError, match="not a link out of it"):
        OnnxModel(path, CLASSES)


def test_weights_beside_the_model_are_used(tmp_path):
    path, images = classifier(tmp_path / "model.onnx"), np.full((1, 32, 32, 3), 9, np.uint8)
    before = OnnxModel(path, CLASSES).probabilities(images)
    weights = onnx.load(path).graph.initializer[0].raw_data
    (tmp_path / "weights.bin").write_bytes(b"12345678" + weights)
    changed(
        path,
        lambda model: external(model.graph.initializer[0], location="weights.bin", offset=8),
    )
    np.testing.assert_array_equal(OnnxModel(path, CLASSES).probabilities(images), before)


def test_any_flipped_byte_is_an_error_or_harmless(tmp_path):
    path = classifier(tmp_path / "model.onnx")
    content, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(200):
        damaged = bytearray(content)
        damaged[rng.integers(len(damaged))] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            OnnxModel(path, CLASSES)
        except UserError as error:
            assert "model.onnx" in str(error)


def test_files_that_are_no_onnx(tmp_path):
    (tmp_path / "noise.onnx").write_bytes(np.random.default_rng(0).bytes(5000))
    (tmp_path / "empty.onnx").write_bytes(b"")
    (tmp_path / "folder.onnx").mkdir()
    for name in ("noise.onnx", "empty.onnx", "absent.onnx", "folder.onnx"):
        with pytest.raises(UserError, match=name):
            OnnxModel(tmp_path / name, CLASSES)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.pt", b"x", r"is a model of PyTorch. Convert it to ONNX first: torch\.onnx\.export"),
        ("m.onnx", b"PK\x03\x04 archive/data.pkl", "is a model of PyTorch"),
        ("m.safetensors", b"x", "is a model of PyTorch"),
        ("m.keras", b"PK", "is a model of Keras. Convert it to ONNX first: model.export"),
        ("m.onnx", b"\x89HDF\r\n", "is a model of Keras"),
        ("m.tflite", b"x", "is a model of LiteRT. .* --tflite"),
        ("m.pb", b"x", "is a model of TensorFlow. .*tf2onnx"),
        ("m.params", b"x", "is a file of MXNet. Convert it with: i21k import-mxnet"),
        ("m.engine", b"x", "is a model of TensorRT"),
    ],
)
def test_files_of_other_programs_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        load(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "program"),
    [
        ("saved_model.pb", "TensorFlow"),
        ("pytorch_model.bin", "PyTorch"),
        ("model.safetensors", "PyTorch"),
    ],
)
def test_folders_of_other_programs_are_named(tmp_path, name, program):
    (tmp_path / name).write_bytes(b"x")
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["ViT"]}))
    with pytest.raises(UserError, match=f"is a model of {program}"):
        load(tmp_path)
