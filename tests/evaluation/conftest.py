"""A run that the tests of this folder evaluate."""

import pytest

from i21k.train import loop


@pytest.fixture(scope="module")
def trained(few_blocks, dataset, tmp_path_factory):
    from tests.conftest import recipe

    config = recipe.__wrapped__(dataset)
    config.epochs = 1
    return loop.run(config, tmp_path_factory.mktemp("runs") / "w")
