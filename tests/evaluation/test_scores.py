"""Scores against planted probabilities, and against definitions by brute force."""

import functools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from i21k.errors import UserError
from i21k.evaluation.ranks import RANKS
from i21k.evaluation.scores import Scores
from i21k.labels import ClassList
from i21k.wordnet.class_lists import named
from i21k.wordnet.hierarchy import Hierarchy
from i21k.wordnet.taxonomy import wordnet
from tests.helpers.dags import is_above

DOG, CORGI, PEMBROKE, CARDIGAN, CAT, TIGER_CAT = (
    "n02084071",
    "n02112826",
    "n02113023",
    "n02113186",
    "n02121620",
    "n02123159",
)
SMALL = ClassList((CARDIGAN, TIGER_CAT, CORGI, DOG, PEMBROKE, CAT))


def logs(rows) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(np.array(rows, np.float32))


def random_logs(rng, size: int, num_classes: int) -> np.ndarray:
    logits = rng.normal(0, 3, (size, num_classes))
    return (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)


@functools.cache
def fall11() -> ClassList:
    return named("fall11")


def oracle(answer_for) -> dict:
    """Score a model of fall11 that puts 0.9 on one class for an image of each of ILSVRC's
    1,000."""
    model, data = fall11(), named("ilsvrc2012")
    scores = Scores(model, data, over=data)
    for first in range(0, 1000, 100):
        labels = np.arange(first, first + 100)
        probabilities = np.full((100, len(model)), 0.1 / (len(model) - 1), np.float32)
        for row, label in enumerate(labels.tolist()):
            if (answer := answer_for(data.ids[label])) is not None:
                probabilities[row, model.label_of[answer]] = 0.9
        scores.add(logs(probabilities), labels)
    return scores.summary()


def test_an_oracle_is_right_but_for_teddy():
    summary = oracle(lambda class_id: class_id if class_id in fall11().label_of else "n00004475")
    for column in ("all", "over", "folded", "tolerant"):
        assert summary["table"][column]["top1"] == 0.999, column
    assert summary["lacking"] == {"classes": ["n04399382"], "images": 1}
    assert summary["classes"] == {
        "model": 21841,
        "data": 1000,
        "seen": 1000,
        "over": 1000,
        "ranked": 999,
    }
    assert summary["hierarchy"]["right"] == 0.999 and summary["hierarchy"]["mistakes"] == 1
    assert summary["table"]["all"]["loss"] == pytest.approx(
        -math.log(0.9), rel=1e-5
    )  # of the 999 that can be answered
    assert summary["table"]["all"]["ece"] == pytest.approx(0.999 - 0.9, abs=1e-6)
    teddy = [(c["class"], c["name"], c["answer"]) for c in summary["confusions"]]
    assert teddy == [("n04399382", "teddy", "n00004475")]


def test_an_oracle_that_is_too_specific():
    """One that names a descendant wherever there is one: right for the 662 classes without, of
    which teddy is one of 338 exceptions."""
    hierarchy = Hierarchy(fall11())
    below = hierarchy.below(named("ilsvrc2012").ids)

    def descendant(class_id: str) -> str | None:
        row = named("ilsvrc2012").label_of[class_id]
        ids = [fall11().ids[k] for k in below.indices[below.indptr[row] : below.indptr[row + 1]]]
        return next((i for i in ids if i != class_id), ids[0] if ids else None)

    summary = oracle(descendant)
    assert summary["table"]["all"]["top1"] == 0.662
    assert summary["table"]["tolerant"]["top1"] == 0.999
    assert summary["table"]["folded"]["top1"] == 0.999
    assert summary["hierarchy"]["below"] == 0.337
    assert summary["by_size"] is None


