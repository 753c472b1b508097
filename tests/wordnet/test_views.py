"""Every view against its definition, by brute force, and on Mount Rainier."""

import itertools
import math
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from i21k.labels import ClassList
from i21k.wordnet import views
from i21k.wordnet.class_lists import named
from i21k.wordnet.hierarchy import Hierarchy
from i21k.wordnet.outline import outline
from i21k.wordnet.subsets import select
from i21k.wordnet.taxonomy import Synset, Taxonomy
from i21k.wordnet.views import Answer
from tests.helpers import dags


@pytest.fixture(scope="module")
def fall11() -> Hierarchy:
    return Hierarchy(named("fall11"))


@st.composite
def problems(draw, max_synsets: int = 9, num_images: int = 3) -> tuple[Hierarchy, np.ndarray]:
    """Draw a hierarchy and probabilities over its classes, some of them 0."""
    hierarchy = draw(dags.hierarchies(max_synsets))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    weights = rng.random((num_images, len(hierarchy.classes))) ** draw(
        st.sampled_from([0.2, 1, 5])
    ) * (rng.random() < rng.random())
    weights += rng.random(weights.shape) * (rng.random(weights.shape) < 0.7)
    weights[:, rng.integers(weights.shape[1])] += 0.1
    return hierarchy, weights / weights.sum(axis=1, keepdims=True)


class Facts:
    """Mass and specificity of every node, by walking."""

    def __init__(self, hierarchy: Hierarchy, row: np.ndarray) -> None:
        self.labels = {i: dags.labels_below(hierarchy, i) for i in dags.nodes(hierarchy)}
        self.mass = {i: sum(row[k] for k in below) for i, below in self.labels.items()}
        num_classes = len(hierarchy.classes)
        self.specificity = {
            i: -math.log(len(below) / num_classes) / math.log(max(2, num_classes))
            for i, below in self.labels.items()
        }
        self.above = {
            i: {a for a in self.labels if dags.is_above(hierarchy.taxonomy, a, i)}
            for i in self.labels
        }


def close(answers: list[Answer], expected: list[tuple[str, float]]) -> bool:
    return [a.id for a in answers] == [i for i, _ in expected] and np.allclose(
        [a.probability for a in answers], [p for _, p in expected]
    )


@given(problems(), st.integers(1, 4))
def test_ranking_views(problem, k):
    h, probabilities = problem
    ids = h.classes.ids
    chosen = np.arange(len(ids)) % 2 == 0
    everyday = {i: h.taxonomy.synsets[h.taxonomy.basic[h.taxonomy.number_of[i]]].id for i in ids}
    onto = sorted(s.id for s in h.taxonomy.synsets)[::2]
    for n, row in enumerate(probabilities):
        p = dict(zip(ids, row, strict=True))
        falling = lambda mass: sorted(mass.items(), key=lambda item: (-item[1], item[0]))
        assert close(views.top(probabilities, h.classes, k)[n], falling(p)[:k])

        some = {i: p[i] for i in ids[::2]}
        total = sum(some.values()) or 1
        answers = views.subset(probabilities, h.classes, chosen, len(ids))[n]
        assert close(answers, falling({i: q / total for i, q in some.items()}))
        assert math.isclose(sum(a.probability for a in answers), 1) or not any(some.values())

        names = {
            name: sum(p[i] for i in ids if everyday[i] == name) for name in set(everyday.values())
        }
        answers = views.basic(probabilities, h, len(ids))[n]
        assert math.isclose(sum(a.probability for a in answers), 1)
        assert {a.id: pytest.approx(a.probability) for a in answers} == names

        answers = views.fold(probabilities, h, onto, len(onto))[n]
        assert {a.id: pytest.approx(a.probability) for a in answers} == {
            i: sum(row[k] for k in dags.labels_below(h, i)) for i in onto
        }


