"""A trained model's contract: saved, used for images, and checked when it is loaded."""

import json

import numpy as np
import pytest
from PIL import Image

from i21k.checkpoints import Checkpoints
from i21k.data.format.manifest import read_manifest
from i21k.data.format.splits import open_split
from i21k.errors import UserError
from i21k.prediction.predictor import Predictor
from i21k.trained import Preprocessing, load_checkpoint
from tests.helpers.datasets import CLASSES, make_image, write_dataset
from tests.helpers.models import save_model

pytestmark = pytest.mark.usefixtures("few_blocks")


def test_the_contract_comes_from_the_manifest_and_through_json(tmp_path):
    directory = write_dataset(tmp_path / "d", {"train": 4})
    manifest = directory / "manifest.json"
    content = json.loads(manifest.read_text())
    content["splits"]["train"]["options"] = {"short_side": 512, "quality": 71}
    manifest.write_text(json.dumps(content))
    contract = Preprocessing.from_split(open_split(directory, "train"), 224, 0.875)
    assert (contract.short_side_px, contract.quality, contract.image_size) == (512, 71, 224)
    assert Preprocessing.from_json(json.loads(json.dumps(contract.to_json()))) == contract
    manifest.unlink()
    assert read_manifest(directory) is None
    of_tfds = Preprocessing.from_split(open_split(directory, "train"), 224, 0.875)
    assert of_tfds.short_side_px is None


def test_images_are_prepared_as_the_training_images_were(tmp_path):
    """A model of --short-side 512 data sees 512 px: fine stripes that 256 px cannot show."""
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    contrast = {}
    for short_side_px in (256, 512):
        contract = Preprocessing(448, 0.875, short_side_px, 95).to_json()
        model = load_checkpoint(save_model(tmp_path / str(short_side_px), preprocessing=contract))
        contrast[short_side_px] = Predictor(model).trained.prepare(tmp_path / "stripes.png").std()
    assert contrast[512] > 100 > 10 > contrast[256]


def test_an_old_checkpoint_gets_the_defaults_and_says_so(tmp_path, capsys):
    model = load_checkpoint(save_model(tmp_path / "old"))
    assert (model.preprocessing.short_side_px, model.preprocessing.quality) == (256, 90)
    assert capsys.readouterr().err.count("assuming --short-side 256 --quality 90") == 1
    load_checkpoint(save_model(tmp_path / "new", preprocessing=Preprocessing(32, 0.875).to_json()))
    assert capsys.readouterr().err == ""


def test_sigmoid_probabilities_do_not_add_up(tmp_path):
    images = np.stack([make_image(0, k, 32, 32) for k in range(3)])
    model = load_checkpoint(save_model(tmp_path / "w", probability="sigmoid"))
    softmax = load_checkpoint(save_model(tmp_path / "x")).probabilities(images)
    sigmoid = model.probabilities(images)
    odds = sigmoid / (1 - sigmoid)
    np.testing.assert_allclose(odds / odds.sum(axis=1, keepdims=True), softmax, rtol=1e-4)
    assert model.features(images).shape == (3, model.network.num_features)


DAMAGE = {
    "image size a text": (
        {"input": {"image_size": "32", "crop_fraction": 0.8}},
        "image_size is '32'",
    ),
    "image size 0": ({"input": {"image_size": 0, "crop_fraction": 0.8}}, "image_size is 0"),
    "crop 1e9": (
        {"input": {"image_size": 32, "crop_fraction": 1e9}},
        "crop_fraction is 1000000000.0",
    ),
    "crop absent": ({"input": {"image_size": 32}}, "lacks crop_fraction"),
    "no input": ({"input": None}, "preprocessing is None"),
    "one class too few": ({"classes": list(CLASSES.ids[:3])}, r"array params/.* is float32\[.*4\]"),
    "classes a text": ({"classes": "abcd"}, "classes is not a list of texts"),
    "a class twice": ({"classes": ["a", "a", "b", "c"]}, "class list"),
    "another class list": ({"classes_hash": "0" * 64}, "does not match its SHA-256"),
    "no network": ({"model": 3}, "model is 3"),
    "unknown variant": ({"model": {"variant": "huge"}}, "variant is 'huge'"),
    "unknown type": ({"model": {"dtype": "float7"}}, "float7"),
    "width": ({"model": {"width": 1e9}}, "model.width is 1000000000.0"),
    "probability": ({"probability": "sum"}, "probability is 'sum'"),
    "recipe a text": ({"config": "x"}, "config is 'x'"),
    "loss a list": ({"config": {"loss": [1]}}, r"config.loss is \[1\]"),
    "prior a text": ({"config": {"loss": {"prior_weight": "1"}}}, "prior_weight is '1'"),
    "data none": ({"data": None}, "data is None"),
    "fingerprint a number": ({"data": {"fingerprint": 3}}, "fingerprint is 3"),
    "counts of 10^30": ({"class_counts": [1, 1, 1, 10**30]}, "class_counts is not a list of 4"),
    "a number that no float holds": (
        {"preprocessing": {"image_size": 32, "crop_fraction": 10**400, "short_side_px": 32}},
        "crop_fraction is 1000",
    ),
    "short side": (
        {"preprocessing": {"image_size": 32, "crop_fraction": 1.0, "short_side_px": -1}},
        "short_side_px is -1",
    ),
}


@pytest.mark.parametrize("meta, message", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_description_is_a_user_error(meta, message, tmp_path):
    save_model(tmp_path, described=meta)
    with pytest.raises(UserError, match=message) as raised:
        load_checkpoint(tmp_path)
    assert str(tmp_path) in str(raised.value) and "Use another checkpoint" in str(raised.value)


def test_arrays_that_do_not_fit_are_named(tmp_path):
    whole = Checkpoints(save_model(tmp_path / "w") / "checkpoints").newest()

    def refused(change, message):
        tree = {key: dict(whole.tree[key]) for key in ("params", "batch_stats")}
        change(tree)
        Checkpoints(tmp_path / "w" / "checkpoints").save(
            whole.step, tree, {k: v for k, v in whole.meta.items() if "digest" not in k}
        )
        with pytest.raises(UserError, match=message):
            load_checkpoint(tmp_path / "w")

    name = next(iter(whole.tree["batch_stats"]))
    statistics = whole.tree["batch_stats"][name]
    refused(lambda t: t["params"].pop("fc1"), "array params/fc1/bias is missing")
    refused(
        lambda t: t["params"].update(extra={"kernel": np.zeros(3, np.float32)}),
        "array params/extra/kernel is not part",
    )
    negative = {**statistics, "moving_var": statistics["moving_var"] - 2}
    refused(lambda t: t["batch_stats"].update({name: negative}), "variance .* is negative")
