"""The public names: they cost no time until they are used, and their examples are correct."""

import doctest
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import i21k
from i21k.data import dataset as dataset_module
from i21k.evaluation import features
from i21k.prediction import embed, predictor
from tests.helpers.datasets import CLASSES, NUM_VAL, make_image
from tests.helpers.models import save_model


@pytest.fixture(scope="module")
def project(few_blocks, dataset, tmp_path_factory):
    """A directory with the dataset, the model and the image that the examples name."""
    root = tmp_path_factory.mktemp("project")
    for name in ("data", "runs"):
        (root / name).mkdir()
    (root / "data" / "quickstart").symlink_to(dataset)
    save_model(root / "runs" / "quickstart")
    Image.fromarray(make_image(1, 1, 48, 80)).save(root / "fruit.jpg")
    i21k.embed(root / "runs" / "quickstart", dataset, "val").save(root / "features.npz")
    return root


def test_importing_loads_nothing_heavy():
    code = (
        "import time; t = time.process_time(); import sys, i21k; s = time.process_time() - t;"
        "print(s, *(m for m in ('numpy', 'jax', 'PIL', 'scipy') if m in sys.modules))"
    )
    taken_s = []
    for _ in range(5):  # other programs may use the machine
        seconds, *heavy = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
        assert heavy == []
        taken_s.append(float(seconds))
    assert min(taken_s) < 0.05


def test_every_name_is_there_and_documented():
    assert set(i21k.__all__) == set(i21k._HOME) and set(i21k.__all__) <= set(dir(i21k))
    for name in i21k.__all__:
        value = getattr(i21k, name)
        assert value.__doc__, name
        assert name in i21k.__doc__, name
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = i21k.nothing


@pytest.mark.parametrize("module", [i21k, dataset_module, predictor, embed, features])
def test_examples(module, project, monkeypatch):
    monkeypatch.chdir(project)
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > 0 and result.failed == 0


def test_loading_a_model_prints_no_warning(project):
    """In a fresh process, since libraries warn once; and nobody prepared the backend."""
    code = (
        "import i21k; m = i21k.load_model('runs/quickstart'); import os;"
        "print('ynn' in os.environ.get('XLA_FLAGS', 'ynn'), len(m.classes))"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys; sys.path.insert(0, {str(predictor.__file__)!r}.split('/i21k/')[0])\n"
            "from i21k.models.inception_bn import WIDTHS\n"
            "s = WIDTHS['standard']\n"
            "WIDTHS['standard'] = s._replace(blocks={n: s.blocks[n] for n in ('3a', '3c', '5b')})\n"
            + code,
        ],
        capture_output=True,
        text=True,
        check=True,
        cwd=project,
    )
    lines = [line for line in done.stderr.splitlines() if "has no record of how" not in line]
    assert lines == []


def test_a_dataset_is_a_sequence(dataset):
    opened = i21k.open_dataset(dataset, "val")
    assert len(opened) == NUM_VAL and opened.classes == CLASSES
    examples = list(opened)
    assert len(examples) == NUM_VAL and opened[-1].label == examples[-1].label
    assert [e.label for e in opened[2:5]] == [opened.label(n) for n in (2, 3, 4)]
    assert opened[0].image.mode == "RGB" and opened.file_name(0).startswith("val/")
    with pytest.raises(IndexError):
        opened[NUM_VAL]


def test_images_may_be_given_in_any_form(project):
    model = i21k.load_model(project / "runs" / "quickstart")
    array = make_image(1, 1, 48, 80)
    png = project / "x.png"
    Image.fromarray(array).save(png)
    forms = [png, str(png), png.read_bytes(), Image.open(png), array]
    expected = model.probabilities(png)
    assert expected.shape == (4,)
    for form in forms:
        np.testing.assert_allclose(model.probabilities(form), expected, rtol=1e-5)
    np.testing.assert_allclose(model.probabilities(forms), [expected] * 5, rtol=1e-5)
    assert model.predict(array, k=1)[0].probability == pytest.approx(expected.max())
    assert [len(answers) for answers in model.predict(forms, k=2)] == [2] * 5
    assert model.features(forms).shape == (5, model.features(png).shape[0])
    assert model.probabilities([]).shape == (0, 4)
    for wrong in (array.astype(float), array[:, :, :2], 3, b"no image"):
        with pytest.raises(i21k.UserError):
            model.predict([wrong])
