"""Priors and temperature against Bayes' rule and a known scale, and on the command line."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from i21k import cli
from i21k.data.format.class_counts import class_counts
from i21k.data.format.splits import open_split
from i21k.errors import UserError
from i21k.evaluation.evaluate import evaluate_checkpoint
from i21k.evaluation.priors import adjusted, offsets_of, train_counts
from i21k.evaluation.temperature import fit_temperature, logs_of, tempered
from i21k.labels import ClassList
from i21k.train import workdir as workdir_of_a_run
from i21k.train.recipe import Recipe
from i21k.trained import load
from tests.helpers.datasets import CLASSES, write_dataset
from tests.helpers.models import narrow_network, save_random_model

COUNTS = np.array([700, 200, 90, 10])


def model_of(**changes) -> SimpleNamespace:
    about = {
        **dict.fromkeys(("prepare", "probabilities", "features"), len),  # never called
        **dict.fromkeys(("batch_size", "preprocessing")),
        "classes": ClassList(("a", "b", "c", "d")),
        "class_counts": COUNTS,
        "probability": "softmax",
        "origin": SimpleNamespace(path="runs/x"),
        "train_fingerprint": None,
    }
    return SimpleNamespace(**(about | changes))


def posterior(likelihoods: np.ndarray, frequencies: np.ndarray) -> np.ndarray:
    joint = likelihoods * frequencies
    return joint / joint.sum(axis=1, keepdims=True)


def test_adjusted_probabilities_are_those_of_bayes(tmp_path):
    likelihoods = np.random.default_rng(0).random((50, 4))
    learned = np.log(posterior(likelihoods, COUNTS / COUNTS.sum()))
    assert offsets_of(model_of()) is None
    uniform = adjusted(learned, offsets_of(model_of(), "uniform"))
    np.testing.assert_allclose(np.exp(uniform), posterior(likelihoods, np.ones(4)), rtol=1e-5)
    (tmp_path / "prior.tsv").write_text("d\t60\na\t30\n\nb\t10\nunknown\t5\n")
    by_file = adjusted(learned, offsets_of(model_of(), tmp_path / "prior.tsv"))
    frequencies = np.array([30, 10, 0.5, 60])
    np.testing.assert_allclose(np.exp(by_file), posterior(likelihoods, frequencies), rtol=1e-5)
    half = adjusted(learned, offsets_of(model_of(), "uniform", 0.5))
    np.testing.assert_allclose(np.exp(half), posterior(likelihoods, COUNTS**0.5), rtol=1e-5)
    np.testing.assert_array_equal(offsets_of(model_of(), "uniform", 0.0), np.zeros(4))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\t-1\n", r"line 1 of prior .* is 'a\\t-1'. Expected a class id and a number"),
        ("a\t1\njust-a-word\n", "line 2 of prior"),
        ("z\t1\n", "has no images of the model's 4 classes"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_faults_of_a_file_are_named(tmp_path, content, message):
    path = tmp_path / "prior.tsv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        offsets_of(model_of(), path)


def test_what_cannot_be_adjusted_is_refused():
    with pytest.raises(UserError, match="runs/x has no class counts"):
        offsets_of(model_of(class_counts=None), "uniform")
    with pytest.raises(UserError, match="do not exclude each other"):
        offsets_of(model_of(probability="sigmoid"), "uniform")
    with pytest.raises(UserError, match="tau is -1"):
        offsets_of(model_of(), "uniform", -1)


@pytest.fixture(scope="module")
def workdir(few_blocks, dataset, tmp_path_factory):
    """A checkpoint that was trained on other class frequencies than those of its dataset."""
    return save_random_model(
        tmp_path_factory.mktemp("priors"),
        class_counts=[10 ** (k % 3) for k in range(len(CLASSES))],
    )


def test_counts_travel_with_the_checkpoint_or_come_from_its_data(few_blocks, dataset, tmp_path):
    split = open_split(dataset, "train")
    meta = {"data": {"fingerprint": split.fingerprint}}
    config = {"data": {"directory": str(dataset), "train_split": "train"}}
    old = load(save_random_model(tmp_path / "old", **meta))
    assert old.class_counts is None
    np.testing.assert_array_equal(train_counts(old, dataset), class_counts(split))
    with pytest.raises(UserError, match="has no class counts"):
        train_counts(old)
    with_recipe = load(save_random_model(tmp_path / "recipe", config=config, **meta))
    np.testing.assert_array_equal(train_counts(with_recipe), class_counts(split))
    # Trained with the full logit adjustment: such a model expects equal frequencies already.
    adjusting = {"data": config["data"], "loss": {"prior_weight": 1.0, "prior_for": "uniform"}}
    counts = list(range(1, len(CLASSES) + 1))
    trained = save_random_model(tmp_path / "adjusted", config=adjusting, class_counts=counts)
    np.testing.assert_allclose(offsets_of(load(trained), "uniform"), 0, atol=1e-6)
    wanted = np.log(np.array(counts) / sum(counts))
    np.testing.assert_allclose(offsets_of(load(trained), "train"), wanted, rtol=1e-5)
    assert offsets_of(load(trained)) is None, "by default nothing that was trained is undone"
    damaged = save_random_model(tmp_path / "damaged", class_counts=[1, 2])
    with pytest.raises(UserError, match="class_counts is not a list of"):
        load(damaged)


def test_a_run_stores_the_class_counts_of_the_manifest(dataset, tmp_path):
    copy = Path(shutil.copytree(dataset, tmp_path / "tiny"))
    network = narrow_network(len(CLASSES))
    stored = lambda: workdir_of_a_run.meta(
        Recipe(), network, open_split(copy, "train"), jax.local_devices()
    )["class_counts"]
    assert stored() is None  # an earlier version packed it
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["splits"]["train"]["class_counts"] = [11, 11, 12, 10]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    assert stored() == [11, 11, 12, 10]


def test_batchnorm_is_recalibrated_on_other_data(workdir, dataset, tmp_path):
    only_val = write_dataset(tmp_path / "only_val", {"val": 8})
    with pytest.raises(UserError, match="train"):
        evaluate_checkpoint(workdir, only_val, recalibrate_bn=8)
    about = evaluate_checkpoint(workdir, only_val, recalibrate_bn=8, recalibrate_data=dataset)
    assert about.summary()["recalibrated_on"] >= 8


def test_an_evaluation_with_a_prior(workdir, dataset, capsys):
    plain = evaluate_checkpoint(workdir, dataset).summary()
    found = evaluate_checkpoint(workdir, dataset, prior="uniform").summary()
    assert found["prior"] == "uniform" and found["tau"] == 1 and plain["tau"] is None
    assert found["table"]["all"]["loss"] != plain["table"]["all"]["loss"]
    assert set(plain["by_size"]) == {"head", "middle", "tail"} and plain["sizes_of"] == "train"
    assert sum(part["count"] for part in plain["by_size"].values()) == plain["count"]
    command = ["evaluate", "--checkpoint", str(workdir), "--data", str(dataset)]
    assert cli.main([*command, "--prior", "uniform", "--tau", "0.5"]) == 0
    out = capsys.readouterr().out
    assert "adjusted to class frequencies: uniform, tau 0.5" in out and "tail, " in out


def test_the_temperature_of_scaled_logits_is_found():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(4000, 30)) * 2
    true = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (true.cumsum(axis=1) < rng.random((4000, 1))).sum(axis=1)
    for scale in (0.5, 1.0, 3.0):
        confident = true**scale / (true**scale).sum(axis=1, keepdims=True)
        logs = logs_of(confident)
        temperature = fit_temperature(logs, labels)
        assert temperature == pytest.approx(scale, rel=0.06)
        np.testing.assert_allclose(np.exp(tempered(logs, scale)), true, atol=1e-5)
    with pytest.raises(UserError, match="no held-out images"):
        fit_temperature(logs[:0], labels[:0])


def test_predict_with_a_prior_and_a_calibration(workdir, dataset, capsys):
    predict = ["predict", "--checkpoint", str(workdir), "--data", str(dataset), "--split", "val"]
    shown = ["--num", "3", "--json"]

    def answers(*flags: str) -> list[list[dict]]:
        assert cli.main([*predict, *shown, *flags]) == 0
        return [json.loads(line)["answers"] for line in capsys.readouterr().out.splitlines()]

    plain, uniform = answers(), answers("--prior", "uniform")
    assert plain != uniform
    calibrate = ["--calibrate", str(dataset), "--view", "hedge", "--accuracy", "0.5"]
    command = ["predict", "--checkpoint", str(workdir), *calibrate]
    assert cli.main(command) == 0
    text = capsys.readouterr()
    assert "temperature " in text.out + text.err and "ECE " in text.out + text.err
    saved = json.loads((workdir / "hedge.json").read_text())["accuracies"]["0.5"]
    assert saved["temperature"] != 1 and saved["ece"] < saved["ece_before"]
    calibrated = answers()
    assert [[a["id"] for a in row] for row in calibrated] == [[a["id"] for a in r] for r in plain]
    assert calibrated != plain
    assert cli.main([*predict, *shown, *calibrate, "--prior", "uniform"]) == 2
    assert "calibrated for the class frequencies" in capsys.readouterr().err
