"""Every front end works in folders whose names are patterns, escapes, formats or URLs elsewhere."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from i21k import cli, files
from i21k.checkpoints import Checkpoints
from i21k.train import loop
from i21k.train.report import read_metrics

NO_UNICODE = os.fsdecode(b"caf\xe9")
ODD = ("lr=[0.1]", "a*b?", "a\\b", "s3:", "%d{x}%20", "é ü", "~", "$HOME", "a\tb\n", "'\"", "-rf")
EXTRA = {
    "onnx": ("onnx", "onnxruntime"),
    "stablehlo": ("flatbuffers",),
    "safetensors": ("safetensors",),
}


@pytest.mark.parametrize("name", [*ODD, pytest.param(NO_UNICODE, id="no-unicode")])
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
    """A folder in folders with all the names; the bytes of the last one are no UTF-8."""
    inside = tmp_path_factory.mktemp("odd") / "/".join(ODD).replace("~", "_~")
    place = inside / NO_UNICODE
    try:
        place.mkdir(parents=True)
    except OSError:  # a file system of Unicode names, as on macOS
        (place := inside / "cafe").mkdir(parents=True)
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
        "info DATA --html OUT.html --contact-sheet OUT.jpg",
        "runs RUNS",
        "summary --config SOURCE/recipe.py --num-classes 4",
        "evaluate --checkpoint RUN --data DATA --per-class OUT.tsv --reliability OUT.png",
        "evaluate --checkpoint RUN --data DATA --predictions OUT.csv",
        "report RUN --data DATA --out OUT.html",
        "report RUN --data DATA --out OUT.html --accuracy 0.9",  # reads what it has stored
        "predict --checkpoint RUN SOURCE/n01440764 --png OUT.png",
        "predict --checkpoint RUN SOURCE --format csv",
        "predict --checkpoint RUN --data DATA --split val",
        "predict --checkpoint RUN --calibrate DATA",
        "embed --checkpoint RUN SOURCE --out OUT.npz",
        "embed --checkpoint RUN --data DATA --split train --out FEATURES.parquet",
        "search --features FEATURES.parquet --checkpoint RUN SOURCE/n01440764/0.jpg --png OUT.png",
        "probe --features FEATURES.parquet --shots --confusion OUT.tsv",
        "pack DATA-images.parquet --out OUT --workers 1",
        "export --checkpoint RUN --out EXPORT-onnx --format onnx",
        "export --checkpoint RUN --out OUT --format onnx --precision int8-static --data DATA",
        "export --checkpoint RUN --out OUT --format stablehlo",
        "export --checkpoint RUN --out OUT --format safetensors",
        "export --checkpoint RUN --out EXPORT-mxnet --format mxnet",
        "predict --checkpoint EXPORT-onnx/model.onnx SOURCE/n01440764",
        "report --checkpoint EXPORT-onnx --data DATA --out OUT.html",
        "import-mxnet --symbol EXPORT-mxnet/Inception-symbol.json --params"
        " EXPORT-mxnet/Inception-0000.params --synset EXPORT-mxnet/synset.txt --out OUT",
    ],
)
def test_commands_work_there(command, workdir, packed, place, capsysbinary, request):
    if "onnx" in command:
        for package in EXTRA["onnx"]:
            pytest.importorskip(package, reason="needs the extra onnx")
    for package in EXTRA.get(command.split()[-1], ()):
        pytest.importorskip(package, reason="needs the extra onnx")
    (place / "source" / "recipe.py").write_text(
        "from i21k.train.recipe import default_config as get_config\n"
    )
    with (place / "data-images.parquet").open("wb") as file:
        write_images(file, sorted((place / "source").rglob("*.jpg")))
    names = {
        "RUN": workdir,
        "RUNS": workdir.parent,
        "DATA": packed,
        "SOURCE": place / "source",
        "OUT": place / f"out{abs(hash(request.node.name))}",
        "EXPORT": place / "export",
        "FEATURES": place / "features",
    }
    arguments = [
        re.sub("^[A-Z]{3,}", lambda name: str(names[name[0]]), word) for word in command.split()
    ]
    assert cli.main(arguments) == 0, capsysbinary.readouterr()


def write_images(file, paths) -> None:
    import pyarrow
    import pyarrow.parquet

    struct = [{"bytes": path.read_bytes(), "path": path.name} for path in paths]
    labels = [path.parent.name for path in paths]
    pyarrow.parquet.write_table(pyarrow.table({"image": struct, "label": labels}), file)
