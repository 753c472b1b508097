"""Exports: the same numbers in every format, complete folders, and clear errors."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from i21k import cli, trained
from i21k.data.format.splits import open_split
from i21k.errors import UserError
from i21k.interop import export, safetensors
from tests.helpers.datasets import CLASSES
from tests.helpers.models import save_random_model

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")

from i21k.trained.onnx_model import Normalisation, OnnxModel

pytestmark = pytest.mark.usefixtures("few_blocks")
SIZES = {"released": 63, "symbol2016": 32, "modern": 50}


@pytest.fixture(scope="module", params=SIZES)
def model(request, few_blocks, tmp_path_factory):
    workdir = tmp_path_factory.mktemp(request.param)
    return trained.load_checkpoint(save_random_model(workdir, request.param, SIZES[request.param]))


def images_for(model: trained.CheckpointModel, num: int = 5) -> np.ndarray:
    size = model.preprocessing.image_size
    return np.random.default_rng(1).integers(0, 256, (num, size, size, 3), np.uint8)


def test_every_folder_has_what_users_need(model, tmp_path):
    for form in export.FORMATS:
        report = export.export(model, tmp_path / form, form)
        folder = tmp_path / form
        sums = dict(
            line.split("  ")[::-1]
            for line in (folder / "SHA256SUMS").read_text().split("\n")
            if line
        )
        assert set(sums) == {p.name for p in folder.iterdir()} - {"SHA256SUMS"}
        for name, digest in sums.items():
            assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
        assert {"classes.json", "preprocessing.json", "README.md", "LICENSE.WordNet"} <= set(sums)
        classes = json.loads((folder / "classes.json").read_text())
        assert classes[0] == {"id": CLASSES.ids[0], "name": "tench"}
        assert report.num_bytes == sum(p.stat().st_size for p in folder.iterdir())
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(export.FORMATS)  # nothing else


@pytest.mark.parametrize("input_type", ["uint8", "float32"])
def test_onnx_gives_the_logits_and_features_of_the_checkpoint(model, tmp_path, input_type):
    report = export.export(model, tmp_path / "o", input_type=input_type)
    assert report.agreement is not None and report.agreement.relative < 1e-5
    opened = OnnxModel(tmp_path / "o" / "model.onnx")
    images = images_for(model)
    np.testing.assert_allclose(opened.probabilities(images), model.probabilities(images), atol=1e-5)
    np.testing.assert_allclose(
        opened.features(images), model.features(images), rtol=1e-4, atol=1e-4
    )
    assert opened.classes == model.classes
    assert opened.preprocessing == model.preprocessing


@pytest.mark.parametrize(
    ("precision", "least"), [("float16", 3e-3), ("int8", 0.1), ("int8-head", 0.1)]
)
def test_stored_precisions_are_smaller_and_near(model, tmp_path, precision, least):
    full = export.export(model, tmp_path / "full")
    small = export.export(model, tmp_path / "small", precision=precision)
    sizes = [(tmp_path / name / "model.onnx").stat().st_size for name in ("full", "small")]
    assert sizes[1] < 0.75 * sizes[0]
    assert full.agreement is not None and small.agreement is not None
    assert full.agreement.relative < small.agreement.relative < least


def test_static_int8_is_calibrated_with_images(model, dataset, tmp_path):
    with pytest.raises(UserError, match="needs images to calibrate with"):
        export.export(model, tmp_path / "o", precision="int8-static")
    report = export.export(
        model, tmp_path / "o", precision="int8-static", images_from=open_split(dataset, "val")
    )
    assert report.agreement is not None and report.agreement.relative < 0.5
    graph = onnx.load(tmp_path / "o" / "model.onnx")
    assert "QuantizeLinear" in {node.op_type for node in graph.graph.node}
    assert OnnxModel(tmp_path / "o" / "model.onnx").classes == model.classes


def test_stablehlo_runs_in_a_process_with_jax_alone(model, tmp_path):
    export.export(model, tmp_path / "s", "stablehlo")
    images = images_for(model, 3)
    np.save(tmp_path / "images.npy", images)
    card = (tmp_path / "s" / "README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0]
    script = f"{code}\nimport sys\nassert 'i21k' not in sys.modules and 'flax' not in sys.modules\n"
    script += "np.save('logits.npy', logits)\n"
    script = script.replace("weights = ", "images = np.load('../images.npy')\nweights = ", 1)
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path / "s", check=True)
    np.testing.assert_allclose(
        np.load(tmp_path / "s" / "logits.npy"), model.logits(images), rtol=1e-4, atol=1e-4
    )


def test_safetensors_are_read_again_and_by_numpy_alone(model, tmp_path):
    export.export(model, tmp_path / "s", "safetensors")
    variables, config = safetensors.read_safetensors(tmp_path / "s")
    kernel = model.variables["params"]["fc1"]["kernel"]
    np.testing.assert_array_equal(variables["params"]["fc1"]["kernel"], kernel)
    assert config["classes"] == list(CLASSES.ids)
    card = (tmp_path / "s" / "README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0].replace('"model.', f'"{tmp_path}/s/model.')
    found: dict[str, np.ndarray] = {}
    exec(code, found)
    np.testing.assert_array_equal(found["kernel"], kernel.ravel())


def test_the_command_refuses_what_is_there(model, tmp_path, capsys):
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "mine.txt").write_text("keep me")
    arguments = ["export", "--checkpoint", model.origin.path, "--out", str(tmp_path / "o")]
    assert cli.main(arguments) == 2
    assert "is not empty. Choose another --out" in capsys.readouterr().err
    assert (tmp_path / "o" / "mine.txt").read_text() == "keep me"
    assert (
        cli.main(
            [*arguments[:-1], str(tmp_path / "new"), "--format", "mxnet", "--precision", "int8"]
        )
        == 2
    )
    assert "float32 only. Use --format onnx" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    assert cli.main([*arguments[:-1], str(tmp_path / "new"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["agreement"]["top1"] == 1


def classifier(
    path: Path, channels_first: bool = True, last: str = "", classes: int = 4, **props: str
) -> Path:
    """A foreign classifier: mean of the colours times a matrix, as another program would write
    it."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    shape = ("b", 3, 32, 32) if channels_first else ("b", 32, 32, 3)
    matrix = np.random.default_rng(0).normal(size=(3, classes)).astype(np.float32)
    axes = [2, 3] if channels_first else [1, 2]
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["pooled"], axes=axes, keepdims=0),
        helper.make_node("MatMul", ["pooled", "m"], ["y" if not last else "z"]),
    ]
    if last:
        nodes.append(helper.make_node(last, ["z"], ["y"]))
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info("x", kind, shape)],
        [
            helper.make_tensor_value_info("y", kind, ("b", classes)),
            helper.make_tensor_value_info("pooled", kind, ("b", 3)),
        ],
        [onnx.numpy_helper.from_array(matrix, "m")],
    )
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    helper.set_model_props(model, props)
    onnx.save(model, str(path))
    return path


