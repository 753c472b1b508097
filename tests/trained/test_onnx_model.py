"""Classifiers of other programs as trained models."""

import json

import numpy as np
import pytest
from PIL import Image

from i21k import cli
from i21k.errors import UserError
from i21k.evaluation.features import load_features
from i21k.labels import ClassList
from i21k.trained import load
from i21k.trained.beside import Normalisation
from i21k.wordnet import class_lists
from tests.helpers.datasets import CLASSES
from tests.helpers.onnx_models import changed, classifier, expected_logits, softmax

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the extra onnx")

from i21k.trained.onnx_model import OnnxModel


def images_for(num: int) -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (num, 32, 32, 3), np.uint8)


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"channels_first": False},
        {"batch": 1},
        {"batch": 4},
        {"free": True},
        {"names": ("pixel_values", "logits")},
        {"with_pooled": True},
        {"last": "Softmax"},
        {"last": "LogSoftmax"},
    ],
    ids=str,
)
def test_layouts_batches_and_outputs(tmp_path, form):
    opened = OnnxModel(classifier(tmp_path / "m.onnx", **form), CLASSES, image_size=32)
    images = images_for(9)
    logits = expected_logits(images, Normalisation())
    np.testing.assert_allclose(opened.probabilities(images), softmax(logits), atol=1e-5)
    features = opened.features(images)  # what the head takes, as an output or not
    assert features.shape == (9, 3) and opened.num_features == 3
    scaled = (images / 255 - Normalisation().mean) / Normalisation().std
    np.testing.assert_allclose(features, scaled.mean((1, 2)), atol=1e-5)
    assert opened.probabilities(images[:0]).shape == (0, 4)


@pytest.mark.parametrize("channels_first", [True, False])
def test_bytes_as_input_are_not_normalised(tmp_path, channels_first):
    opened = OnnxModel(classifier(tmp_path / "m.onnx", channels_first, kind="UINT8"), CLASSES)
    images = images_for(3)
    wanted = images.astype(np.float64).mean((1, 2))
    np.testing.assert_allclose(opened.features(images), wanted, rtol=1e-5)


def test_a_sigmoid_in_the_graph_is_kept(tmp_path):
    opened = OnnxModel(classifier(tmp_path / "m.onnx", last="Sigmoid"), CLASSES)
    assert opened.probability == "sigmoid"
    logits = expected_logits(images_for(2), Normalisation())
    found = opened.probabilities(images_for(2))
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-logits)), atol=1e-5)


def test_a_model_without_a_head_has_no_features(tmp_path):
    def without_head(model):
        model.graph.node.append(onnx.helper.make_node("Neg", ["y"], ["minus"]))
        model.graph.output[0].name = "minus"

    opened = OnnxModel(changed(classifier(tmp_path / "m.onnx"), without_head), CLASSES)
    assert opened.probabilities(images_for(1)).shape == (1, 4)
    with pytest.raises(UserError, match=r"no fully connected layer.*output \[batch, features\]"):
        opened.features(images_for(1))


TIMM = {  # as timm's `save_config_for_hf` writes it
    "architecture": "vit_tiny_patch16_224",
    "num_classes": 4,
    "pretrained_cfg": {
        "input_size": [3, 32, 32],
        "fixed_input_size": True,
        "interpolation": "bicubic",
        "crop_pct": 0.8,
        "crop_mode": "center",
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.2, 0.1],
        "num_classes": 4,
        "classifier": "head",
    },
}
PROCESSOR = {  # as the image processors of transformers write it
    "do_center_crop": True,
    "crop_size": {"height": 32, "width": 32},
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.2, 0.1],
    "resample": 2,
    "rescale_factor": 0.00392156862745098,
    "size": {"shortest_edge": 40},
}


