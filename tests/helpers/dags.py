"""Random small taxonomies with class lists, for tests by brute force."""

from hypothesis import settings
from hypothesis import strategies as st

from i21k.labels import ClassList
from i21k.wordnet.hierarchy import Hierarchy
from i21k.wordnet.taxonomy import Synset, Taxonomy

# The same examples on every machine, however slow it is.
settings.register_profile("brute force", deadline=None, derandomize=True)
settings.load_profile("brute force")


@st.composite
def hierarchies(draw, max_synsets: int = 9) -> Hierarchy:
    """Draw up to `max_synsets` synsets with up to three parents each, and classes among them in any
    order."""
    size = draw(st.integers(1, max_synsets))
    familiarity = st.sampled_from([0.0, 1.0, 2.0, 3.0, 5.0])
    synsets = [Synset("s0", familiarity=draw(familiarity))]
    for n in range(1, size):
        parents = draw(st.lists(st.sampled_from(range(n)), min_size=1, max_size=3, unique=True))
        synsets.append(
            Synset(f"s{n}", tuple(f"s{p}" for p in parents), familiarity=draw(familiarity))
        )
    ids = draw(st.lists(st.sampled_from([s.id for s in synsets]), min_size=1, unique=True))
    return Hierarchy(ClassList(tuple(ids)), Taxonomy(tuple(synsets)))


def is_above(taxonomy: Taxonomy, a: str, b: str) -> bool:
    """Whether synset `a` is `b` or above it."""
    return a == b or any(is_above(taxonomy, a, parent) for parent in taxonomy[b].parents)


def labels_below(hierarchy: Hierarchy, synset_id: str) -> set[int]:
    """Labels of the classes at or below a synset."""
    return {
        k
        for k, class_id in enumerate(hierarchy.classes.ids)
        if is_above(hierarchy.taxonomy, synset_id, class_id)
    }


def nodes(hierarchy: Hierarchy) -> list[str]:
    """Ids of the synsets with a class at or below, parents first."""
    return [s.id for s in hierarchy.taxonomy.synsets if labels_below(hierarchy, s.id)]
