"""The benchmark of scenes, on planted probabilities and drawn images."""

import numpy as np
import pytest

from benchmarks import scenes
from benchmarks.scenes_bound import learned_bound
from i21k.errors import UserError
from i21k.labels import ClassList
from i21k.wordnet.answers import Answer
from i21k.wordnet.class_lists import named
from i21k.wordnet.hierarchy import Hierarchy
from i21k.wordnet.views import diverse, top

TERRIER, TABBY, BRIDGE, DOG = "n02094433", "n02123045", "n04366367", "n02084071"


def test_scores_of_answers():
    h = Hierarchy(ClassList((TERRIER, TABBY, BRIDGE, "n09193705")))
    terrier = h.taxonomy[TERRIER].parents[0]
    answers = [[Answer(terrier, 0.5), Answer(BRIDGE, 0.3), Answer("n09193705", 0.1)], []]
    found = scenes.score(answers, [[TERRIER, BRIDGE], [TABBY, BRIDGE]], h)
    assert found["exact"] == 1 / 4  # the bridge of the first
    assert found["near"] == found["covered"] == 2 / 4  # and the terrier's parent
    assert found["foreign"] == 1 / 3 and found["answers"] == 1.5 and found["specificity"] == 1


def test_diverse_names_more_of_a_planted_scene_than_top():
    h = Hierarchy(named("fall11"))
    rng = np.random.default_rng(0)
    leaves = np.flatnonzero(h.leaf)
    probabilities, truths = np.full((20, 21841), 0.1 / 21841), []
    for row in probabilities:
        truth = rng.choice(leaves, 3, replace=False)
        for label, share in zip(truth, (0.6, 0.2, 0.1), strict=True):
            # The model is unsure between the class and classes with the same parent.
            parent = h.parents[h.class_nodes[label]][0]
            alike = h.reach[[parent]].indices[:6]
            row[alike] += 0.7 * share / len(alike)
            row[label] += 0.3 * share
        truths.append([h.classes.ids[label] for label in truth])
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    mine = scenes.score(diverse(probabilities, h), truths, h)
    best = scenes.score(top(probabilities, h.classes), truths, h)
    assert mine["near"] > 1.3 * best["near"] and mine["covered"] > 1.3 * best["covered"]


def test_mosaics_keep_the_pixels_of_their_images():
    images = [np.full((24, 24, 3), value, np.uint8) for value in (10, 90, 170, 250)]
    for num in (2, 3, 4):
        made = scenes.mosaic(images[:num])
        assert made.shape == (48, 48, 3)
        for image in images[:num]:
            assert (made == image[0, 0]).all(axis=2).sum() == 24 * 24
        assert scenes.overlay(images[:num]).shape == (24, 24, 3)


def test_drawn_scenes_are_reproducible_and_score_in_every_view():
    classes, draw = scenes.painter(32)
    made = list(scenes.scenes(classes, draw, 6, seed=1))
    assert [len(truth) for _, truth in made] == [2, 2, 3, 3, 4, 4]
    assert all(len(set(truth)) == len(truth) for _, truth in made)
    again = list(scenes.scenes(classes, draw, 6, seed=1))
    assert all(np.array_equal(a, b) for (a, _), (b, _) in zip(made, again, strict=True))
    h = Hierarchy(ClassList(tuple(classes)))
    truths = [truth for _, truth in made]
    planted = np.array([[float(c in truth) for c in classes] for truth in truths])
    planted /= planted.sum(axis=1, keepdims=True)
    scores = scenes.score_views(planted, truths, h, 5, 0.0, classes)
    views_scored = {"top", "subset", "fold", "basic", "diverse", "diverse, share 1", "hedge"}
    assert set(scores) == views_scored
    assert scores["top"]["exact"] == 1


def test_missing_images_are_named(tmp_path):
    with pytest.raises(UserError, match="is not a directory"):
        scenes.folders(tmp_path / "val")


def test_the_bound_learns_what_the_model_gets_wrong():
    classes = ClassList(("n02094433", "n02123045", "n04366367", "n09193705"))
    rng = np.random.default_rng(0)

    def mistaken(num: int) -> tuple[np.ndarray, list[list[str]]]:
        """Scenes of one class, where the model always takes a class for the next one."""
        truth = rng.integers(4, size=num)
        found = rng.dirichlet(np.ones(4), num) + 3 * np.eye(4)[(truth + 1) % 4]
        return found / 4, [[classes.ids[label]] for label in truth]

    learn, probabilities = mistaken(500), mistaken(100)
    answers = learned_bound(*learn, probabilities[0], classes, 1)
    right = [a.id == truth for (a,), (truth,) in zip(answers, probabilities[1], strict=True)]
    assert np.mean(right) > 0.95


def test_shifted_mosaics_have_the_same_pixels():
    image = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    moved = scenes.shifted(image, np.random.default_rng(1))
    assert not np.array_equal(moved, image)
    assert np.array_equal(np.sort(moved, axis=None), np.sort(image, axis=None))
