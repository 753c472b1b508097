import gzip
import json

import pytest

from i21k.train import loop

pytestmark = pytest.mark.usefixtures("few_blocks")


@pytest.mark.parametrize("steps", ["3:4", "4:100"])
def test_steps_are_traced_also_if_the_run_ends_before_the_last(recipe, tmp_path, steps, capsys):
    recipe.epochs, recipe.log.profile_steps = 1, steps
    loop.run(recipe, tmp_path / "w")
    assert "trace written to" in capsys.readouterr().out
    (path,) = (tmp_path / "w" / "tensorboard").glob("plugins/profile/*/*.trace.json.gz")
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    assert len(events) > 10
    assert list(path.parent.glob("*.xplane.pb"))  # for TensorBoard