def test_head_middle_and_tail_of_fall11():
    """A model that knows only the larger half of its classes."""
    model, order = fall11(), named("released2015")
    sizes = np.array([-order.label_of[i] for i in model.ids])
    scores = Scores(model, model)
    labels = np.arange(0, 21841, 97)
    probabilities = np.full((len(labels), 21841), 1e-6, np.float32)
    probabilities[
        np.arange(len(labels)), np.where(-sizes[labels] < 21841 / 2, labels, labels - 1)
    ] = 0.9
    scores.add(logs(probabilities), labels)
    parts = scores.summary(sizes)["by_size"]
    assert [parts[name]["classes"] for name in ("head", "middle", "tail")] == [7281, 7280, 7280]
    assert sum(part["count"] for part in parts.values()) == len(labels)
    assert (
        parts["head"]["top1"] == 1
        and 0 < parts["middle"]["top1"] < 1
        and parts["tail"]["top1"] == 0
    )


def test_what_each_column_says():
    """Of a model of six classes two truths: corgi, with its descendants better, and cat, which only
    folding finds."""
    scores = Scores(SMALL, ClassList((CORGI, CAT)), over=ClassList((CAT, CORGI)))
    scores.add(
        logs([[0.4, 0.05, 0.2, 0.05, 0.2, 0.1], [0.1, 0.26, 0.36, 0.05, 0.03, 0.2]]),
        np.array([0, 1]),
    )
    summary = scores.summary()
    table = {name: column["top1"] for name, column in summary["table"].items()}
    # corgi: Cardigan leads; of cat and corgi corgi does; corgi folds to 0.8; Cardigan is a corgi.
    # cat: corgi leads, folded 0.49 to 0.46.
    assert table == {"all": 0.0, "over": 0.5, "folded": 0.5, "tolerant": 0.5}
    assert summary["table"]["all"]["top5"] == 1 and summary["table"]["tolerant"]["top5"] == 1
    assert summary["table"]["over"]["loss"] == pytest.approx(
        -(math.log(0.2 / 0.3) + math.log(0.2 / 0.56)) / 2, rel=1e-6
    )
    assert summary["table"]["folded"]["loss"] == pytest.approx(
        -(math.log(0.8) + math.log(0.46)) / 2, rel=1e-6
    )
    assert summary["hierarchy"]["below"] == 0.5 and summary["hierarchy"]["elsewhere"] == 0.5
    assert [(c["class"], c["answer"]) for c in summary["confusions"]] == [
        (CORGI, CARDIGAN),
        (CAT, CORGI),
    ]


def test_a_model_that_cannot_tell_is_right_by_chance_alone():
    scores = Scores(SMALL, SMALL, over=ClassList((CAT, TIGER_CAT)))
    scores.add(logs([[1 / 6] * 6] * 6), np.arange(6))
    table = scores.summary()["table"]
    assert table["all"]["top1"] == pytest.approx(1 / 6) and table["all"]["top5"] == pytest.approx(
        5 / 6
    )
    assert table["over"]["top1"] == pytest.approx(1 / 6)  # one of two cats


def test_an_answer_above_the_truth_is_counted_apart():
    scores = Scores(SMALL, ClassList((PEMBROKE,)))
    scores.add(logs([[0, 0, 0, 0.6, 0.4, 0]]), np.array([0]))
    summary = scores.summary()
    assert summary["hierarchy"]["above"] == 1 and summary["table"]["tolerant"]["top1"] == 0
    assert summary["hierarchy"]["mistake_distance"] == 2  # Pembroke, corgi, dog


def test_a_class_of_probability_zero_is_never_among_the_best():
    scores = Scores(SMALL, SMALL)
    scores.add(logs([[0.5, 0.5, 0, 0, 0, 0]]), np.array([5]))
    summary = scores.summary()
    assert summary["table"]["all"]["top20"] == 0 and summary["table"]["all"]["loss"] is None


def test_a_class_without_a_column_is_found_by_what_is_below():
    """A model of two breeds knows a corgi when it is given one, though no column is called so."""
    scores = Scores(
        ClassList((CARDIGAN, PEMBROKE, CAT)), ClassList((CORGI,)), over=ClassList((CORGI, CAT))
    )
    scores.add(logs([[0.3, 0.3, 0.4]]), np.array([0]))
    table = scores.summary()["table"]
    assert (
        table["all"]["top20"] == table["over"]["top20"] == 0
        and table["folded"]["top1"] == 1
        and table["tolerant"]["top5"] == 1
    )
    assert table["tolerant"]["top1"] == 0 and table["all"]["loss"] is None


