"""Real exports of PyTorch answer as PyTorch does. Needs an environment with timm."""

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from i21k import cli
from i21k.wordnet import class_lists
from tests.helpers.datasets import make_image
from tests.helpers.onnx_models import softmax
from tests.helpers.paths import ROOT

pytest.importorskip("onnxruntime", reason="needs the extra onnx")

from i21k.trained.onnx_model import OnnxModel

_HERE = all(map(importlib.util.find_spec, ("torch", "timm", "transformers", "onnxscript")))
PYTHON = os.environ.get("I21K_TORCH_PYTHON") or (sys.executable if _HERE else None)
pytestmark = pytest.mark.skipif(
    not PYTHON,
    reason="needs PyTorch: python3 -m venv pt && pt/bin/pip install timm transformers onnxscript,"
    " then set I21K_TORCH_PYTHON=pt/bin/python",
)
MODELS = {  # folder: class list, number of features
    "vit": ("goog21k", 48),
    "convnext": ("fall11", 320),
    "mobilenet": ("miil11k", 1024),
    "transformers": ("goog21k", 32),
    "softmax": ("ilsvrc2012", 512),
}


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pytorch")
    script = ROOT / "tests" / "helpers" / "export_pytorch.py"
    done = subprocess.run([str(PYTHON), script, folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("name", MODELS)
def test_the_answers_are_those_of_pytorch(exports, name):
    listed, num_features = MODELS[name]
    folder = exports / name
    opened = OnnxModel(folder / "model.onnx", class_lists.named(listed))
    assert opened.image_size == 64
    images, logits = np.load(folder / "images.npy"), np.load(folder / "logits.npy")
    found = opened.probabilities(images)
    np.testing.assert_allclose(found, softmax(logits), rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(found.argmax(1), logits.argmax(1))
    features = opened.features(images)
    assert features.shape == (5, num_features)
    if (folder / "features.npy").exists():
        wanted = np.load(folder / "features.npy")
        np.testing.assert_allclose(features, wanted, rtol=1e-4, atol=1e-4)


def test_what_the_libraries_write_beside_a_model_is_read(exports):
    contract = OnnxModel(
        exports / "mobilenet" / "model.onnx", class_lists.named("miil11k")
    ).preprocessing
    assert (contract.image_size, contract.crop_fraction) == (64, 0.875)
    whole = OnnxModel(exports / "transformers" / "model.onnx", class_lists.named("goog21k"))
    assert whole.crop_fraction == 1.0  # ViT's processor does not crop
    assert (exports / "vit" / "model.onnx.data").exists()  # weights in a second file


def test_views_on_a_foreign_model(exports, tmp_path, capsys):
    Image.fromarray(make_image(0, 0)).save(tmp_path / "photo.png")
    model = ["--checkpoint", str(exports / "vit"), "--classes", "goog21k"]
    for view in (["diverse"], ["basic"], ["fold"], ["subset", "--among", "under(dog)"]):
        assert cli.main(["predict", str(tmp_path / "photo.png"), *model, "--view", *view]) == 0
        assert "%" in capsys.readouterr().out
