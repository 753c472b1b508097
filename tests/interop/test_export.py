"""Exports: the same numbers in every format, complete folders, and clear errors."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax import export as jax_export

from i21k import cli, trained
from i21k.data.format.splits import open_split
from i21k.errors import UserError
from i21k.evaluation import evaluate
from i21k.interop import export
from tests.helpers.datasets import CLASSES
from tests.helpers.models import save_random_model

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")

from i21k.trained.onnx_model import OnnxModel

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
    again = trained.load(tmp_path / "s")
    assert isinstance(again, trained.CheckpointModel)
    for given, found in zip(
        jax.tree.leaves(model.variables), jax.tree.leaves(again.variables), strict=True
    ):
        np.testing.assert_array_equal(found, given)
    assert again.classes == CLASSES and again.preprocessing == model.preprocessing
    assert again.network == model.network and again.origin.step == model.origin.step
    kernel = model.variables["params"]["fc1"]["kernel"]
    card = (tmp_path / "s" / "README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0].replace('"model.', f'"{tmp_path}/s/model.')
    found: dict[str, np.ndarray] = {}
    exec(code, found)
    np.testing.assert_array_equal(found["kernel"], kernel.ravel())


def evaluation(capsys, *arguments) -> dict[str, float]:
    """The numbers of `i21k evaluate`, to four digits."""
    assert cli.main(["evaluate", *map(str, arguments), "--json"]) == 0
    table = json.loads(capsys.readouterr().out)["table"]["all"]
    return {name: round(value, 4) for name, value in table.items()}


def test_every_format_gives_the_evaluation_of_the_checkpoint(model, dataset, tmp_path, capsys):
    data = ("--data", dataset, "--batch-size", 8)
    before = evaluation(capsys, "--checkpoint", model.origin.path, *data)
    for form in export.FORMATS:
        export.export(model, tmp_path / form, form)
    mxnet = {
        "--symbol": "Inception-symbol.json",
        "--params": "Inception-0000.params",
        "--synset": "synset.txt",
    }
    files = [str(x) for flag, name in mxnet.items() for x in (flag, tmp_path / "mxnet" / name)]
    assert cli.main(["import-mxnet", *files, "--out", str(tmp_path / "imported")]) == 0
    assert f"images of {model.image_size} px" in capsys.readouterr().out
    for folder in ("onnx", "safetensors", "imported"):
        assert evaluation(capsys, "--checkpoint", tmp_path / folder, *data) == before, folder
    exported = StableHlo(tmp_path / "stablehlo", model)
    found = evaluate.evaluate_checkpoint(exported, dataset).summary()["table"]["all"]
    assert {name: round(value, 4) for name, value in found.items()} == before


class StableHlo:
    """An export as StableHLO as a trained model, for the evaluation."""

    def __init__(self, folder: Path, model: trained.CheckpointModel) -> None:
        self.classes, self.preprocessing = model.classes, model.preprocessing
        self.origin, self.batch_size, self.train_fingerprint = model.origin, 8, None
        self.class_counts = model.class_counts
        self.probability, self.prepare = model.probability, model.prepare
        self.weights = dict(np.load(folder / "weights.npz"))
        self.exported = jax_export.deserialize(bytearray((folder / "model.stablehlo").read_bytes()))
        assert {"cpu", "cuda"} <= set(self.exported.platforms)

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        logits, _ = self.exported.call(self.weights, images)
        return np.asarray(jax.nn.softmax(logits))

    def features(self, images: np.ndarray) -> np.ndarray:
        return np.asarray(self.exported.call(self.weights, images)[1])


def test_files_of_mxnet_without_a_contract_are_224_px(model, tmp_path, capsys):
    export.export(model, tmp_path / "m", "mxnet")
    (tmp_path / "m" / "preprocessing.json").unlink()
    names = ("Inception-symbol.json", "Inception-0000.params", "synset.txt")
    files = [
        str(x)
        for flag, name in zip(("--symbol", "--params", "--synset"), names, strict=True)
        for x in (flag, tmp_path / "m" / name)
    ]
    assert cli.main(["import-mxnet", *files, "--out", str(tmp_path / "a")]) == 0
    assert "assuming images of 224 px" in capsys.readouterr().err
    assert trained.load_checkpoint(tmp_path / "a").image_size == 224
    size = ["--size", str(model.image_size), "--crop", "0.8"]
    assert cli.main(["import-mxnet", *files, "--out", str(tmp_path / "b"), *size]) == 0
    contract = trained.load_checkpoint(tmp_path / "b").preprocessing
    assert (contract.image_size, contract.crop_fraction) == (model.image_size, 0.8)


def test_the_card_has_the_metrics_of_the_checkpoint(model, tmp_path):
    rows = "epoch,step,train_loss,val_top1,val_loss,My_loss\n"
    rows += "0,0,3.0,0.5,1.25,a note\n1,9,1.0,0.9,0.1,\n"
    metrics = Path(model.origin.path) / "metrics.csv"
    metrics.write_text(rows)
    export.export(model, tmp_path / "o", "safetensors")
    metrics.unlink()
    text = (tmp_path / "o" / "README.md").read_text()
    assert "- Metrics: val top1 0.5000, val loss 1.2500\n" in text
    assert "## Recipe" in text and "non-commercial research" in text


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


def test_predict_takes_an_export(model, dataset, tmp_path, capsys):
    export.export(model, tmp_path / "o")
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