def test_folding_puts_each_class_under_one_class_of_the_subset():
    """A Cardigan counts for corgi, not for dog: corgi is the nearer of the two above it."""
    scores = Scores(SMALL, SMALL, over=ClassList((CAT, DOG, CORGI)))
    row = [0.3, 0.1, 0.2, 0.4, 0, 0]  # Cardigan, tiger cat, corgi, dog
    scores.add(logs([row] * 2), np.array([SMALL.label_of[CARDIGAN], SMALL.label_of[DOG]]))
    folded = scores.summary()["table"]["folded"]
    assert folded["loss"] == pytest.approx(-(math.log(0.5) + math.log(0.4)) / 2, rel=1e-6)
    assert folded["top1"] == 0.5


def test_a_model_of_leaf_classes_is_folded():
    leaves = ClassList((CARDIGAN, PEMBROKE, TIGER_CAT))
    scores = Scores(leaves, leaves, over=ClassList((CAT, DOG)))
    scores.add(logs([[0.3, 0.3, 0.4]] * 2), np.array([0, 2]))
    summary = scores.summary()
    assert "over" not in summary["table"]
    assert list(summary["omitted"]) == ["over"]
    assert summary["omitted"]["over"].startswith("the model has none of 2 classes: ")
    assert summary["table"]["folded"]["top1"] == 0.5
    assert summary["classes"]["ranked"] == 0
    with pytest.raises(
        UserError, match="none of the 1 classes to rank is one of the model's 3, or"
    ):
        Scores(leaves, leaves, over=ClassList(("n04399382",)))


def test_classes_of_your_own_do_without_wordnet():
    own = ClassList(("cup", "mug"))
    scores = Scores(own, own)
    scores.add(logs([[0.8, 0.2], [0.9, 0.1]]), np.array([0, 1]))
    summary = scores.summary()
    assert (
        summary["hierarchy"] is None
        and list(summary["table"]) == ["all"]
        and summary["table"]["all"]["top1"] == 0.5
    )
    assert summary["omitted"]["hierarchy"] == "WordNet lacks 2 classes: cup, mug"
    assert summary["confusions"] == [
        {"class": "mug", "name": "mug", "answer": "cup", "answer_name": "cup", "images": 1}
    ]


def test_real_labels_pass_over_images_without_any():
    scores = Scores(SMALL, ClassList((CAT, PEMBROKE)))
    row = [0.5, 0.1, 0.1, 0.1, 0.1, 0.1]
    scores.add(logs([row, row, row]), np.array([0, 1, 1]), real=[[CARDIGAN, CAT], [], [PEMBROKE]])
    summary = scores.summary()
    assert (
        summary["num_real"] == 2 and summary["real"]["all"]["top1"] == 0.5 and summary["count"] == 3
    )


def test_any_of_several_classes_is_right():
    values = logs([[0.5, 0.3, 0.1, 0.05, 0.03, 0.02]] * 3)
    scores = Scores(SMALL, SMALL)
    scores.add(values, np.array([1, 1, 2]), all_labels=[[1, 0], [1], [2, 3]])
    found = scores.summary()
    table = found["table"]["all"]
    assert (found["num_several"], table["top1"]) == (1 + 1, pytest.approx(1 / 3))
    assert table["loss"] == pytest.approx(-np.log([0.5, 0.3, 0.1]).mean(), rel=1e-6)
    assert found["hierarchy"]["mistakes"] == 2