@settings(max_examples=300)
@given(
    problems(10),
    st.integers(1, 4),
    st.sampled_from([0.01, 0.2, 0.5, 0.9]),
    st.sampled_from([0.0, 0.1]),
    st.sampled_from([0.3, 0.5, 2]),
)
def test_diverse_is_the_best_of_all_sets(problem, k, floor, least, share):
    h, probabilities = problem
    for row, answers in zip(
        probabilities, views.diverse(probabilities, h, k, floor, least, share), strict=True
    ):
        f = Facts(h, row)
        background = np.mean(sorted(row)[:-k]) if len(row) > k else 0.0
        excess = {i: f.mass[i] - len(below) * background for i, below in f.labels.items()}
        candidates = [
            i
            for i in f.labels
            if f.specificity[i] >= floor - 1e-12 and f.mass[i] >= least and excess[i] > 1e-12
        ]
        candidates = [
            i
            for i in candidates
            if not any(
                i != j and i in f.above[j] and excess[j] > share * excess[i] + 1e-12
                for j in candidates
            )
        ]

        def worth(answers: Iterable[str], f: Facts = f, excess: dict = excess) -> float:
            """The formula, for the order of answers of equal excess that makes it largest."""
            by_excess = sorted(answers, key=lambda i: (-round(excess[i], 9), -f.specificity[i]))
            told: list[str] = []
            total = 0.0
            for i in by_excess:
                said = [max(f.specificity[a] for a in f.above[i] & f.above[u]) for u in told]
                total += excess[i] * (f.specificity[i] - max(said, default=0))
                told.append(i)
            return total

        sets = itertools.chain.from_iterable(
            itertools.combinations(candidates, size) for size in range(k + 1)
        )
        best = max(
            worth(s)
            for s in sets
            if not any(f.labels[a] & f.labels[b] for a, b in itertools.combinations(s, 2))
        )
        chosen = [a.id for a in answers]
        assert math.isclose(worth(chosen), best, rel_tol=1e-7, abs_tol=1e-10)
        assert len(chosen) <= k and set(chosen) <= set(candidates)
        assert not any(f.labels[a] & f.labels[b] for a, b in itertools.combinations(chosen, 2))
        assert not any(a in f.above[b] for a, b in itertools.permutations(chosen, 2))
        assert [a.probability for a in answers] == sorted(
            (pytest.approx(f.mass[i]) for i in chosen), key=lambda m: -m.expected
        )
        assert sum(a.probability for a in answers) < 1 + 1e-9


def test_what_each_factor_of_diverse_is_for():
    #           root
    #     wide          bridge      o0 ... o10
    #   m      n
    #  a b    c d
    synsets = [Synset("root"), Synset("wide", ("root",)), Synset("bridge", ("root",))]
    synsets += [Synset("m", ("wide",)), Synset("n", ("wide",))]
    synsets += [Synset(i, (p,)) for i, p in zip("abcd", "mmnn", strict=True)]
    synsets += [Synset(f"o{n}", ("root",)) for n in range(11)]
    leaves = [s.id for s in synsets if s.id not in ("root", "wide", "m", "n")]
    h = Hierarchy(ClassList(tuple(leaves)), Taxonomy(tuple(synsets)))  # 16 classes

    def answers(k: int = 2, floor: float = 0.3, share: float = 0.5, **mass: float) -> list[str]:
        rest = (1 - sum(mass.values())) / (16 - len(mass))
        row = np.array([[mass.get(i, rest) for i in leaves]])
        return [a.id for a in views.diverse(row, h, k, floor, share=share)[0]]

    # Background only: `wide` has 4 of 16 classes and a quarter of the probability.
    assert answers() == []
    assert answers(bridge=0.4) == ["bridge"]
    # a and b repeat each other, so with room for two, m beside bridge says more. Of m, a is most.
    assert answers(a=0.3, b=0.28, bridge=0.2, share=2) == ["m", "bridge"]
    assert answers(a=0.3, b=0.28, bridge=0.2) == ["a", "bridge"]
    # a and c have only `wide` in common, so both are answers.
    assert answers(a=0.35, c=0.3, bridge=0.05) == ["a", "c"]
    # The floor: below it, a synset is never an answer, however probable.
    spread = dict.fromkeys("abcd", 0.22)
    assert answers(1, 0.3, **spread) == ["wide"] and answers(1, 0.6, **spread) == ["n"]


@given(problems(), st.sampled_from([0.0, 0.05, 0.3, 1.0, 20.0]))
def test_hedge_is_the_best_node(problem, generality):
    h, probabilities = problem
    for row, answer in zip(probabilities, views.hedge(probabilities, h, generality), strict=True):
        f = Facts(h, row)
        value = {i: (f.specificity[i] + generality) * f.mass[i] for i in f.labels if f.mass[i] > 0}
        assert math.isclose(value[answer.id], max(value.values()), abs_tol=1e-9)
        assert math.isclose(answer.probability, f.mass[answer.id])
        assert not any(
            f.labels[i] == f.labels[answer.id] and answer.id in f.above[i] and i != answer.id
            for i in f.labels
        )