def test_the_config_of_timm_is_read(tmp_path):
    path = classifier(tmp_path / "m.onnx")
    config = TIMM | {"label_names": {str(k): c for k, c in enumerate(CLASSES.ids)}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    opened = OnnxModel(path)
    assert opened.classes == CLASSES
    assert opened.crop_fraction == 0.8 and opened.preprocessing.short_side_px == 40
    wanted = softmax(expected_logits(images_for(2), Normalisation(*BESIDE)))
    np.testing.assert_allclose(opened.probabilities(images_for(2)), wanted, atol=1e-5)
    config["pretrained_cfg"] = TIMM["pretrained_cfg"] | {
        "input_size": [3, 28, 28],
        "test_input_size": [3, 32, 32],
        "test_crop_pct": 1.0,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert OnnxModel(path).crop_fraction == 1.0  # the graph is of the size for tests
    endless = json.dumps({"pretrained_cfg": {"crop_pct": 10**400}})
    too_few = '{"pretrained_cfg": {"mean": [1], "std": [1, 2, 3]}}'
    for broken in ('{"pretrained_cfg": 3}', too_few, endless):
        (tmp_path / "config.json").write_text(broken)
        with pytest.raises(UserError, match=r"config\.json beside the model cannot be used"):
            OnnxModel(path, CLASSES)


BESIDE = ((0.5, 0.4, 0.3), (0.2, 0.2, 0.1))


@pytest.mark.parametrize(
    ("change", "crop", "normalisation", "warps"),
    [
        ({}, 0.8, BESIDE, False),
        ({"do_center_crop": False, "size": {"height": 32, "width": 32}}, 1.0, BESIDE, True),
        ({"do_center_crop": False, "size": 32}, 1.0, BESIDE, True),
        ({"size": {"shortest_edge": 32}, "crop_pct": 0.875}, 0.875, BESIDE, False),
        ({"do_normalize": False}, 0.8, ((0, 0, 0), (1, 1, 1)), False),
        ({"do_rescale": False}, 0.8, tuple(tuple(x / 255 for x in xs) for xs in BESIDE), False),
        ({"image_mean": 0.5, "image_std": 0.5}, 0.8, ((0.5,) * 3, (0.5,) * 3), False),
    ],
    ids=str,
)
def test_the_processor_of_hugging_face_is_read(
    tmp_path, capsys, change, crop, normalisation, warps
):
    path = classifier(tmp_path / "m.onnx")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PROCESSOR | change))
    opened = OnnxModel(path, CLASSES)
    assert opened.image_size == 32 and opened.crop_fraction == crop
    wanted = expected_logits(images_for(2), Normalisation(*normalisation))
    np.testing.assert_allclose(opened.probabilities(images_for(2)), softmax(wanted), atol=1e-3)
    assert ("resized to a square without cropping" in capsys.readouterr().err) == warps


def test_names_instead_of_ids_are_kept_with_a_note(tmp_path, capsys):
    path = classifier(tmp_path / "m.onnx", classes=1000)
    names = {str(k): f"class {k}, a text" for k in range(1000)}
    (tmp_path / "config.json").write_text(json.dumps({"id2label": names}))
    assert OnnxModel(path).classes.ids[7] == "class 7, a text"
    assert "give --classes (ilsvrc2012)" in capsys.readouterr().err
    numbered = {str(k): f"LABEL_{k}" for k in range(1000)}
    (tmp_path / "config.json").write_text(json.dumps({"id2label": numbered}))
    with pytest.raises(UserError, match="has no class list"):
        OnnxModel(path)


def test_a_folder_of_optimum_is_a_model(tmp_path):
    (tmp_path / "onnx").mkdir()
    classifier(tmp_path / "onnx" / "model.onnx")
    config = TIMM | {"label_names": list(CLASSES.ids)}
    (tmp_path / "config.json").write_text(json.dumps(config))
    opened = load(tmp_path)
    assert opened.classes == CLASSES and opened.preprocessing.crop_fraction == 0.8


@pytest.mark.parametrize(
    ("num_classes", "names"),
    [
        (21843, "goog21k"),
        (21842, "ms22k"),
        (21841, "fall11, released2015"),
        (11221, "miil11k"),
        (1000, "ilsvrc2012"),
    ],
)
def test_a_wrong_class_list_names_the_ones_that_fit(tmp_path, num_classes, names):
    path = classifier(tmp_path / "m.onnx", classes=num_classes)
    with pytest.raises(UserError, match=f"has no class list.*Class lists that fit: {names}"):
        OnnxModel(path)
    with pytest.raises(UserError, match=f"of {num_classes:,} and 3 .*4 classes.*fit: {names}"):
        OnnxModel(path, CLASSES)
    assert len(OnnxModel(path, class_lists.named(names.split(",")[0])).classes) == num_classes