def test_calibration_finds_what_was_planted():
    """Answers given with 80 % that are right 80 % of the time, and with 60 % that are right 20 % of
    the time."""
    scores = Scores(SMALL, SMALL)
    sure, unsure = [0.8, 0.2, 0, 0, 0, 0], [0.6, 0.4, 0, 0, 0, 0]
    scores.add(logs([sure] * 10 + [unsure] * 10), np.array([0] * 8 + [1] * 2 + [0] * 2 + [1] * 8))
    low, high = scores.reliability()
    assert (low["images"], low["accuracy"], high["images"], high["accuracy"]) == (
        10,
        0.2,
        10,
        0.8,
    )
    assert low["confidence"] == pytest.approx(0.6) and high["confidence"] == pytest.approx(0.8)
    assert scores.summary()["table"]["all"]["ece"] == pytest.approx(0.2, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_table_is_what_sorting_says(seed):
    """Against loops over all classes that know of WordNet only which synset is above which."""
    rng = np.random.default_rng(seed)
    model = ClassList(tuple(rng.permutation(SMALL.ids)[: rng.integers(2, 7)].tolist()))
    data = ClassList(tuple(rng.permutation([*SMALL.ids, "n02123045"]).tolist()))  # and tabby
    over = ClassList(tuple(i for i in (CAT, CORGI) if i in model.label_of) or model.ids[:1])
    values, labels = random_logs(rng, 12, len(model)), rng.integers(0, len(data), 12)
    scores = Scores(model, data, over)
    scores.add(values, labels)
    expected = {name: np.zeros(3) for name in ("all", "over", "folded", "tolerant")}
    distances, w = [], wordnet()
    for row, label in zip(np.exp(values.astype(float)), labels.tolist(), strict=True):
        truth = data.ids[label]
        p = dict(zip(model.ids, row.tolist(), strict=True))
        folded = {a: sum(p[b] for b in model.ids if is_above(w, a, b)) for a in over.ids}
        right = {
            "all": [truth],
            "over": [truth],
            "tolerant": [b for b in model.ids if is_above(w, truth, b)],
        }
        right["folded"] = [a for a in over.ids if is_above(w, a, truth)]
        for name, mass in {
            "all": p,
            "over": {i: p[i] for i in over.ids},
            "folded": folded,
            "tolerant": p,
        }.items():
            best = sorted(mass, key=mass.get, reverse=True)
            expected[name] += [any(i in right[name] for i in best[:k]) for k in RANKS]
        if (answer := max(p, key=p.get)) != truth:
            distances.append((answer, truth))
    summary = scores.summary()
    for name, hits in expected.items():
        assert [summary["table"][name][f"top{k}"] for k in RANKS] == pytest.approx(hits / 12), name
    assert summary["hierarchy"]["mistakes"] == len(distances)
    assert summary["hierarchy"]["right"] + summary["hierarchy"]["below"] == pytest.approx(
        summary["table"]["tolerant"]["top1"]
    )
    assert sum(
        summary["hierarchy"][where] for where in ("right", "below", "above", "elsewhere")
    ) == pytest.approx(1)
    all_classes = Hierarchy(ClassList.sorted([*model.ids, *data.ids]))
    answers, truths = (
        np.array([all_classes.classes.label_of[pair[k]] for pair in distances]) for k in (0, 1)
    )
    assert summary["hierarchy"]["mistake_distance"] == pytest.approx(
        all_classes.distances(answers, truths).mean()
    )
    heights = scores._distances.lca_heights(*_labels(scores, distances)).sum()
    assert summary["hierarchy"]["lca_height"]["top1"] == pytest.approx(heights / 12)
    rows = scores.per_class()
    assert sum(row["images"] * row["top1"] for row in rows) == pytest.approx(
        12 * summary["table"]["all"]["top1"]
    )
    assert summary["mean_of_classes"]["top1"] == pytest.approx(
        np.mean([row["top1"] for row in rows])
    )


def _labels(scores, pairs):
    """Labels in the hierarchy of the scores."""
    label_of = scores.hierarchy.classes.label_of
    return (np.array([label_of[pair[k]] for pair in pairs], int) for k in (0, 1))


def test_heights_do_not_depend_on_the_subset():
    """They are heights in all of WordNet: models with other class lists compare."""
    rng = np.random.default_rng(0)
    values, labels = random_logs(rng, 9, len(SMALL)), rng.integers(0, 6, 9)
    found = []
    for over in (None, ClassList((CAT, CORGI)), named("ilsvrc2012")):
        scores = Scores(SMALL, SMALL, over)
        scores.add(values, labels)
        hierarchy = scores.summary()["hierarchy"]
        found.append((hierarchy["mistake_lca_height"], hierarchy["lca_height"]))
    assert found[0] == found[1] == found[2]
    one = Scores(SMALL, ClassList((PEMBROKE,)))
    one.add(logs([[1, 0, 0, 0, 0, 0]]), np.array([0]))
    # corgi, above both, has nothing but its two breeds below it
    assert one.summary()["hierarchy"]["mistake_lca_height"] == 1


def test_equal_answers_are_ranked_in_list_order():
    """Heights of the best answer of a model that says the same of all: of the first class."""
    scores = Scores(SMALL, SMALL)
    scores.add(logs([[1 / 6] * 6]), np.array([4]))
    expected = scores._distances.lca_heights(*_labels(scores, [(SMALL.ids[0], PEMBROKE)]))
    assert scores.summary()["hierarchy"]["lca_height"]["top1"] == expected[0]


def test_heights_are_of_the_best_answers_of_many():
    rng = np.random.default_rng(3)
    model = ClassList(tuple(sorted(rng.choice(fall11().ids, 400, replace=False).tolist())))
    values, labels = random_logs(rng, 5, 400), rng.integers(0, 400, 5)
    scores = Scores(model, model)
    scores.add(values, labels)
    for k in RANKS:
        best = np.argsort(-values, axis=1)[:, :k]
        truth = np.repeat(labels[:, None], k, axis=1)
        whole = scores._distances.lca_heights(best.ravel(), truth.ravel()).reshape(5, k)
        expected = np.where(best == truth, 0, whole).mean()
        assert scores.summary()["hierarchy"]["lca_height"][f"top{k}"] == pytest.approx(expected)


def test_the_row_of_a_class_names_its_most_frequent_wrong_answer():
    scores = Scores(SMALL, SMALL)
    scores.add(
        np.log(np.eye(6, dtype=np.float32)[[5, 0, 4, 4]] * 0.9 + 0.01), np.array([5, 5, 5, 5])
    )
    (row,) = scores.per_class()
    assert row == {
        **{
            "class": CAT,
            "name": "cat",
            "images": 4,
            "top1": 0.25,
            "top5": row["top5"],
            "top20": 1.0,
        },
        **{"tolerant_top1": 0.25, "most_mistaken_for": PEMBROKE, "times": 2},
    }


def test_neither_order_nor_batches_change_a_bit():
    rng = np.random.default_rng(0)
    values, labels = random_logs(rng, 200, len(SMALL)), rng.integers(0, 3, 200)
    real = [[SMALL.ids[k] for k in np.flatnonzero(rng.random(6) < 0.3)] for _ in range(200)]
    results = []
    for size, order in (
        (200, np.arange(200)),
        (7, np.arange(200)),
        (1, rng.permutation(200)),
        (64, rng.permutation(200)),
    ):
        scores = Scores(SMALL, ClassList((CAT, PEMBROKE, TIGER_CAT)), over=ClassList((CAT, CORGI)))
        for first in range(0, 200, size):
            some = order[first : first + size]
            scores.add(values[some], labels[some], [real[k] for k in some])
        results.append((scores.summary(np.arange(6)), scores.per_class()))
    assert results[1:] == results[:1] * 3
    assert results[0][0]["count"] == 200 and results[0][0]["real"]["folded"]["loss"] > 0


def test_what_does_not_fit_is_refused():
    scores = Scores(SMALL, SMALL)
    with pytest.raises(ValueError, match=r"have shape \[1, 5\]; expected \[1 images, 6 classes\]"):
        scores.add(logs([[0.2] * 5]), np.array([0]))
    with pytest.raises(ValueError, match=r"labels are from 6 to 6; expected 0 to 5"):
        scores.add(logs([[1 / 6] * 6]), np.array([6]))
    for wrong in ([[np.nan] * 6], [[3.0] * 6]):
        with pytest.raises(ValueError, match="are not numbers, or above 0; expected a log-softmax"):
            scores.add(np.array(wrong, np.float32), np.array([0]))
    with pytest.raises(ValueError, match=r"sizes have shape \[5\]; expected \[6\]"):
        scores.summary(np.arange(5))
    with pytest.raises(
        ValueError,
        match=r"none of the data's 2 classes: n02121620 \(cat\), n02123159 .*; its own are 1 class",
    ):
        Scores(ClassList((DOG,)), ClassList((CAT, TIGER_CAT)))
