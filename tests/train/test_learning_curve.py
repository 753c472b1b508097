import numpy as np
import pytest
from matplotlib.figure import Figure

from i21k.train import learning_curve
from i21k.train.history import Change
from i21k.train.learning_curve import Point, draw_learning_curve


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """Draw, and return the axes: losses, accuracies, and learning rates below each."""
    figures = []
    savefig = Figure.savefig

    def keep(figure, *args, **options):
        figures.append(figure)
        savefig(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", keep)

    def draw(rows, **options):
        draw_learning_curve(rows, tmp_path / "curve.png", **options)
        assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
        return figures[-1].axes

    return draw


def rows_of(val_losses, train_loss=2.0, steps=10):
    return [
        {"epoch": str(k + 1), "step": str(steps * (k + 1)), "lr": "0.1", "val_top1": "0.5",
         "train_loss": str(train_loss), "val_loss": str(loss)}
        for k, loss in enumerate(val_losses)
    ]  # fmt: skip


def test_an_outlier_does_not_flatten_the_rest(drawn):
    """The validation loss of the first epoch can be 28,160 where BatchNorm has seen few steps."""
    losses, *_ = drawn(rows_of([28160, 3, 2.9, 2.7, 2.5, 2.4]))
    bottom, top = losses.get_ylim()
    assert losses.get_yscale() == "linear" and 1.5 < bottom < 2 and 3 < top < 4
    assert "1 above, up to 2.82e+04" in [text.get_text() for text in losses.texts]
    losses, *_ = drawn(rows_of([9, 6, 5, 4, 3.5, 3]))  # large, and part of the curve
    assert losses.get_ylim()[1] > 9 and not losses.texts
    points = [Point(step, 2.0, 0.1) for step in range(1000)]
    losses, *_ = drawn(rows_of([19.0, 20.0, 18.0]), points=points)  # a few rows, and no outliers
    assert losses.get_ylim()[1] > 20


def test_an_outlier_of_losses_of_several_decades(drawn):
    losses, *_ = drawn(rows_of([1e6, *10 ** np.linspace(1, -2, 40)], train_loss=0.5))
    bottom, top = losses.get_ylim()
    assert losses.get_yscale() == "log" and 0.001 < bottom < 0.01 and 10 < top < 100


def test_losses_of_several_decades_have_a_logarithmic_axis(drawn):
    losses, *_ = drawn(rows_of(10 ** np.linspace(1, -2, 40), train_loss=0.5))
    assert losses.get_yscale() == "log" and "log scale" in losses.get_ylabel()
    losses, *_ = drawn(rows_of(np.linspace(9, 2, 40)))
    assert losses.get_yscale() == "linear"


def test_short_runs_have_steps_and_long_ones_epochs_on_the_axis(drawn):
    points = [Point(step, 9.0 - step / 20, 0.01 * step) for step in range(1, 21)]
    losses, _, rates, _ = drawn(rows_of([3, 2]), points=points, steps_per_epoch=10)
    assert rates.get_xlabel() == "step" and losses.get_xlim()[1] > 19
    assert rates.lines[0].get_ydata()[-1] == pytest.approx(0.2)
    losses, _, rates, _ = drawn(rows_of([3, 2, 1.5]), points=points, steps_per_epoch=10)
    assert rates.get_xlabel() == "epoch" and 2.9 < losses.get_xlim()[1] < 3.5
    losses, _, rates, _ = drawn(rows_of([3, 2, 1.5]))  # of a run without points
    assert rates.get_xlabel() == "epoch" and list(rates.lines[0].get_xdata()) == [1, 2, 3]


def test_changes_of_the_recipe_are_marked(drawn):
    changes = [
        Change(20, {"optimizer.learning_rate": (0.1, 0.01), "log.every_steps": (3, 5)}),
        Change(25, {"data.workers": (0, 2)}),
    ]
    losses, *_ = drawn(rows_of([3, 2, 1.5]), changes=changes)
    assert [text.get_text() for text in losses.texts] == ["learning_rate 0.1 to 0.01"]


def test_many_points_are_thinned(drawn):
    points = [Point(step, 5.0, 0.1) for step in range(100_000)]
    losses, *_ = drawn(rows_of([3, 2, 1.5]), points=points)
    assert max(len(line.get_xdata()) for line in losses.lines) == learning_curve._MAX_POINTS


def test_nothing_is_drawn_of_values_that_are_not_finite(drawn):
    points = [Point(1, float("inf"), 0.1), Point(2, 3.0, 0.1), Point(3, 2.0, 0.1)]
    losses, *_ = drawn(rows_of([float("nan"), 2]), points=points)
    assert np.isfinite(np.concatenate([line.get_ydata() for line in losses.lines])).all()
    drawn([])
