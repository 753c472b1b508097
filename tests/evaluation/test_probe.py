"""Probes against formulas written out, and the files of features."""

import numpy as np
import pytest

from i21k.errors import UserError
from i21k.evaluation import probe, probe_text
from i21k.evaluation.features import Features, load_features
from i21k.labels import ClassList

CLASSES = ClassList(("a", "b", "c"))


def blobs(num: int, seed: int, spread: float = 0.5, width: int = 6) -> Features:
    """Points around three corners."""
    rng = np.random.default_rng(seed)
    labels = np.arange(num) % 3
    points = np.eye(3, width)[labels] * 3 + rng.normal(0, spread, (num, width))
    names = tuple(f"{seed}/{k}.jpg" for k in range(num))
    return Features(points.astype(np.float32), names, labels, CLASSES, {"model": {"step": 3}})


def test_nearest_neighbours_vote_as_written_out():
    train, test = blobs(40, 0, 1.5), blobs(11, 1, 1.5)
    got = probe.knn(train.array, train.labels, test.array, 3, neighbours=7)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (train.array, test.array)]
    for row, image in enumerate(unit[1]):
        cosines = unit[0] @ image
        wanted = np.zeros(3)
        for near in np.argsort(-cosines)[:7]:
            wanted[train.labels[near]] += np.exp((cosines[near] - 1) / 0.07)
        np.testing.assert_allclose(got[row], wanted, rtol=1e-4)


@pytest.mark.parametrize("num", [5, 60])  # fewer images than numbers, and more
def test_the_ridge_solves_its_equations(num):
    train = blobs(num, 0, 1.5, width=12)
    ridge = probe.Ridge(train.array, train.labels, 3, strength=7.0)
    x = train.array.astype(float)
    x = np.c_[(x - x.mean(0)) / np.maximum(x.std(0), 1e-5), np.full(num, 100.0)]
    y = np.where(train.labels[:, None] == np.arange(3), 1.0, -1.0)
    wanted = np.linalg.solve(x.T @ x + 7.0 * np.eye(13), x.T @ y)
    np.testing.assert_allclose(ridge.weights, wanted, atol=1e-6)


@pytest.mark.parametrize("num", [9, 60])
def test_leaving_out_one_image_is_exact(num, monkeypatch):
    """The strength that is chosen is the best by refitting without each image in turn."""
    train = blobs(num, 3, 2.0, width=12)
    x = train.array.astype(float)
    x = np.c_[(x - x.mean(0)) / x.std(0), np.full(num, 100.0)]
    y = np.where(train.labels[:, None] == np.arange(3), 1.0, -1.0)

    def accuracy(strength: float) -> float:
        right = 0
        for k in range(num):
            kept = np.arange(num) != k
            gram = x[kept].T @ x[kept] + strength * np.eye(13)
            scores = x[k] @ np.linalg.solve(gram, x[kept].T @ y[kept])
            right += scores.argmax() == train.labels[k]
        return right / num

    strengths = (0.01, 1.0, 30.0, 3000.0)
    monkeypatch.setattr(probe, "_STRENGTHS", strengths)
    chosen = probe.Ridge(train.array, train.labels, 3).strength
    assert accuracy(chosen) == pytest.approx(max(map(accuracy, strengths)))


def test_probing_counts_draws_and_names_mistakes():
    train, test = blobs(90, 0), blobs(30, 1)
    found = probe.probe(train, test, shots=(1, 5), draws=3, neighbours=5)
    assert found.accuracy["ridge"].value > 0.9 and found.accuracy["knn"].value > 0.9
    assert [one.shots for one in found.shots["knn"]] == [1, 5]
    assert all(len(one.accuracies) == 3 for one in found.shots["ridge"])
    again = probe.probe(train, test, shots=(1, 5), draws=3, neighbours=5)
    assert again.summary() == found.summary()
    assert found.shots["ridge"][1].mean >= found.shots["ridge"][0].mean
    assert found.confusion.sum() == 30
    wrong = blobs(30, 1)
    wrong.labels[0] = 1  # is a 0
    mistaken = probe.probe(train, wrong, shots=(), neighbours=5)
    assert (1, 0, 1) in mistaken.worst_pairs()
    assert "b\ta\t1" in probe_text.confusion_table(mistaken, CLASSES)
    assert "b taken for a 1" in probe_text.describe(mistaken, CLASSES)


def test_shots_are_drawn_of_each_class_without_repetition():
    labels = np.array([0] * 9 + [1] * 3 + [2] * 4)
    rows = probe.draw_shots(labels, 3, np.random.default_rng(0))
    assert len(set(rows.tolist())) == 9 and np.bincount(labels[rows]).tolist() == [3, 3, 3]


def test_the_interval_is_wilsons():
    # Newcombe 1998, table I: 81 of 263 and 15 of 148.
    assert probe.wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert probe.wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=1e-4)
    assert probe.wilson(0, 10)[0] == 0


def test_held_out_images_are_of_every_class():
    fit, score = probe.held_out(blobs(30, 0), 0.2)
    assert len(fit) == 24 and np.bincount(score.labels).tolist() == [2, 2, 2]
    assert not set(fit.names) & set(score.names)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda f: {"labels": np.full(len(f), -1)}, "without a label"),
        (lambda f: {"array": f.array[:, :4]}, "have 6 and 4 numbers"),
        (lambda f: {"classes": ClassList(("a", "b", "x"))}, "class x is to be scored"),
    ],
)
def test_features_that_do_not_fit_are_refused(change, text):
    import dataclasses

    test = blobs(12, 1)
    with pytest.raises(UserError, match=text):
        probe.probe(blobs(30, 0), dataclasses.replace(test, **change(test)), shots=())


def test_a_class_with_one_image_is_named():
    one = blobs(30, 0).take([0, 1, 3, 4, 5])  # one image of class c
    with pytest.raises(UserError, match="class c has one image"):
        probe.held_out(one)
    with pytest.raises(UserError, match="class c has 1 images to fit on, and 5 shots"):
        probe.probe(one, blobs(9, 1), shots=(5,))


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_features_come_back_from_a_file(tmp_path, suffix, dtype):
    features = blobs(7, 0)
    labels = features.labels.copy()
    labels[2] = -1
    kept = Features(features.array.astype(dtype), features.names, labels, CLASSES, {"x": [1]})
    kept.save(tmp_path / f"f{suffix}")
    found = load_features(tmp_path / f"f{suffix}")
    np.testing.assert_array_equal(found.array, kept.array)
    assert found.array.dtype == dtype and found.names == kept.names
    assert found.labels.tolist() == labels.tolist() and found.classes == CLASSES
    assert found.about == {"x": [1]}
    assert [p.name for p in tmp_path.iterdir()] == [f"f{suffix}"]


def test_files_that_hold_no_features_are_refused(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"nothing")
    np.savez(tmp_path / "b.npz", features=np.zeros((2, 2)))
    np.savez(tmp_path / "c.npz", features=np.array([{}], dtype=object))
    (tmp_path / "d.parquet").write_bytes(b"nothing")
    for name in ("a.npz", "b.npz", "c.npz", "d.parquet", "missing.npz"):
        with pytest.raises(UserError, match="cannot be read as features"):
            load_features(tmp_path / name)
    with pytest.raises(UserError, match="ends in '.csv'"):
        load_features(tmp_path / "e.csv")