@given(problems(8, 4), st.data())
def test_calibration_finds_the_least_generality(problem, data):
    h, probabilities = problem
    possible = [np.flatnonzero(row).tolist() for row in probabilities]
    labels = np.array([data.draw(st.sampled_from(p)) for p in possible])
    wanted = data.draw(st.sampled_from([0.2, 0.5, 0.75, 1.0]))
    found = views.calibrate(
        [(probabilities[:1], labels[:1]), (probabilities[1:], labels[1:])], h, wanted
    )

    def quality(generality: float) -> tuple[float, float]:
        nodes = np.array([h.node_of[a.id] for a in views.hedge(probabilities, h, generality)])
        return h.covers(nodes, labels).mean(), h.specificity[nodes].mean()

    np.testing.assert_allclose(
        (found.accuracy, found.specificity), quality(found.generality), atol=1e-12
    )
    assert found.num_images == 4 and found.accuracy >= wanted
    mass, s = h.fold(probabilities), h.specificity
    crossings = {0.0}  # where the values of two nodes are equal
    for row in mass:
        for m, n in itertools.combinations(range(len(s)), 2):
            if abs(row[m] - row[n]) > 1e-9:
                crossings.add((s[n] * row[n] - s[m] * row[m]) / (row[m] - row[n]))
    grid = sorted(c for c in crossings if c >= 0)
    between = [(a + b) / 2 for a, b in itertools.pairwise([*grid, grid[-1] + 2]) if b - a > 1e-6]
    too_few = [g for g in between if quality(g)[0] < wanted]
    assert not any(g >= found.generality for g in too_few)
    for g in between:  # it lies in the first stretch after those
        if max(too_few, default=-1) < g < found.generality:
            np.testing.assert_allclose(quality(g), quality(found.generality))


def test_calibration_skips_accuracy_that_does_not_last():
    # 20 classes. y and z are the children of v. The best is first x, then v, then the root.
    synsets = [
        Synset("root"),
        Synset("v", ("root",)),
        Synset("y", ("v",)),
        Synset("z", ("v",)),
        Synset("x", ("root",)),
    ]
    synsets += [Synset(f"o{n}", ("root",)) for n in range(17)]
    h = Hierarchy(ClassList(tuple(s.id for s in synsets[2:])), Taxonomy(tuple(synsets)))
    probabilities = np.zeros((1, 20))
    probabilities[0] = [0.25, 0.25, 0.4] + [0.1 / 17] * 17
    assert [views.hedge(probabilities, h, g)[0].id for g in (0.1, 0.5, 2.0)] == ["x", "v", "root"]
    found = views.calibrate([(probabilities, np.array([2]))], h, 1.0)
    assert views.hedge(probabilities, h, found.generality)[0].id == "root"
    assert found.accuracy == 1 and found.specificity == 0


def test_hedge_never_answers_what_is_impossible():
    h = Hierarchy(
        ClassList(("root", "leaf")), Taxonomy((Synset("root"), Synset("leaf", ("root",))))
    )
    assert views.hedge(np.array([[1.0, 0.0]]), h, 0.0) == [Answer("root", 1.0)]


def test_sums_that_are_off_by_rounding_are_mended():
    h = Hierarchy(
        ClassList(("root", "leaf")), Taxonomy((Synset("root"), Synset("leaf", ("root",))))
    )
    low = np.array([[0.495, 0.495]], np.float32)
    assert [a.probability for a in views.top(low, h.classes)[0]] == [0.5, 0.5]
    assert views.hedge(low, h, 10.0) == [Answer("root", 1.0)]


@given(problems(), st.randoms(use_true_random=False))
def test_order_of_classes_changes_nothing(problem, random):
    h, probabilities = problem
    order = random.sample(range(len(h.classes)), len(h.classes))
    g, shuffled = (
        Hierarchy(ClassList(tuple(h.classes.ids[k] for k in order)), h.taxonomy),
        probabilities[:, order],
    )
    chosen = np.arange(len(order)) % 3 > 0
    chosen[0] = True
    labels = np.array([row.argmax() for row in probabilities])

    def everything(h: Hierarchy, p: np.ndarray, chosen: np.ndarray, labels: np.ndarray) -> list:
        calibrated = views.calibrate([(p, labels)], h, 0.6)
        rankings = [
            views.top(p, h.classes),
            views.subset(p, h.classes, chosen),
            views.fold(p, h, ["s0", "s1", "s2"]),
            views.basic(p, h),
        ]
        return [
            *rankings,
            views.diverse(p, h),
            [[a] for a in views.hedge(p, h, 0.2)],
            [[Answer("", x) for x in calibrated]],
        ]

    one = everything(h, probabilities, chosen, labels)
    other = everything(g, shuffled, chosen[order], np.array([order.index(k) for k in labels]))
    for a, b in zip(one, other, strict=True):
        assert all(close(x, y) for x, y in zip(a, b, strict=True))


