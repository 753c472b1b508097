"""Class lists on the taxonomy and subsets of them, by counts and by brute force."""

import functools
import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from i21k.labels import ClassList
from i21k.wordnet import partition, views
from i21k.wordnet.class_lists import named
from i21k.wordnet.hierarchy import Hierarchy
from i21k.wordnet.subsets import SubsetError, select
from tests.helpers import dags


@pytest.fixture(scope="module")
def fall11() -> Hierarchy:
    return Hierarchy(named("fall11"))


def test_fall11_on_wordnet(fall11):
    assert fall11.reach.shape == (23546, 21841) and fall11.reach.nnz == 253390
    assert fall11.leaf.sum() == 17253
    assert fall11.reach[fall11.class_nodes].nnz == 123663
    sizes = {
        name: fall11.sizes[fall11.node_of[fall11.taxonomy.find(name).id]]
        for name in ("entity", "n00004475", "n00021939")
    }
    assert sizes == {
        "entity": 21841,
        "n00004475": 10863,
        "n00021939": 7895,
    }  # organism and artifact, with themselves


def test_sums_of_childrens_sums_would_be_wrong_at_161_nodes(fall11):
    naive = np.zeros(len(fall11.ids), int)
    naive[fall11.class_nodes] = 1
    for node in reversed(range(len(fall11.ids))):
        for parent in fall11.parents[node]:
            naive[parent] += naive[node]
    wrong = np.flatnonzero(naive != fall11.sizes)
    assert len(wrong) == 161 and np.isin(wrong, fall11.class_nodes).sum() == 93
    activity = fall11.node_of["n00407535"]
    assert (naive[activity], fall11.sizes[activity], naive[0]) == (256, 167, 29574)


def test_ilsvrc_in_fall11(fall11):
    thousand = named("ilsvrc2012")
    below = fall11.below(thousand.ids)
    assert below.shape == (1000, 21841)
    sizes = np.diff(below.indptr)
    assert [thousand.ids[k] for k in np.flatnonzero(sizes == 0)] == ["n04399382"]  # teddy
    assert ((sizes == 1).sum(), (sizes > 1).sum()) == (662, 337)
    per_class = below.sum(axis=0)
    assert (per_class == 1).sum() == 2244 and (
        per_class == 0
    ).sum() == 19597  # so none has two: folding is a function
    assert sizes.max() == 97  # agaric


def test_folded_mass_is_a_probability(fall11):
    probabilities = np.random.default_rng(0).dirichlet(np.full(21841, 0.01), 3)
    mass = fall11.fold(probabilities)
    np.testing.assert_allclose(mass[:, 0], 1)
    parents = [(parent, node) for node, parents in enumerate(fall11.parents) for parent in parents]
    above, below = np.array(parents).T
    assert (mass[:, above] >= mass[:, below] - 1e-12).all()
    assert fall11.fold(probabilities.astype(np.float32)).dtype == np.float32


def test_nearness_of_classes(fall11):
    label = fall11.classes.label_of
    fir, spruce, dog, conifer = (
        label[fall11.taxonomy.find(name).id] for name in ("fir", "spruce", "dog", "conifer")
    )
    a, b = np.array([fir, fir, fir, fir]), np.array([spruce, dog, conifer, fir])
    assert fall11.distances(a, b).tolist() == [
        2,
        10,
        1,
        0,
    ]  # to dog: up seven to organism, down by way of domestic animal
    heights = fall11.lca_heights(a, b)
    assert heights[0] == heights[2] == fall11.heights[fall11.node_of["n13108841"]]  # of conifer
    assert heights[3] < heights[0] < heights[1]


@given(dags.hierarchies())
def test_hierarchies_by_brute_force(h):
    taxonomy, ids, num_classes = h.taxonomy, dags.nodes(h), len(h.classes)
    below = {i: dags.labels_below(h, i) for i in ids}
    assert list(h.ids) == ids
    assert [set(row.indices) for row in (h.reach[[n]] for n in range(len(ids)))] == list(
        below.values()
    )
    assert h.sizes.tolist() == [len(b) for b in below.values()]
    np.testing.assert_allclose(
        h.ic, [-math.log(len(b) / num_classes) for b in below.values()], atol=1e-12
    )
    assert h.leaf.tolist() == [below[i] == {k} for k, i in enumerate(h.classes.ids)]
    np.testing.assert_array_equal(
        h.below([s.id for s in taxonomy.synsets]).sum(axis=1),
        [len(dags.labels_below(h, s.id)) for s in taxonomy.synsets],
    )

    labels, nodes = np.divmod(np.arange(num_classes * len(ids)), len(ids))
    assert h.covers(nodes, labels).tolist() == [
        k in below[ids[n]] for n, k in zip(nodes, labels, strict=True)
    ]

    edges = {(p, i) for i in ids for p in taxonomy[i].parents}
    height = lambda i: max((1 + height(c) for p, c in edges if p == i), default=0)
    up = lambda a, i: (
        0 if a == i else 1 + min((up(a, p) for p in taxonomy[i].parents), default=math.inf)
    )
    pairs = list(itertools.product(range(num_classes), repeat=2))
    a, b = np.array(pairs).T
    common = [[i for i in ids if {x, y} <= below[i]] for x, y in pairs]
    assert h.lca_heights(a, b).tolist() == [min(map(height, c)) for c in common]
    expected = [
        min(up(i, h.classes.ids[x]) + up(i, h.classes.ids[y]) for i in c)
        for (x, y), c in zip(pairs, common, strict=True)
    ]
    assert h.distances(a, b).tolist() == expected