def expected(images: np.ndarray, normalisation: Normalisation, classes: int = 4) -> np.ndarray:
    matrix = np.random.default_rng(0).normal(size=(3, classes)).astype(np.float32)
    pooled = ((images / 255 - normalisation.mean) / normalisation.std).mean((1, 2))
    exponentials = np.exp(pooled @ matrix)
    return exponentials / exponentials.sum(1, keepdims=True)


@pytest.mark.parametrize("channels_first", [True, False])
@pytest.mark.parametrize("last", ["", "Softmax"])
def test_foreign_classifiers_answer(tmp_path, channels_first, last):
    path = classifier(tmp_path / "m.onnx", channels_first, last)
    images = np.random.default_rng(2).integers(0, 256, (9, 32, 32, 3), np.uint8)
    opened = OnnxModel(path, CLASSES)
    found = opened.probabilities(images)
    np.testing.assert_allclose(found, expected(images, Normalisation()), atol=1e-5)
    assert opened.features(images).shape == (9, 3)


def test_a_sigmoid_in_the_graph_is_kept(tmp_path):
    opened = OnnxModel(classifier(tmp_path / "m.onnx", last="Sigmoid"), CLASSES)
    assert opened.probability == "sigmoid"


def test_descriptions_beside_a_model_are_read(tmp_path):
    path = classifier(tmp_path / "m.onnx")
    cfg = {
        "input_size": [3, 32, 32],
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.2, 0.1],
        "crop_pct": 0.8,
    }
    names = {str(k): c for k, c in enumerate(CLASSES.ids)}
    config = {"pretrained_cfg": cfg, "label_names": names}
    (tmp_path / "config.json").write_text(json.dumps(config))
    opened = OnnxModel(path)
    assert opened.classes == CLASSES
    assert opened.preprocessing.crop_fraction == 0.8 and opened.preprocessing.short_side_px == 40
    images = np.random.default_rng(2).integers(0, 256, (2, 32, 32, 3), np.uint8)
    wanted = expected(images, Normalisation((0.5, 0.4, 0.3), (0.2, 0.2, 0.1)))
    np.testing.assert_allclose(opened.probabilities(images), wanted, atol=1e-5)
    (tmp_path / "config.json").write_text('{"pretrained_cfg": 3}')
    with pytest.raises(UserError, match="beside the model cannot be used"):
        OnnxModel(path, CLASSES)


