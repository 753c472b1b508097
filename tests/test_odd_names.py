"""Every front end works in folders whose names are patterns, escapes, formats or URLs elsewhere."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from i21k import cli, files
from i21k.checkpoints import Checkpoints
from i21k.train import loop
from i21k.train.report import read_metrics

ODD = ("lr=[0.1]", "a*b?", "a\\b", "s3:", "%d{x}%20", "é ü", "~", "$HOME", "a\tb", "'\"")
EXTRA = {
    "onnx": ("onnx", "onnxruntime"),
    "stablehlo": ("flatbuffers",),
    "safetensors": ("safetensors",),
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("proc", [True, False], ids=["linux", "elsewhere"])
def test_checkpoints_in_folders_with_odd_names_can_be_read_again(tmp_path, monkeypatch, name, proc):
    if not proc:
        monkeypatch.setattr(files, "_DESCRIPTORS", "/nowhere")
    directory = tmp_path / name / "checkpoints"
    checkpoints = Checkpoints(directory, keep=1)
    for step in (1, 2):
        tree = {"params": {"a": np.full(3, step, np.float32)}}
        checkpoints.save(step, tree, {"epoch_done": True})
    assert checkpoints.steps() == [2]
    assert Checkpoints(directory).newest().tree["params"]["a"].tolist() == [2, 2, 2]
    assert [path.name for path in tmp_path.iterdir()] == [name]  # and nothing beside it


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("odd") / "/".join(ODD).replace("~", "_~")
    place.mkdir(parents=True)
    return place


@pytest.fixture(scope="module")
def packed(place) -> Path:
    rng = np.random.default_rng(0)
    for wnid in ("n01440764", "n01443537", "n01484850", "n01491361"):
        for number in range(4):
            path = place / "source" / wnid / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (40, 48, 3), np.uint8)).save(path)
    arguments = ["--out", str(place / "data"), "--num-shards", "2", "--workers", "1"]
    arguments += ["--val-per-class", "1", "--short-side", "0"]
    assert cli.main(["pack", str(place / "source"), *arguments]) == 0
    return place / "data"


@pytest.fixture(scope="module")
def workdir(few_blocks, packed, place) -> Path:
    from tests.conftest import recipe

    config = recipe.__wrapped__(packed)
    config.devices = 1
    for config.epochs in (1, 2):  # the second resumes
        loop.run(config, place / "runs" / "w")
    return place / "runs" / "w"


def test_training_resumes_there(workdir):
    assert [row["epoch"] for row in read_metrics(workdir)] == ["1", "2"]
    assert list((workdir / "tensorboard").iterdir())


@pytest.mark.parametrize(
    "command",
    [
        "verify DATA",
        "info DATA",
        "evaluate --checkpoint RUN --data DATA --per-class OUT.tsv --reliability OUT.png",
        "predict --checkpoint RUN SOURCE --png OUT.png",
        "predict --checkpoint RUN --data DATA --split val",
        "export --checkpoint RUN --out OUT --format onnx",
        "export --checkpoint RUN --out OUT --format stablehlo",
        "export --checkpoint RUN --out OUT --format safetensors",
        "export --checkpoint RUN --out OUT --format mxnet",
    ],
)
def test_commands_work_there(command, workdir, packed, place, capsys, request):
    for package in EXTRA.get(command.split()[-1], ()):
        pytest.importorskip(package, reason="needs the extra onnx")
    names = {"RUN": workdir, "DATA": packed, "SOURCE": place / "source" / "n01440764"}
    out = place / f"out{abs(hash(request.node.name))}"
    arguments = []
    for word in command.split():
        start, dot, ending = word.partition(".")
        path = out if start == "OUT" else names.get(start)
        arguments.append(word if path is None else f"{path}{dot}{ending}")
    assert cli.main(arguments) == 0, capsys.readouterr()