def test_refuses_classes_outside_wordnet_and_other_shapes(fall11):
    with pytest.raises(
        ValueError,
        match=r"2 of 3 classes are not in WordNet, such as 'cat'\. Use synset ids",
    ):
        Hierarchy(ClassList(("n02084071", "cat", "mine")))
    with pytest.raises(
        ValueError,
        match=r"probabilities have shape \[1, 3\], expected \[images, 21841 classes\]",
    ):
        fall11.fold(np.zeros((1, 3)))


@pytest.mark.parametrize(
    ("expression", "count"),
    [
        ("all", 21841),
        ("leaf", 17253),
        ("internal", 4588),
        ("ilsvrc2012", 999),
        ("ilsvrc2012 & leaf", 662),
        ("released2015 & rank<11221 & miil11k", 11221),
        ("under(person)", 2836),
        ("!under(n00007846)", 21841 - 2836),
        ("under(entity)", 21841),
        ("under(woody plant)&!under(tree)", 1631 - 993),
        ("Yorkshire terrier | n02084071", 2),
        ('"crane (wading bird)"', 1),
        ("above(conifer) & tree", 1),
        ("under(n12998815) & !n12998815", 96),
        ("cut(ic=1)", 485),
        ("cut(ic=2)", 1270),
        ("cut(ic=3)", 2310),
        ("cut(ic>=4)", 3352),
        ("cut(ic=5)", 5233),
        ("cut(ic=6)", 7044),
        ("cut(size=2000)", 2189),
        ("cut(size<=500)", 3133),
        ("cut(size=100)", 5792),
        ("cut(size=20)", 10078),
        ("partition(ic=3)", 2322),
        ("size=190", 1),  # dog
        ("dog | tree & leaf", 1),  # and binds more tightly: the tree is no leaf
        ("(dog | tree) & internal", 2),
        ("!!dog", 1),
    ],
)
def test_subsets_of_fall11(fall11, expression, count):
    assert select(expression, fall11).sum() == count


def test_basic_classes_are_everyday_words(fall11):
    chosen = select("basic", fall11)
    names = {fall11.taxonomy.name(i) for i, c in zip(fall11.classes.ids, chosen, strict=True) if c}
    assert {"dog", "tree", "bridge", "mountain", "car"} <= names and not {
        "Yorkshire terrier",
        "conifer",
        "suspension bridge",
    } & names


@given(dags.hierarchies(), st.data())
def test_subsets_by_brute_force(h, data):
    ids, num_classes = h.classes.ids, len(h.classes)
    below = {s.id: dags.labels_below(h, s.id) for s in h.taxonomy.synsets}
    ic = {i: -math.log(len(below[i]) / num_classes) for i in ids}
    synset, bound = data.draw(st.sampled_from(sorted(below))), data.draw(st.floats(0, 3))
    strictly_above = lambda a, i: a != i and dags.is_above(h.taxonomy, a, i)
    cases = {
        f"under({synset})": [i for k, i in enumerate(ids) if k in below[synset]],
        f"above({synset})": [i for i in ids if dags.is_above(h.taxonomy, i, synset)],
        f"ic>={bound!r} | size<2": [i for i in ids if ic[i] >= bound or len(below[i]) < 2],
        f"cut(ic={bound!r})": [
            i
            for i in ids
            if ic[i] >= bound and not any(strictly_above(a, i) and ic[a] >= bound for a in ids)
        ],
        f"cut(size={bound!r})": [
            i
            for i in ids
            if len(below[i]) <= bound
            and not any(strictly_above(a, i) and len(below[a]) <= bound for a in ids)
        ],
        f"!(leaf & !under({synset}))": [
            i for k, i in enumerate(ids) if below[i] != {k} or k in below[synset]
        ],
    }
    for expression, expected in cases.items():
        chosen = functools.partial(select, expression, h)
        if expected:
            assert [i for i, c in zip(ids, chosen(), strict=True) if c] == expected
        else:
            with pytest.raises(ValueError, match=r"has none of the"):
                chosen()