def test_a_wrong_class_list_names_the_ones_that_fit(tmp_path):
    path = classifier(tmp_path / "m.onnx", classes=1000)
    with pytest.raises(UserError, match=r"has no class list.*ilsvrc2012"):
        OnnxModel(path)
    with pytest.raises(UserError, match=r"outputs of \[1000, 3\] numbers.*4 classes.*ilsvrc2012"):
        OnnxModel(path, CLASSES)


def corrupted(path: Path, change) -> Path:
    model = onnx.load(path)
    change(model)
    path.write_bytes(model.SerializeToString())
    return path


def test_hostile_files_are_refused(tmp_path):
    def outside(model):
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="../../etc/passwd")

    def absurd(model):
        model.graph.initializer[0].dims[:] = [1 << 40, 4]

    def custom(model):
        model.graph.node[0].domain = "evil.ops"
        model.opset_import.add(domain="evil.ops", version=1)

    for change, message in (
        (outside, "keeps weights in '../../etc/passwd'"),
        (absurd, "is damaged: m has the shape"),
        (custom, "uses operators of 'evil.ops'"),
    ):
        path = corrupted(classifier(tmp_path / f"{change.__name__}.onnx"), change)
        with pytest.raises(UserError, match=message):
            OnnxModel(path, CLASSES)
    (tmp_path / "noise.onnx").write_bytes(np.random.default_rng(0).bytes(5000))
    (tmp_path / "empty.onnx").write_bytes(b"")
    for name in ("noise.onnx", "empty.onnx", "absent.onnx"):
        with pytest.raises(UserError, match=name):
            OnnxModel(tmp_path / name, CLASSES)
    (tmp_path / "m.pt").write_bytes(b"x")
    with pytest.raises(UserError, match=r"is a PyTorch file. Convert it to ONNX first: torch"):
        OnnxModel(tmp_path / "m.pt", CLASSES)


def test_a_graph_that_expands_one_number_to_billions_is_refused(tmp_path):
    def bomb(model):
        helper = onnx.helper
        shape = np.array([1 << 20, 1 << 20], np.int64)
        model.graph.initializer.append(onnx.numpy_helper.from_array(shape, "s"))
        model.graph.node.insert(0, helper.make_node("ConstantOfShape", ["s"], ["huge"]))
        model.graph.node.append(helper.make_node("ReduceSum", ["huge"], ["t"], keepdims=0))
        model.graph.output.append(helper.make_tensor_value_info("t", onnx.TensorProto.FLOAT, ()))

    path = corrupted(classifier(tmp_path / "m.onnx"), bomb)
    with pytest.raises(UserError, match=r"m\.onnx"):
        OnnxModel(path, CLASSES)


def test_evaluate_and_predict_take_an_export(model, dataset, tmp_path, capsys):
    export.export(model, tmp_path / "o")
    tables = []
    for checkpoint in (model.origin.path, tmp_path / "o", tmp_path / "o" / "model.onnx"):
        arguments = ["evaluate", "--checkpoint", str(checkpoint), "--data", str(dataset), "--json"]
        assert cli.main(arguments) == 0
        tables.append(json.loads(capsys.readouterr().out)["table"]["all"])
    for table in tables[1:]:
        assert {k: round(v, 4) for k, v in table.items()} == {
            k: round(v, 4) for k, v in tables[0].items()
        }
    path = str(tmp_path / "o" / "model.onnx")
    split = ["--data", str(dataset), "--num", "2", "--json", "--view", "diverse"]
    assert cli.main(["predict", "--checkpoint", path, *split]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert (
        cli.main(
            ["evaluate", "--checkpoint", path, "--data", str(dataset), "--recalibrate-bn", "8"]
        )
        == 2
    )
    assert "Omit --recalibrate-bn" in capsys.readouterr().err
    assert cli.main(["predict", "--checkpoint", model.origin.path, "--size", "64", *split]) == 2
    assert "is not an ONNX file" in capsys.readouterr().err
