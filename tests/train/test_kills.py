"""Random `kill -9` with checkpoints inside epochs: the end is the same as without any."""

import random
import time

import pytest

from i21k.checkpoints import Checkpoints
from i21k.train import loop
from tests.helpers.launching import launch, start
from tests.helpers.runs import assert_same_checkpoint, metrics


def kill_at_random(recipe, workdir, num_kills: int, seed: int) -> int:
    """Start a run again and again and kill it; return how many kills it has survived.

    The first start is timed, so that kills fall into loading, training, saving and evaluating.
    """
    rng, survived = random.Random(seed), 0
    for _ in range(20 * num_kills):
        running = start(recipe, workdir) if not survived else launch(["--resume", str(workdir)])
        for line in running.stdout:
            if "compiling the train step" in line or "done:" in line:
                break
        time.sleep(rng.uniform(0, 3))
        if running.poll() is not None:
            assert running.returncode == 0, running.communicate()[0]
            return survived
        running.kill()
        running.communicate(timeout=60)
        survived += 1
        if survived == num_kills:
            break
    out, _ = launch(["--resume", str(workdir)]).communicate(timeout=600)
    assert "done:" in out, out
    return survived


@pytest.mark.parametrize(
    ("num_kills", "epochs"),
    [
        pytest.param(2, 4, marks=pytest.mark.slow),
        pytest.param(30, 60, marks=[pytest.mark.slow, pytest.mark.long]),
    ],
)
def test_kills_at_random_times_change_nothing(recipe, tmp_path, num_kills, epochs):
    """The runs use the whole network of the recipe: `few_blocks` does not reach their processes."""
    recipe.epochs, recipe.evaluation.every_steps = epochs, 4
    recipe.log.every_steps, recipe.log.checkpoint_minutes = 3, 0.0
    loop.run(recipe, tmp_path / "whole")
    recipe.log.checkpoint_minutes = 1e-7  # after every step
    survived = kill_at_random(recipe, tmp_path / "w", num_kills, seed=num_kills)
    assert survived >= 1
    print(f"{survived} kills survived")
    assert metrics(tmp_path / "w") == metrics(tmp_path / "whole")
    assert_same_checkpoint(tmp_path / "w", tmp_path / "whole")
    best = Checkpoints(tmp_path / "whole" / "checkpoints").best_step()
    assert Checkpoints(tmp_path / "w" / "checkpoints").best_step() == best
