"""A model that is narrow and has random parameters, and images for it."""

import pytest
from PIL import Image

from i21k.data.format.splits import open_split
from i21k.prediction.predictor import Predictor
from tests.helpers.datasets import make_image
from tests.helpers.models import save_model


@pytest.fixture(scope="module")
def workdir(few_blocks, dataset, tmp_path_factory):
    return save_model(
        tmp_path_factory.mktemp("run"),
        data={"fingerprint": open_split(dataset, "train").fingerprint},
    )


@pytest.fixture(scope="module")
def model(workdir):
    return Predictor(workdir)


@pytest.fixture
def folder(tmp_path):
    """Three images, one of them in a folder below."""
    for label, name in enumerate(("a.png", "b.jpg", "below/c.webp")):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(make_image(label, label, 48, 80)).save(tmp_path / "images" / name)
    return tmp_path / "images"
