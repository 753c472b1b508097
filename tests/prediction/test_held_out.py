"""Calibrations on held-out images: which checkpoint and accuracy they are for, and the classes."""

import json
import shutil

import numpy as np
import pytest

from i21k.labels import ClassList
from i21k.prediction import calibration
from i21k.prediction.held_out import held_out, open_held_out
from i21k.prediction.predictor import Predictor
from tests.helpers.datasets import CLASSES, NUM_VAL, write_dataset
from tests.helpers.models import save_model


def test_calibration_belongs_to_one_checkpoint(workdir, dataset, folder, tmp_path):
    mine = tmp_path / "run"
    shutil.copytree(workdir, mine)
    with pytest.raises(
        ValueError, match=r"view 'hedge' is not calibrated .*--accuracy 0.9 --calibrate DATA"
    ):
        Predictor(mine).view("hedge")
    with pytest.raises(
        ValueError,
        match=r"split 'train' .* is what the checkpoint in .* was trained on; calibrate on "
        r"another split",
    ):
        Predictor(mine).calibrate(dataset, "train")
    found = Predictor(mine).calibrate(dataset)
    assert found.accuracy >= 0.9 and found.num_images == NUM_VAL
    Predictor(mine).calibrate(dataset, accuracy=0.5)
    for accuracy in (0.9, 0.5):
        Predictor(mine).view("hedge", accuracy=accuracy)
    path = mine / calibration.CALIBRATION
    kept = json.loads(path.read_text())
    kept.pop("curve")  # as an earlier version saved it
    path.write_text(json.dumps(kept))
    with pytest.raises(
        ValueError, match=r"calibrated for accuracy 0.9, 0.5, not for 0.7; calibrate with"
    ):
        Predictor(mine).view("hedge", accuracy=0.7)

    (mine / calibration.CALIBRATION).rename(tmp_path / "kept.json")
    other = save_model(tmp_path / "other", seed=1)  # of the same step
    shutil.copy(tmp_path / "kept.json", other / calibration.CALIBRATION)
    with pytest.raises(
        ValueError,
        match=r"hedge.json belongs to another checkpoint \(step 0; the newest is step 0\); "
        r"calibrate with",
    ):
        Predictor(other).view("hedge")
    save_model(mine, seed=2, step=7)
    shutil.copy(tmp_path / "kept.json", mine / calibration.CALIBRATION)
    with pytest.raises(ValueError, match=r"step 0; the newest is step 7"):
        Predictor(mine).view("hedge")
    Predictor(mine).calibrate(dataset)
    assert list(json.loads((mine / calibration.CALIBRATION).read_text())["accuracies"]) == [
        "0.9"
    ]  # what belonged to another is gone
    (mine / calibration.CALIBRATION).write_text('{"checkpoint": {}, "accuracies": {"0.9": 1}}')
    with pytest.raises(
        ValueError, match=r"hedge.json is damaged .*; remove it and calibrate again"
    ):
        Predictor(mine).view("hedge")


def test_one_calibration_serves_every_accuracy(workdir, dataset, tmp_path):
    shutil.copytree(workdir, mine := tmp_path / "run")
    once = Predictor(mine)
    once.calibrate(dataset, accuracy=0.9)
    curve = once.calibration.curve()
    wanted = [accuracy for accuracy, _ in curve]
    assert wanted == sorted(wanted) and {0.5, 0.9} <= set(wanted) <= {a / 100 for a in range(101)}
    assert all(point.accuracy >= accuracy for accuracy, point in curve)
    generality = [point.generality for _, point in curve]
    assert generality == sorted(generality) and generality[0] < generality[-1]
    shutil.copytree(workdir, other := tmp_path / "other")
    for accuracy in (0.6, 0.75):
        alone = Predictor(other)
        alone.calibrate(dataset, accuracy=accuracy)
        assert once.calibration.generality(accuracy) == alone.calibration.generality(accuracy)
    between = once.calibration.generality(0.745)  # the next higher one
    assert between == once.calibration.generality(0.75)


def test_held_out_data_may_have_fewer_classes_in_another_order(
    few_blocks, model, dataset, tmp_path
):
    more = ClassList(("n02084071", *reversed(CLASSES.ids)))
    wide = Predictor(save_model(tmp_path / "wide", classes=more))
    labels, original = (
        np.concatenate([labels for _, labels in held_out(one, open_held_out(one, dataset), 8)])
        for one in (wide.trained, model.trained)
    )
    np.testing.assert_array_equal(labels, 4 - original)
    foreign = write_dataset(
        tmp_path / "foreign", {"val": 4}, classes=ClassList((*CLASSES.ids[:2], "n02084071", "own"))
    )
    with pytest.raises(
        ValueError,
        match=r"lacks 2 classes: n02084071 \(dog\), own, which .*foreign has; use data of its "
        r"classes",
    ):
        open_held_out(model.trained, foreign)
