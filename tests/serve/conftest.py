"""A small model that is served."""

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from i21k.prediction.predictor import Predictor
from i21k.serve.models import ServedModel, served
from tests.helpers.datasets import make_image
from tests.helpers.models import save_random_model
from tests.helpers.serving import Running, serving


@pytest.fixture(scope="module")
def workdir(few_blocks: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_model(tmp_path_factory.mktemp("runs") / "small")


@pytest.fixture(scope="module")
def models(workdir: Path, dataset: Path) -> dict[str, ServedModel]:
    predictor = Predictor(workdir)
    predictor.calibrate(dataset)
    found = served([predictor], batch_size=2)
    found["small"].warm_up()
    return found


@pytest.fixture(scope="module")
def page(models: dict[str, ServedModel]) -> Iterator[Running]:
    with serving(models, max_bytes=1 << 20) as running:
        yield running


def png(label: int, seed: int = 0) -> bytes:
    """Return the content of an image file."""
    file = io.BytesIO()
    Image.fromarray(make_image(label, seed)).save(file, "PNG")
    return file.getvalue()