def test_hedge_is_right_as_often_as_asked():
    rng = np.random.default_rng(7)
    h = Hierarchy(ClassList(tuple(rng.permutation(named("fall11").ids)[:300].tolist())))

    def draw(size: int) -> tuple[np.ndarray, np.ndarray]:
        """Draw posteriors that confuse near classes, and labels from them."""
        towards = (
            rng.normal(size=(size, len(h.ids))) @ h.reach.toarray() * rng.uniform(0.2, 3, (size, 1))
        )
        probabilities = np.exp(towards - towards.max(axis=1, keepdims=True))
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        return probabilities, (probabilities.cumsum(axis=1) < rng.random((size, 1))).sum(axis=1)

    held_out, fresh, specificity = draw(8000), draw(4000), []
    for wanted in (0.7, 0.8, 0.9, 0.95):
        found = views.calibrate([held_out], h, wanted)
        answers = views.hedge(fresh[0], h, found.generality)
        nodes = np.array([h.node_of[a.id] for a in answers])
        right = h.covers(nodes, fresh[1]).mean()
        # Four standard deviations of a binomial: 4,000 fresh images, 8,000 for calibration.
        assert abs(right - wanted) < 4 * math.sqrt(wanted * (1 - wanted) * (1 / 4000 + 1 / 8000)), (
            wanted
        )
        assert abs(right - np.mean([a.probability for a in answers])) < 0.03
        specificity.append(h.specificity[nodes].mean())
    assert (
        specificity == sorted(specificity, reverse=True) and specificity[0] > specificity[-1] + 0.1
    )


CONIFERS = (
    "n11620673",
    "n11624531",
    "n11621281",
    "n11628456",
    "n11627908",
)  # the note's five best of 21,841
LANDSCAPE = (
    "n09468604",
    "n09332890",
    "n04366367",
    "n09193705",
    "n09428293",
)  # of 1,000: valley, lakeside, bridge, alp, seashore


@pytest.fixture(scope="module")
def rainier(fall11) -> np.ndarray:
    logits = np.zeros(21841)
    logits[[fall11.classes.label_of[i] for i in CONIFERS + LANDSCAPE]] = [
        11.6,
        11.5,
        11.4,
        11.2,
        11.1,
        11,
        10.8,
        10.6,
        10.4,
        9.5,
    ]
    return (np.exp(logits) / np.exp(logits).sum())[None]


def test_rainier(fall11, rainier):
    names = lambda answers: [fall11.taxonomy.name(a.id) for a in answers]
    assert [a.id for a in views.top(rainier, fall11.classes)[0]] == list(CONIFERS)
    thousand = select("ilsvrc2012", fall11)
    assert [a.id for a in views.subset(rainier, fall11.classes, thousand)[0]] == list(LANDSCAPE)
    assert [a.id for a in views.fold(rainier, fall11, named("ilsvrc2012").ids)[0]] == list(
        LANDSCAPE
    )
    assert names(views.diverse(rainier, fall11)[0]) == [
        "conifer",
        "valley",
        "lakeside",
        "suspension bridge",
        "alp",
    ]
    assert names(views.diverse(rainier, fall11, k=2)[0]) == ["conifer", "geological formation"]
    assert names(views.basic(rainier, fall11)[0]) == [
        "fir",
        "spruce",
        "tree",
        "hemlock (conifer)",
        "valley",
    ]
    assert views.num_branches(CONIFERS, fall11) == 1 and views.num_branches(LANDSCAPE, fall11) == 2

    # Held-out images like this one: of 100, 65 conifers, 20 landscapes, 15 others.
    labels = [*CONIFERS] * 13 + ["n09468604"] * 20 + ["n02084071"] * 15
    held_out = (
        np.repeat(rainier, 100, axis=0),
        np.array([fall11.classes.label_of[i] for i in labels]),
    )
    assert names(
        views.hedge(rainier, fall11, views.calibrate([held_out], fall11, 0.6).generality)
    ) == ["conifer"]
    assert names(
        views.hedge(rainier, fall11, views.calibrate([held_out], fall11, 0.8).generality)
    ) == ["object"]


