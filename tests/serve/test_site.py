"""A folder of static files: what is in it, and what is refused."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs the extra onnx")

from i21k import cli, trained
from i21k.errors import UserError
from i21k.files import hash_file
from i21k.prediction.predictor import Predictor
from i21k.serve import page_files, runtime, site
from i21k.serve.site import write_site
from i21k.wordnet.partition import main_parent
from i21k.wordnet.taxonomy import wordnet
from tests.helpers.onnx_models import classifier
from tests.helpers.sites import GENERALITY, calibrate_by_hand, stand_in


@pytest.fixture(scope="module")
def written(workdir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder made by the command, of a calibrated checkpoint."""
    calibrate_by_hand(trained.load(workdir))
    folder = tmp_path_factory.mktemp("site")
    command = ["serve", "--checkpoint", str(workdir), "--static", str(folder / "made" / "page")]
    assert cli.main([*command, "--onnxruntime-web", str(stand_in(folder / "dist"))]) == 0
    return folder / "made" / "page"


def described(folder: Path) -> dict:
    return json.loads((folder / "model.json").read_text())


def test_the_folder_is_whole_and_digested(written: Path) -> None:
    files = {str(path.relative_to(written)) for path in written.rglob("*") if path.is_file()}
    lines = (written / "SHA256SUMS").read_text().splitlines()
    sums = {name: digest for digest, name in (line.split("  ") for line in lines)}
    assert set(sums) == files - {"SHA256SUMS"}
    assert all(hash_file(written / name) == digest for name, digest in sums.items())
    assert {"index.html", "model.onnx", "model.json", "wordnet.json", "README.md"} < files
    assert [path.name for path in written.parent.iterdir()] == ["page"]  # nothing unfinished
    about = (written / "README.md").read_text()
    assert f"| {runtime.TESTED} | MIT, `runtime/LICENSE.onnxruntime-web` |" in about


def test_every_file_that_the_page_loads_is_there(written: Path) -> None:
    loaded = re.findall(r'(?:src|href)="([^"#]+)"', (written / "index.html").read_text())
    assert "assets/page.js" in loaded
    for script in (written / "assets").glob("*.js"):
        text = script.read_text()
        inside = re.findall(r'(?:from|new URL\()\s*"([^"]+)", ?(runtime)?', text)
        inside += [(name, "") for name in re.findall(r'from "([^"]+)"', text)]
        loaded += [
            f"{'runtime' if of else 'assets'}/{name}" for name, of in inside if name[-1] != "/"
        ]
    assert [name for name in loaded if not (written / name).resolve().is_file()] == []
    assert [name for name in loaded if name.startswith("/") or "://" in name] == []


def test_no_path_of_the_machine_and_no_other_site_is_in_it(written: Path, workdir: Path) -> None:
    for path in written.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert str(workdir.parent).encode() not in content, path
            if path.suffix in (".html", ".css", ".js", ".json"):
                assert b"https://" not in content, path
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', _index(written))
    assert policy and "default-src &#x27;none&#x27;" in policy[1]
    assert "unsafe-inline" not in policy[1] and "'unsafe-eval" not in policy[1]


def _index(folder: Path) -> str:
    return (folder / "index.html").read_text()


def test_the_description_has_the_contract_the_views_and_the_calibration(
    written: Path, workdir: Path
) -> None:
    found, model = described(written), Predictor(workdir)
    assert found["name"] == "small" and found["classes"]["ids"] == list(model.classes.ids)
    assert found["preprocessing"] == model.trained.preprocessing.to_json()
    assert found["file"] == {"name": "model.onnx", "bytes": (written / "model.onnx").stat().st_size}
    assert (found["input"]["kind"], found["output"], found["ends_in"]) == (
        "uint8",
        "logits",
        "Gemm",
    )
    assert set(found["views"]) == {"top", "subset", "fold", "diverse", "basic", "hedge"}
    assert found["temperature"] == model.calibration.temperature() != 1
    curve = {point["wanted"]: point["generality"] for point in found["calibrated"]}
    assert curve[0.9] == model.calibration.generality(0.9) == GENERALITY[0.9]


def test_wordnet_is_written_with_the_main_parent_first(written: Path) -> None:
    found, taxonomy = json.loads((written / "wordnet.json").read_text()), wordnet()
    assert found["ids"] == [synset.id for synset in taxonomy.synsets]
    for synset, parents in zip(taxonomy.synsets, found["parents"], strict=True):
        main = main_parent(taxonomy, synset.parents)
        assert parents[:1] == ([] if main is None else [taxonomy.number_of[main]])
        assert sorted(parents) == sorted(taxonomy.number_of[parent] for parent in synset.parents)


def test_the_written_model_answers_as_the_checkpoint(written: Path, workdir: Path) -> None:
    checkpoint, copy = trained.load(workdir), trained.load(written)
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    expected = checkpoint.probabilities(images)
    np.testing.assert_allclose(copy.probabilities(images), expected, atol=2e-3)  # float16


