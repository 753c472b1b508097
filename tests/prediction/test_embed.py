"""Features of files and of packed data: the same numbers everywhere, and restarts."""

import shutil

import numpy as np
import pytest
from PIL import Image

import i21k
from i21k import cli
from i21k.errors import UserError
from i21k.evaluation.features import load_features
from i21k.prediction import embed as embed_module
from i21k.prediction import embed_images
from i21k.prediction.search import search
from i21k.trained import load
from tests.helpers.datasets import CLASSES, NUM_VAL, make_image
from tests.helpers.models import save_random_model

pytestmark = pytest.mark.usefixtures("few_blocks")


@pytest.fixture(scope="module")
def workdir(few_blocks, tmp_path_factory):
    return save_random_model(tmp_path_factory.mktemp("runs") / "random")


@pytest.fixture
def folder(tmp_path):
    """Six images in folders of two classes."""
    for k in range(6):
        path = tmp_path / "images" / f"class{k % 2}" / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(make_image(k % 4, k)).save(path)
    return tmp_path / "images"


def test_files_have_the_features_that_the_model_gives(workdir, folder):
    found = i21k.embed(workdir, folder)
    paths = sorted(folder.rglob("*.png"))
    assert found.names == tuple(map(str, paths))
    assert found.classes.ids == ("class0", "class1")
    assert found.labels.tolist() == [0, 0, 0, 1, 1, 1]
    np.testing.assert_allclose(
        found.array, i21k.load_model(workdir).features(paths), rtol=1e-5, atol=1e-6
    )
    alone = i21k.embed(workdir, paths[3])  # no folder, so no class
    assert alone.classes is None and alone.labels.tolist() == [-1]
    np.testing.assert_allclose(alone.array[0], found.array[3], rtol=1e-5, atol=1e-6)


def test_workers_change_nothing(workdir, folder, dataset):
    for images, split in ((folder, None), (dataset, "val")):
        threads = i21k.embed(workdir, images, split)
        processes = i21k.embed(workdir, images, split, workers=2)
        np.testing.assert_array_equal(threads.array, processes.array)
        assert threads.names == processes.names


def test_a_split_is_embedded_in_the_order_of_its_records(workdir, dataset):
    found, opened = i21k.embed(workdir, dataset, "val"), i21k.open_dataset(dataset, "val")
    assert len(found) == NUM_VAL and found.classes == CLASSES
    assert found.labels.tolist() == [opened.label(n) for n in range(NUM_VAL)]
    assert found.names == tuple(opened.file_name(n) for n in range(NUM_VAL))


@pytest.mark.parametrize("source", ["files", "split"])
def test_an_interrupted_command_continues(workdir, dataset, folder, tmp_path, monkeypatch, source):
    monkeypatch.setattr(embed_images, "_READ_SIZE", 2)
    monkeypatch.setattr(embed_module, "_BLOCK_S", 0.0)
    given = (folder, None) if source == "files" else (dataset, "val")
    out, lines, seen = tmp_path / "out" / "f.npz", [], []
    out.parent.mkdir()
    whole = i21k.embed(workdir, *given, dtype="float16")

    class Interrupted(Exception):
        pass

    model = load(workdir)
    features = model.features

    def some(images):
        if len(seen) == 2:
            raise Interrupted
        seen.append(len(images))
        return features(images)

    model.features = some
    with pytest.raises(Interrupted):
        embed_module.embed_to_file(model, given[0], out, given[1])
    assert not out.exists()
    model.features = lambda images: seen.append(len(images)) or features(images)
    with pytest.raises(UserError, match="other values of dtype"):
        embed_module.embed_to_file(model, given[0], out, given[1], dtype="float32")
    done = embed_module.embed_to_file(model, given[0], out, given[1], say=lines.append)
    assert sum(seen) == len(whole) and lines[0].startswith("4 of ")  # none twice
    assert done.num_images == len(whole) and done.num_restored == 4
    found = load_features(out)
    np.testing.assert_array_equal(found.array, whole.array)
    assert found.names == whole.names and found.labels.tolist() == whole.labels.tolist()
    assert [path.name for path in out.parent.iterdir()] == ["f.npz"]
    with pytest.raises(UserError, match="exists"):
        embed_module.embed_to_file(model, given[0], out, given[1])


def test_damaged_images_are_named_and_skipped(workdir, folder, tmp_path, capsys):
    (folder / "class0" / "0.png").write_bytes(b"no image")
    command = ["embed", "--checkpoint", str(workdir), str(folder), "--out", str(tmp_path / "f.npz")]
    assert cli.main(command) == 1
    captured = capsys.readouterr()
    assert "class0/0.png" in captured.err and "5 images, " in captured.out
    found = load_features(tmp_path / "f.npz")
    assert len(found) == 5 and not any(name.endswith("/0.png") for name in found.names)
    with pytest.raises(UserError, match="0.png"):
        i21k.embed(workdir, folder)


def test_the_nearest_image_is_the_image_itself(workdir, dataset, folder, tmp_path, capsys):
    features, image = tmp_path / "f.npz", folder / "class1" / "3.png"
    for given in ([str(folder)], ["--data", str(dataset)]):
        features.unlink(missing_ok=True)
        base = ["embed", "--checkpoint", str(workdir), "--out", str(features)]
        assert cli.main([*base, *given]) == 0
        png = tmp_path / "nearest.png"
        command = ["search", "--features", str(features), str(image), "-k", "4", "--png", str(png)]
        assert cli.main(command) == 0
        with Image.open(png) as sheet:
            assert sheet.width > 300
    found = search(i21k.embed(workdir, folder), load(workdir), image, k=3)
    assert found[0].name == str(image) and found[0].cosine == pytest.approx(1, abs=1e-4)
    assert [one.cosine for one in found] == sorted((one.cosine for one in found), reverse=True)
    other = save_random_model(tmp_path / "other", classes=i21k.ClassList(("a", "b")))
    with pytest.raises(UserError, match="Give the model that made them"):
        search(load_features(features), load(other), image)


def test_probing_from_the_command_line(workdir, dataset, folder, tmp_path, capsys):
    base = ["probe", "--draws", "2", "--shots", "1", "--neighbours", "3"]
    assert cli.main([*base, "--checkpoint", str(workdir), "--data", str(dataset)]) == 0
    shown = capsys.readouterr().out
    assert "fitted on 44 images of 4 classes, scored on 21" in shown and "95 % interval" in shown
    i21k.embed(workdir, dataset, "train").save(tmp_path / "train.npz")
    tsv = tmp_path / "confusion.tsv"
    command = [*base, "--features", str(tmp_path / "train.npz"), "--confusion", str(tsv), "--json"]
    assert cli.main(command) == 0
    assert '"classes": 4' in capsys.readouterr().out
    lines = tsv.read_text().splitlines()[1:]
    assert sum(int(line.split("\t")[2]) for line in lines) == 8  # two of each class
    assert cli.main(base) == 2
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("images", "text"), [([], "no images are given"), (["missing.png"], "missing.png")]
)
def test_images_that_are_not_there_are_named(workdir, tmp_path, monkeypatch, images, text):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=text):
        embed_module.embed_to_file(workdir, images, tmp_path / "f.npz")
    assert list(tmp_path.iterdir()) == []