@given(dags.hierarchies(), st.data())
def test_partitions_by_brute_force(h, data):
    ids, t = h.classes.ids, h.taxonomy
    num_below = {s.id: sum(dags.is_above(t, s.id, r.id) for r in t.synsets) for s in t.synsets}
    members = data.draw(st.lists(st.sampled_from([s.id for s in t.synsets]), unique=True))

    def owner(synset_id: str, members: list[str]) -> str | None:
        if synset_id in members:
            return synset_id
        parents = sorted(t[synset_id].parents, key=lambda p: (num_below[p], t.number_of[p]))
        return next((found for p in parents if (found := owner(p, members))), None)

    expected = [owner(i, members) for i in ids]
    found = partition.owners(members, h).tolist()
    assert [members[m] if m >= 0 else None for m in found] == expected
    matrix = partition.membership(members, h).toarray()
    assert matrix.tolist() == [[float(e == member) for e in expected] for member in members]

    chosen = np.array(data.draw(st.lists(st.booleans(), min_size=len(ids), max_size=len(ids))))
    picked = {i for i, c in zip(ids, chosen, strict=True) if c}
    above = {i: {a for a in picked if dags.is_above(t, a, i)} for i in ids}
    parts = {i for i, c in zip(ids, partition.partition(chosen, h), strict=True) if c}
    assert parts == {i for i in ids if above[i] in (set(), {i})}
    assert (partition.owners(sorted(parts), h) >= 0).all()  # every class, once


def test_partition_of_fall11_adds_up_to_one(fall11):
    rng = np.random.default_rng(0)
    probabilities = rng.gamma(0.1, size=(2, 21841))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    for expression in ("ic>=3", "ic=1", "size<=500"):
        ids = np.array(fall11.classes.ids)[select(f"partition({expression})", fall11)].tolist()
        answers = views.fold(probabilities, fall11, ids, len(ids), once=True)
        assert all(math.isclose(sum(a.probability for a in row), 1) for row in answers)
    cut = np.array(fall11.classes.ids)[select("cut(ic>=3)", fall11)].tolist()
    times = np.asarray(fall11.below(cut).sum(axis=0))
    assert (times > 1).sum() == 1654 and (times == 0).sum() == 12  # what a partition avoids
    once = np.asarray(partition.membership(cut, fall11).sum(axis=0))
    assert once.max() == 1 and once.sum() == 21841 - 12


def test_superclasses_of_a_model_with_only_leaves():
    leaves = ("n02094433", "n02123045", "n04366367")  # Yorkshire terrier, tabby, bridge
    h = Hierarchy(ClassList(leaves))
    superclasses = ["n02084071", "n00015388", "n00003553"]  # dog, animal, whole
    assert partition.owners(superclasses, h).tolist() == [0, 1, 2]
    row = np.array([[0.5, 0.3, 0.2]])
    answers = views.fold(row, h, superclasses, 3, once=True)[0]
    assert [(a.id, round(a.probability, 6)) for a in answers] == list(
        zip(superclasses, (0.5, 0.3, 0.2), strict=True)
    )


@pytest.mark.parametrize(
    ("expression", "message", "position"),
    [
        (
            "",
            r"expected one of all, leaf, internal, basic, under, above, cut, partition, the name of"
            r" a class or of a list, or '\(' here",
            0,
        ),
        ("under(plnt) & leaf", r"no synset is called 'plnt'\. Did you mean 'plant'", 6),
        ("dog & leef", r"no synset is called 'leef'\. Did you mean .* Or the keyword leaf", 6),
        (
            "crane",
            r"'crane' is the name of 2 synsets\. Write one of n03126707 \(crane \(lift",
            0,
        ),
        ('dog | "crain"', "no synset is called 'crain'", 6),
        (
            "physical entity",
            r"physical entity is not one of the 21,841 classes\. .* under\(n00001930\)",
            0,
        ),
        ("under(dog", r"expected '\)' here", 9),
        ("under(&)", r"expected a synset in under\(\)", 6),
        ("dog)", "expected '&', '|' or the end here", 3),
        ("dog & & leaf", "expected one of all", 6),
        ('dog & "crane', 'this " has no closing', 6),
        ("cut(depth=3)", r"expected ic or size here, as in cut\(ic=3\) or cut\(size=500\)", 4),
        ("leaf & ic>=x", "expected a number here", 11),
        ("ic & leaf", "expected one of < <= > >= = here, as in ic>=3", 3),
        ("!" * 2000 + "leaf", r"more than 50 '\(' and '!' inside each other", 50),
        ("dog | " + "(" * 2000, r"more than 50 '\(' and '!' inside each other", 56),
    ],
)
def test_errors_show_where(fall11, expression, message, position):
    with pytest.raises(ValueError, match=message) as raised:
        select(expression, fall11)
    assert str(raised.value).splitlines()[1:] == [f"  {expression}", "  " + " " * position + "^"]
    assert isinstance(raised.value, SubsetError) and raised.value.position == position
    assert len(select("!" * 50 + "leaf", fall11)) == 21_841


def test_refuses_an_empty_subset(fall11):
    with pytest.raises(
        ValueError,
        match=r"subset 'leaf & internal' has none of the 21,841 classes\. Use a wider",
    ):
        select("leaf & internal", fall11)