def test_views_that_cannot_be_used_are_absent(tmp_path: Path) -> None:
    path = classifier(tmp_path / "other.onnx")
    (tmp_path / "words.txt").write_text("cat\ndog\n<b>\nß\n")
    command = ["serve", "--checkpoint", str(path), "--classes", str(tmp_path / "words.txt")]
    command += ["--onnxruntime-web", str(stand_in(tmp_path / "dist"))]
    assert cli.main([*command, "--static", str(tmp_path / "page")]) == 0
    found = described(tmp_path / "page")
    assert list(found["views"]) == ["top"] and not found["has_wordnet"]
    assert found["classes"]["names"] == ["cat", "dog", "<b>", "ß"]
    assert found["input"] == {
        "name": "x", "kind": "float32", "channels_first": True, "batch": None, "size": 32
    }  # fmt: skip
    assert not (tmp_path / "page" / "wordnet.json").exists()
    assert (tmp_path / "page" / "model.onnx").read_bytes() == path.read_bytes()


def test_what_is_there_is_not_overwritten(workdir: Path, tmp_path: Path) -> None:
    dist = stand_in(tmp_path / "dist")
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="exists and is not empty"):
        write_site(trained.load(workdir), tmp_path / "page", dist)
    with pytest.raises(UserError, match="exists and is not empty"):
        write_site(trained.load(workdir), dist / "ort.wasm.min.mjs", dist)
    assert [path.name for path in (tmp_path / "page").iterdir()] == ["mine.txt"]


def test_a_missing_or_other_runtime_is_named(
    workdir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=rf"npm install onnxruntime-web@{runtime.TESTED}"):
        runtime.find(tmp_path)
    dist = stand_in(tmp_path / "package" / "dist", "9.9.9")
    assert runtime.find(tmp_path / "package").version == "9.9.9"
    assert f"9.9.9, and {runtime.TESTED} was tested" in capsys.readouterr().err
    (dist / "ort-wasm-simd-threaded.wasm").unlink()
    with pytest.raises(UserError, match=r"has no ort-wasm-simd-threaded\.wasm"):
        runtime.find(dist)
    (dist / "ort.wasm.min.mjs").write_text("nothing")
    (dist / "ort-wasm-simd-threaded.wasm").touch()
    with pytest.raises(UserError, match="does not name its version"):
        runtime.find(dist)


def test_a_failure_leaves_nothing(workdir: Path, tmp_path: Path, monkeypatch) -> None:
    def fails(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(runtime, "copy", fails)
    with pytest.raises(OSError, match="disk full"):
        write_site(trained.load(workdir), tmp_path / "new" / "page", stand_in(tmp_path / "dist"))
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--static", "x", "--beside", "y"], "--beside needs a server"),
        (["--static", "x", "--host-name", "y"], "--host-name needs a server"),
        (["--precision", "int8"], "--precision is for a folder of static files"),
        (["--onnxruntime-web", "y"], "--onnxruntime-web is for a folder of static files"),
    ],
)
def test_flags_that_do_not_fit_are_refused(flags, said, workdir: Path, capsys) -> None:
    assert cli.main(["serve", "--checkpoint", str(workdir), *flags]) != 0
    assert said in capsys.readouterr().err


def test_onnx_models_that_no_browser_runs_are_refused(tmp_path: Path, workdir: Path) -> None:
    import onnx

    dist = stand_in(tmp_path / "dist")
    words = tmp_path / "words.txt"
    words.write_text("a\nb\nc\nd\n")
    classes = cli.arguments.class_list(str(words))
    from i21k.trained.onnx_model import OnnxModel

    half = OnnxModel(classifier(tmp_path / "half.onnx", kind="FLOAT16"), classes)
    with pytest.raises(UserError, match="takes float16, which browsers lack"):
        write_site(half, tmp_path / "page", dist)
    path = classifier(tmp_path / "plain.onnx")
    with pytest.raises(UserError, match="copied as it is. Omit --precision"):
        write_site(OnnxModel(path, classes), tmp_path / "page", dist, "int8")
    onnx.save(
        onnx.load(path), tmp_path / "parts.onnx", save_as_external_data=True, size_threshold=0,
        location="weights.bin",
    )  # fmt: skip
    with pytest.raises(UserError, match="keeps weights in other files"):
        write_site(OnnxModel(tmp_path / "parts.onnx", classes), tmp_path / "page", dist)
    with pytest.raises(UserError, match="Precision 'int4' is not known"):
        write_site(trained.load(workdir), tmp_path / "page", dist, "int4")
    assert not (tmp_path / "page").exists()


def test_the_page_of_the_server_has_no_slot_left() -> None:
    text = page_files.index(foot="")
    assert "{" not in text and "Content-Security-Policy" not in text
    assert site.PRECISION in site.PRECISIONS