def test_the_flags_of_the_commands(tmp_path, dataset, capsys):
    path, classes = classifier(tmp_path / "m.onnx"), tmp_path / "classes.txt"
    CLASSES.write(classes)
    (tmp_path / "p.json").write_text(
        json.dumps({"image_size": 32, "crop_fraction": 0.5, "probability": "softmax"})
    )
    model = ["--checkpoint", str(path), "--classes", str(classes)]
    data = ["--data", str(dataset), "--json"]
    found = []
    for flags in ([], ["--crop", "0.5"], ["--preprocessing", str(tmp_path / "p.json")]):
        assert cli.main(["evaluate", *model, *data, *flags]) == 0
        found.append(json.loads(capsys.readouterr().out)["table"]["all"]["loss"])
    assert found[1] == found[2] != found[0]
    assert cli.main(["evaluate", *model, *data, "--mean", "0", "0", "0"]) == 0
    assert json.loads(capsys.readouterr().out)["table"]["all"]["loss"] != found[0]
    for flags, message in (
        (["--size", "64"], "takes images of 32 px; the preprocessing is for 64 px"),
        (["--std", "0", "1", "1"], "Give three finite numbers each, with std above 0"),
        (["--size", "0"], "image_size is 0"),
        (["--crop", "0"], "crop_fraction is 0.0"),
        (["--crop", "nan"], "crop_fraction is nan"),
        (["--step", "3"], "is an ONNX file, so --step and --weights do not apply"),
        (["--weights", "average"], "is an ONNX file, so --step and --weights do not apply"),
        (["--crop", "2"], "crop_fraction is 2.0. Expected a number above 0, at most 1"),
        (["--preprocessing", str(classes)], "cannot be read as JSON"),
        (["--recalibrate-bn", "8"], "Omit --recalibrate-bn"),
    ):
        assert cli.main(["evaluate", *model, *data, *flags]) == 2
        assert message in capsys.readouterr().err, flags


def test_predict_and_calibrate(tmp_path, dataset, capsys):
    path, classes = classifier(tmp_path / "m.onnx"), tmp_path / "classes.txt"
    CLASSES.write(classes)
    model = ["predict", "--checkpoint", str(path), "--classes", str(classes)]
    hedge = ["--view", "hedge", "--accuracy", "0.5"]
    assert cli.main([*model, *hedge, "--calibrate", str(dataset)]) == 0
    assert (tmp_path / "m.hedge.json").exists()
    for view in ("diverse", "hedge", "basic", "fold"):
        flags = ["--data", str(dataset), "--num", "2", "--json", "--view", view]
        flags += ["--accuracy", "0.5"] if view == "hedge" else []
        assert cli.main([*model, *flags]) == 0
        assert len(capsys.readouterr().out.splitlines()) == 2, view


def test_features_probe_search_and_report(tmp_path, dataset, capsys):
    """The other commands that take a model, with the classes in a file as an export has it."""
    path, classes = classifier(tmp_path / "m.onnx"), tmp_path / "classes.json"
    classes.write_text(json.dumps([{"id": one, "name": "a name"} for one in CLASSES.ids]))
    model = ["--checkpoint", str(path), "--classes", str(classes)]
    data, features = ["--data", str(dataset)], str(tmp_path / "features.npz")
    assert cli.main(["embed", *model, *data, "--split", "train", "--out", features]) == 0
    kept = load_features(features)
    assert kept.array.shape[1] == 3 and kept.about["model"]["path"] == str(path)
    few = ["--shots", "1", "--draws", "1", "--json"]
    assert cli.main(["probe", "--features", features, *few]) == 0
    assert cli.main(["probe", *model, *data, *few]) == 0
    image = tmp_path / "image.png"
    Image.fromarray(images_for(1)[0]).save(image)
    arguments = [str(image), "--features", features, "--png", str(tmp_path / "near.png"), "--json"]
    assert cli.main(["search", *arguments, *model, "-k", "2"]) == 0
    capsys.readouterr()
    page = tmp_path / "report.html"
    assert cli.main(["report", *model, *data, "--out", str(page)]) == 0
    assert page.stat().st_size > 10_000
    assert cli.main(["predict", str(image), *model, "--regions", "--prior", "train"]) == 0


def test_outputs_of_the_same_width_are_not_features(tmp_path):
    def two_heads(model):  # such as the two heads of a distilled ViT
        graph = model.graph
        graph.node.append(onnx.helper.make_node("MatMul", ["pooled", "m"], ["second"]))
        graph.output.append(
            onnx.helper.make_tensor_value_info("second", onnx.TensorProto.FLOAT, ("b", 4))
        )

    opened = OnnxModel(changed(classifier(tmp_path / "m.onnx"), two_heads), CLASSES)
    assert opened.features(images_for(2)).shape == (2, 3)


def test_duplicate_classes_are_refused():
    with pytest.raises(UserError, match="twice"):
        ClassList(("a", "a"))
