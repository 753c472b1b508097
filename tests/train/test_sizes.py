"""Image sizes that change during a run."""

import pytest

from i21k.errors import UserError
from i21k.train import interruption, loop, sizes
from i21k.train.report import read_metrics
from i21k.trained import load_checkpoint
from tests.helpers.runs import assert_same_checkpoint, metrics, signal_at

SCHEDULE = "32@0 40@0.3 48@0.7"


def test_sizes_are_read():
    assert sizes.read_sizes(224) == ((224, 0.0),)
    assert sizes.read_sizes("96@0  128@.3 160@0.6") == ((96, 0.0), (128, 0.3), (160, 0.6))
    assert (
        sizes.largest("96@0 192@0.3 160@0.6") == 192 and sizes.last("96@0 192@0.3 160@0.6") == 160
    )
    assert sizes.describe("96@0 128@0.5", 3000) == "96 px, 128 px from step 1,500"
    assert sizes.describe(64, 3000) == "64 px"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("big", "cannot read 'big'"),
        ("96", "cannot read '96'"),
        ("", "there is no size"),
        ("96@0.1 128@0.3", "the first size starts at 0.1"),
        ("96@0 128@0.3 160@0.3", "0.3 is not between 0.3 and 1"),
        ("96@0 128@1.0", "1 is not between 0 and 1"),
        ("0@0 128@0.5", "Use sizes above 0 px"),
    ],
)
def test_what_is_no_schedule_is_explained(text, why):
    assert why in sizes.sizes_form(text)


def test_the_size_of_a_step_depends_on_the_step_alone():
    of_steps = [sizes.size_at(SCHEDULE, step, 10) for step in range(10)]
    assert of_steps == [32] * 3 + [40] * 4 + [48] * 3
    for first in range(10):
        parts = list(sizes.segments(SCHEDULE, first, 10, 10))
        assert [part.size for part in parts for _ in range(part.first, part.stop)] == of_steps[
            first:
        ]
    assert list(sizes.segments(64, 3, 7, 10)) == [(3, 7, 64)]
    assert list(sizes.segments(SCHEDULE, 5, 5, 10)) == [(5, 5, 40)]


@pytest.fixture
def recipe(recipe, few_blocks):
    recipe.image_size = "32@0 40@0.7"
    recipe.model.revision = "modern"
    recipe.evaluation.image_size = 48
    return recipe


@pytest.mark.slow
def test_a_run_changes_its_size_and_resumes_bit_exact(recipe, tmp_path, monkeypatch, capsys):
    loop.run(recipe, tmp_path / "whole")
    out = capsys.readouterr().out
    assert "32 px, 40 px from step 8, crop plain" in out
    assert [part.split("]")[0] for part in out.split("first batch uint8 [8, ")[1:]] == [
        "32, 32, 3",
        "40, 40, 3",
    ]
    model = load_checkpoint(tmp_path / "whole")
    assert model.image_size == 48 and model.checkpoint.step == 11
    # Two of 11 steps compiled, which the clock does not count: 1 of the last 5.
    assert [row["step"] for row in read_metrics(tmp_path / "whole")] == ["6", "11"]
    assert model.checkpoint.meta["clock"]["images"] == 8 * 4
    for stop in (8, 9):  # where a size begins, and inside it
        workdir = tmp_path / str(stop)
        with monkeypatch.context() as stopping, pytest.raises(interruption.Interrupted):
            signal_at(stopping, stop)
            loop.run(recipe, workdir)
        recipe.data.workers = 1 if stop == 8 else 0
        loop.run(recipe, workdir)
        assert_same_checkpoint(workdir, tmp_path / "whole")
        assert metrics(workdir) == metrics(tmp_path / "whole")


def test_epochs_that_would_move_the_sizes_are_refused(recipe, tmp_path, monkeypatch):
    recipe.image_size, recipe.optimizer.schedule = "32@0 40@0.5", "constant"
    signal_at(monkeypatch, 3)
    with pytest.raises(interruption.Interrupted):
        loop.run(recipe, tmp_path / "w")
    monkeypatch.undo()
    recipe.epochs += 1
    with pytest.raises(UserError, match=r"config.epochs was \d and is \d.*--branch-from"):
        loop.run(recipe, tmp_path / "w")
