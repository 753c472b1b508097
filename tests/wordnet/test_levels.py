"""The sets of classes around each class, by brute force on small taxonomies and on fall11."""

import numpy as np
import pytest
from hypothesis import given

from i21k.wordnet.class_lists import named
from i21k.wordnet.hierarchy import Hierarchy
from i21k.wordnet.levels import MAX_LEVELS, make_levels
from i21k.wordnet.partition import main_parent
from tests.helpers.dags import hierarchies
from tests.helpers.levels import members


def chains(hierarchy: Hierarchy) -> list[list[str]]:
    """Each class and the synsets above it, each of which is below its main parent only."""
    found = []
    for class_id in hierarchy.classes.ids:
        chain: list[str] = []
        above: str | None = class_id
        while above is not None:
            chain.append(above)
            above = main_parent(hierarchy.taxonomy, hierarchy.taxonomy[above].parents)
        found.append(chain)
    return found


@given(hierarchies())
def test_sets_are_the_classes_below_each_synset_above(hierarchy):
    levels, ways = make_levels(hierarchy, 0.5), chains(hierarchy)
    assert sorted(levels.place.tolist()) == list(range(len(ways)))
    for label, way in enumerate(ways):
        below = [{k for k, other in enumerate(ways) if synset in other} for synset in way]
        grown = [below[i] for i in range(len(way)) if len(below[i]) > len(below[i - 1]) or not i]
        expected = [found for found in grown if len(found) > 1] or [{label}]
        assert members(levels, label) == expected
        weights = 0.5 ** np.arange(len(expected))
        np.testing.assert_allclose(
            levels.weights[label, : len(expected)], weights / weights.sum(), rtol=1e-6
        )


def test_on_fall11():
    levels = make_levels(Hierarchy(named("fall11")), 0.5)
    assert levels.first.shape == (21841, MAX_LEVELS)
    label = named("fall11").label_of["n02110341"]  # dalmatian
    sizes = levels.sizes[label][levels.weights[label] > 0]
    assert (np.diff(sizes) > 0).all() and len(sizes) == MAX_LEVELS
    label = named("fall11").label_of["n00004475"]  # organism, whose sets end with all classes
    sizes = levels.sizes[label][levels.weights[label] > 0]
    assert len(sizes) < MAX_LEVELS and sizes[-1] == 21841
    assert levels.weights.sum(axis=1) == pytest.approx(1, rel=1e-5)