@pytest.mark.parametrize("background", ["even", "uneven"])
def test_diverse_answers_what_a_person_sees_on_rainier(fall11, background):
    wanted = [
        {"conifer"},
        {"valley"},
        {"lakeside", "shore"},  # the shore of the lake and the seashore may become one answer
        {"suspension bridge", "bridge"},
        {"alp", "mountain"},
    ]
    planted = np.zeros(21841)
    planted[[fall11.classes.label_of[i] for i in CONIFERS]] = 0.43 / 5
    planted[[fall11.classes.label_of[i] for i in LANDSCAPE]] = 0.05, 0.04, 0.03, 0.03, 0.02
    for seed in range(3 if background == "uneven" else 1):
        rest = np.ones(21841)
        if background == "uneven":
            rest = np.random.default_rng(seed).gamma(0.3, size=21841)
        row = planted + rest / rest.sum() * (1 - planted.sum())
        answers = views.diverse(row[None], fall11)[0]
        names = [fall11.taxonomy.name(a.id) for a in answers]
        assert len(names) == 5 and all(any(n in w for n in names) for w in wanted), names
    assert views.diverse(np.full((1, 21841), 1 / 21841), fall11) == [[]]


def test_outline_of_rainier(fall11, rainier):
    text = outline([*views.diverse(rainier, fall11)[0], *views.top(rainier, fall11.classes, 2)[0]])
    assert text.splitlines() == [
        "entity",
        "└─ object",
        "   ├─ whole",
        "   │  ├─ conifer             66.8%",
        "   │  │  ├─ fir              16.7%",
        "   │  │  └─ spruce           15.1%",
        "   │  └─ suspension bridge    6.1%",
        "   └─ geological formation",
        "      ├─ valley               9.2%",
        "      ├─ lakeside             7.5%",
        "      └─ alp                  5.0%",
    ]


def test_outline_shows_each_answer_once():
    #     a
    #    b  c      of b and c, c is the more specific (b has e too), and so the way up from d
    #   e d d
    taxonomy = Taxonomy(
        (
            Synset("a"),
            Synset("b", ("a",)),
            Synset("c", ("a",)),
            Synset("d", ("b", "c")),
            Synset("e", ("b",)),
        )
    )
    assert outline([Answer("d", 0.5)], taxonomy) == "a\n└─ d   50.0%"
    two = [Answer("b", 0.25), Answer("d", 0.5)]
    assert outline(two, taxonomy) == "a\n├─ d   50.0%\n└─ b   25.0%"
    assert (
        outline([Answer("e", 0.25), Answer("d", 0.5), Answer("b", 0.3)], taxonomy)
        == "a\n├─ d      50.0%\n└─ b      30.0%\n   └─ e   25.0%"
    )
    assert (
        outline([Answer("a", 1.0), Answer("mine", 0.5)], taxonomy)
        == "a        100.0%\n└─ mine   50.0%"
    )
    assert outline([], taxonomy) == "a"


def test_refuses_bad_input():
    h = Hierarchy(ClassList(("n02084071", "n02123045")))
    good = np.array([[0.5, 0.5]])
    with pytest.raises(
        ValueError, match=r"probabilities have shape \[1, 3\], expected \[images, 2 classes\]"
    ):
        views.top(np.ones((1, 3)) / 3, h.classes)
    with pytest.raises(
        ValueError,
        match=r"are between -1 and 2 and add up to 1\.\.1 for an image, expected a softmax",
    ):
        views.diverse(np.array([[-1.0, 2.0]]), h)
    with pytest.raises(ValueError, match=r"add up to nan\.\.nan"):
        views.hedge(np.array([[np.nan, 1.0]]), h, 0.0)
    with pytest.raises(ValueError, match=r"k is 0\. Use at least 1 answer"):
        views.basic(good, h, 0)
    with pytest.raises(ValueError, match="0 of 2 classes are chosen, expected at least 1 of 2"):
        views.subset(good, h.classes, np.zeros(2, bool))
    with pytest.raises(
        ValueError,
        match=r"k and floor are 5 and 0.0. Use at least 1 for k, and above 0 up to 1",
    ):
        views.diverse(good, h, floor=0.0)
    with pytest.raises(ValueError, match=r"generality is -1\.0\. Use at least 0"):
        views.hedge(good, h, -1.0)
    with pytest.raises(ValueError, match=r"accuracy is 90\.0\. Use a fraction"):
        views.calibrate([], h, 90.0)
    with pytest.raises(ValueError, match="there are no held-out images"):
        views.calibrate([], h, 0.9)
    with pytest.raises(
        ValueError,
        match=r"1 images have labels of shape \[1\] up to 2. Use one label for each image",
    ):
        views.calibrate([(good, np.array([2]))], h, 0.9)
    with pytest.raises(
        ValueError,
        match=r"accuracy 0\.9 cannot be reached: .* 1 of 2 held-out images. Use at most 0.5",
    ):
        views.calibrate([(np.array([[1.0, 0.0]] * 2), np.array([0, 1]))], h, 0.9)
