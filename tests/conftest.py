"""Settings and fixtures of all tests: four CPU devices, one compilation cache, checked types."""

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

# One cache for the session, its workers and the processes that they start: compiling takes seconds.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="i21k-xla-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ["JAX_NUM_CPU_DEVICES"] = "4"
os.environ["JAX_PLATFORMS"] = "cpu"

from jaxtyping import install_import_hook

from tests.helpers import checker
from tests.helpers.paths import ROOT, module_names

# Check types and shapes in these packages and modules. This must come before i21k is imported.
CHECKED = (
    "data.load",
    "evaluation",
    "images",
    "interop",
    "labels",
    "models",
    "prediction",
    "train",
    "trained",
    "wordnet",
)
# Tests give these NumPy arrays instead of JAX's, or values outside their types on purpose.
UNCHECKED = (
    "i21k.data.load.options",
    "i21k.interop.mxnet.params",
    "i21k.models.cpu",
    "i21k.models.layers",
    "i21k.models.pools",
    "i21k.prediction.predictor",
    "i21k.train.devices",
    "i21k.train.recipe.reading",
    "i21k.trained.checkpoint",
    "i21k.trained.preprocessing",
)
install_import_hook(
    [
        name
        for name in module_names()
        if name.removeprefix("i21k.").startswith(CHECKED) and name not in UNCHECKED
    ],
    f"{checker.__name__}.check",
)

from i21k import backend

backend.prepare()

import jax
import pytest
from ml_collections import ConfigDict

from i21k.models.inception_bn import WIDTHS
from tests.helpers.datasets import NUM_TRAIN, NUM_VAL, write_dataset

sys.path.insert(0, str(ROOT))  # configs/ are files of the checkout, not of the package

from configs import i21k_inception

jax.config.update("jax_numpy_dtype_promotion", "strict")
# Halves the time to compile. Tests of speed or parity switch it off.
jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="module", autouse=True)
def no_programs_left() -> Iterator[None]:
    """Let each module's compiled programs go.

    Each one holds memory mappings, of which Linux gives a process 65,530: without this, XLA aborts
    a process that runs all tests.
    """
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(
        tmp_path_factory.mktemp("data") / "tiny", {"train": NUM_TRAIN, "val": NUM_VAL}
    )


@pytest.fixture(scope="module")
def few_blocks() -> Iterator[None]:
    """Reduce the standard network to three of its ten blocks, to compile in a third of the time."""
    standard = WIDTHS["standard"]
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setitem(
            WIDTHS,
            "standard",
            standard._replace(blocks={name: standard.blocks[name] for name in ("3a", "3c", "5b")}),
        )
        yield


@pytest.fixture
def recipe(dataset: Path) -> ConfigDict:
    """The recipe of 2015, made small: 8 images of 32 px on 4 devices, the narrowest network."""
    config = i21k_inception.get_config()
    config.epochs = 2
    config.batch_size = 8
    config.image_size = 32
    config.data.directory = str(dataset)
    config.data.threads = 2
    config.model.variant = "standard"
    # Epsilon 1e-3: the last layers get 2 images of 1 x 1 px per device.
    config.model.revision = "symbol2016"
    config.model.width = 0.125
    config.model.remat = "none"
    config.model.init = "he_normal"
    config.optimizer.learning_rate = 0.01
    config.evaluation.sets, config.evaluation.batch_size = "val=val", 8
    config.log.every_steps = 3
    config.evaluation.recalibrate_bn = 0  # its compilation is tested where it matters
    return config
