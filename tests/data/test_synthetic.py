"""The drawn pictures: a pure function of the seed, real synsets, and not to be told apart by colour
or coarse layout."""

import functools
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import simplejpeg

from i21k.data import synthetic
from i21k.data.format.splits import open_split
from i21k.wordnet.class_lists import named

K = len(synthetic.SYNSETS)
SIZE_PX = 72


def test_classes_are_imagenet_synsets_in_label_order() -> None:
    assert K >= 16
    assert set(synthetic.SYNSETS) <= set(named("fall11").ids)
    assert list(synthetic.SYNSETS) == sorted(set(synthetic.SYNSETS))


def test_colours_shared_with_other_classes() -> None:
    bodies = [set(look.colours[0].split("/")) for look in synthetic.LOOKS]
    for k, body in enumerate(bodies):
        others = set[str]().union(
            *(b for j, b in enumerate(bodies) if j != k),
            *(look.colours[1:] for look in synthetic.LOOKS),
        )
        assert body & others, (
            f"{synthetic.LOOKS[k].sketch.__name__} could be told by its colour alone"
        )


@pytest.mark.parametrize("class_index", range(K))
def test_draw_is_a_function_of_its_arguments(class_index: int) -> None:
    picture = synthetic.draw(class_index, 3, SIZE_PX)
    assert picture.shape == (SIZE_PX, SIZE_PX, 3) and picture.dtype == np.uint8
    np.testing.assert_array_equal(picture, synthetic.draw(class_index, 3, SIZE_PX))
    for other in (
        synthetic.draw(class_index, 4, SIZE_PX),
        synthetic.draw((class_index + 1) % K, 3, SIZE_PX),
    ):
        assert (
            np.abs(picture.astype(int) - other).mean() > 20
        )  # of 255: another scene, not the same one with other noise


def test_size_changes_the_resolution_only() -> None:
    small, large = (synthetic.draw(5, 1, size_px).astype(float) for size_px in (48, 96))
    pooled = large.reshape(48, 2, 48, 2, 3).mean((1, 3))
    assert np.corrcoef(small.ravel(), pooled.ravel())[0, 1] > 0.9


@pytest.mark.parametrize("look", synthetic.LOOKS, ids=lambda look: look.sketch.__name__)
def test_sketch_fits_its_frame(look: synthetic.Look) -> None:
    at = np.linspace(-1.3, 1.3, 131, dtype=np.float32)
    x, y = np.meshgrid(at, at)
    outline, marks = look.sketch(synthetic.Frame(x, y, 0.02, np.random.default_rng(0)))
    inside = outline < 0
    assert outline.dtype == np.float32  # float64 would double the time to draw
    assert 0.1 < inside[np.hypot(x, y) < 1].mean() < 0.98
    assert not inside[np.hypot(x, y) > 1.15].any()
    assert len(marks) == len(look.colours) - 1
    for mark in marks:
        assert mark.min() >= 0 and mark.max() <= 1
        assert mark[inside].max() > 0.25, "a mark that nobody sees"


def test_write_source(tmp_path: Path) -> None:
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        synthetic.write_source(tmp_path / folder, 2, size_px=40, seed=seed)
    files = sorted(
        p.relative_to(tmp_path / "a").as_posix() for p in (tmp_path / "a").rglob("*") if p.is_file()
    )
    assert files == [f"{wnid}/{wnid}_{i}.JPEG" for wnid in synthetic.SYNSETS for i in range(2)]
    a, b, c = ([(tmp_path / folder / name).read_bytes() for name in files] for folder in "abc")
    assert a == b
    assert len({*a, *c}) == len(a) + len(c)
    decoded = simplejpeg.decode_jpeg(a[0]).astype(int)
    assert np.abs(decoded - synthetic.draw(0, 0, 40)).mean() < 12  # what JPEG makes of the noise


@functools.cache
def _pictures(first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    images = np.stack(
        [synthetic.draw(k, first + i, SIZE_PX) for k in range(K) for i in range(count)]
    )
    return images, np.repeat(np.arange(K), count)


def _thumbnails(images: np.ndarray) -> np.ndarray:
    """Mean colours of 8 x 8 fields, `[B, 192]`."""
    return (
        images.reshape(-1, 8, SIZE_PX // 8, 8, SIZE_PX // 8, 3)
        .mean((2, 4))
        .reshape(len(images), -1)
    )


def _histograms(images: np.ndarray) -> np.ndarray:
    """Square roots of the shares of 4 x 4 x 4 colours, `[B, 64]`."""
    colours = (images // 64).reshape(len(images), -1, 3) @ np.array([16, 4, 1])
    return np.sqrt(np.stack([np.bincount(row, minlength=64) for row in colours]) / SIZE_PX**2)


def _regression_accuracy(
    train: np.ndarray, y: np.ndarray, val: np.ndarray, y_val: np.ndarray, l2: float
) -> float:
    """Accuracy on `val` of a multinomial logistic regression that minimises loss + l2 / 2 |w|^2, by
    Nesterov's descent."""
    mean, std = train.mean(0), train.std(0) + 1e-6
    x, x_val = ((np.c_[(f - mean) / std, np.ones(len(f))]).astype(np.float32) for f in (train, val))
    step = 1 / (
        0.5 * np.linalg.norm(x, 2) ** 2 / len(x) + l2
    )  # the inverse of a bound of the curvature: cannot diverge

    def gradient(w: jax.Array) -> jax.Array:
        return x.T @ (jax.nn.softmax(x @ w) - jax.nn.one_hot(y, K)) / len(x) + l2 * w

    def descend(
        carry: tuple[jax.Array, jax.Array], i: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
        w, ahead = carry
        new = ahead - step * gradient(ahead)
        return (new, new + i / (i + 3) * (new - w)), None

    start = jnp.zeros((x.shape[1], K), jnp.float32)
    (w, _), _ = jax.jit(
        lambda: jax.lax.scan(descend, (start, start), jnp.arange(400, dtype=jnp.float32))
    )()
    assert jnp.linalg.norm(gradient(w)) < 0.01 * jnp.linalg.norm(gradient(start)), "not converged"
    return float(((x_val @ np.asarray(w)).argmax(1) == y_val).mean())


@pytest.mark.parametrize(("features", "above"), [(_thumbnails, 0.15), (_histograms, 0.08)])
def test_logistic_regression_stays_below_half(
    features: Callable[[np.ndarray], np.ndarray], above: float
) -> None:
    (images, y), (val, y_val) = _pictures(0, 100), _pictures(1_000_000, 30)
    x, x_val = features(images), features(val)
    accuracies = [
        _regression_accuracy(x, y, x_val, y_val, l2) for l2 in (0.01, 0.05)
    ]  # the best of 1e-3 to 1
    assert max(accuracies) < 0.45  # the promise is 0.5
    assert (
        max(accuracies) > above
    )  # far above chance (1 / 25): the regression works, and the pictures have something to learn


def test_pack_if_missing(tmp_path: Path) -> None:
    (tmp_path / "data" / ".packing").mkdir(parents=True)  # a run before was killed
    synthetic.pack_if_missing(tmp_path / "data", 5, seed=0)
    train, val = (open_split(tmp_path / "data", split) for split in ("train", "val"))
    assert (train.num_records, val.num_records) == (5 * K, K)
    assert train.classes.ids == synthetic.SYNSETS
    before = sorted((p.name, p.stat().st_mtime_ns) for p in (tmp_path / "data").iterdir())
    synthetic.pack_if_missing(tmp_path / "data", 7, seed=1)
    assert before == sorted((p.name, p.stat().st_mtime_ns) for p in (tmp_path / "data").iterdir())
