"""Scores against planted probabilities and definitions by brute force; `i21k evaluate` on pictures whose classes the model half knows."""

import functools
import json
import math

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from i21k import cli
from i21k.data.format import readers, shards
from i21k.data.format.records import decode_example, encode_example
from i21k.data.format.splits import open_split
from i21k.data.format.tfds import write_metadata
from i21k.evaluation import text
from i21k.evaluation.evaluate import evaluate_checkpoint, whole_batches
from i21k.evaluation.real import read_real
from i21k.evaluation.scores import RANKS, Scores
from i21k.images.decode import crop_into
from i21k.labels import ClassList
from i21k.train import loop
from i21k.train.report import read_metrics
from i21k.wordnet.class_lists import named
from i21k.wordnet.hierarchy import Hierarchy
from i21k.wordnet.taxonomy import wordnet
from tests.helpers.dags import is_above
from tests.helpers.datasets import CLASSES, NUM_VAL, write_dataset

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


# ------------------------------------------------------------------------------------------------------ oracles over 21,841


@functools.cache
def fall11() -> ClassList:
    return named("fall11")


def oracle(answer_for) -> dict:
    """Score a model of fall11 that puts 0.9 on one class for a picture of each of ILSVRC's 1,000."""
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
    assert summary["lacking"] == {"classes": ["n04399382"], "pictures": 1}
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
    """One that names a descendant wherever there is one: right for the 662 classes without, of which teddy is one of 338 exceptions."""
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


# ------------------------------------------------------------------------------------------------------------ definitions


def test_what_each_column_says():
    """Of a model of six classes two truths: corgi, with its descendants better, and cat, which only folding finds."""
    scores = Scores(SMALL, ClassList((CORGI, CAT)), over=ClassList((CAT, CORGI)))
    scores.add(
        logs([[0.4, 0.05, 0.2, 0.05, 0.2, 0.1], [0.1, 0.26, 0.36, 0.05, 0.03, 0.2]]),
        np.array([0, 1]),
    )
    summary = scores.summary()
    table = {name: column["top1"] for name, column in summary["table"].items()}
    # corgi: Cardigan leads; of cat and corgi corgi does; corgi folds to 0.8; Cardigan is a corgi. cat: corgi leads, folded 0.49 to 0.46.
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


def test_a_subset_with_classes_below_each_other_is_not_folded():
    scores = Scores(SMALL, SMALL, over=ClassList((CAT, DOG, CORGI)))
    assert "folded" not in scores.summary()["table"]
    assert (
        scores.summary()["omitted"]["folded"]
        == "1 class: n02084071 (dog) has others of the subset below, and would hold theirs"
    )


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
        {"class": "mug", "name": "mug", "answer": "cup", "answer_name": "cup", "pictures": 1}
    ]


def test_real_labels_pass_over_pictures_without_any():
    scores = Scores(SMALL, ClassList((CAT, PEMBROKE)))
    row = [0.5, 0.1, 0.1, 0.1, 0.1, 0.1]
    scores.add(logs([row, row, row]), np.array([0, 1, 1]), real=[[CARDIGAN, CAT], [], [PEMBROKE]])
    summary = scores.summary()
    assert (
        summary["num_real"] == 2 and summary["real"]["all"]["top1"] == 0.5 and summary["count"] == 3
    )


def test_calibration_finds_what_was_planted():
    """Answers given with 80 % that are right 80 % of the time, and with 60 % that are right 20 % of the time."""
    scores = Scores(SMALL, SMALL)
    sure, unsure = [0.8, 0.2, 0, 0, 0, 0], [0.6, 0.4, 0, 0, 0, 0]
    scores.add(logs([sure] * 10 + [unsure] * 10), np.array([0] * 8 + [1] * 2 + [0] * 2 + [1] * 8))
    low, high = scores.reliability()
    assert (low["pictures"], low["accuracy"], high["pictures"], high["accuracy"]) == (
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
    heights = scores._lca_heights(scores.hierarchy, *_labels(scores, distances)).sum()
    assert summary["hierarchy"]["lca_height"]["top1"] == pytest.approx(heights / 12)
    rows = scores.per_class()
    assert sum(row["pictures"] * row["top1"] for row in rows) == pytest.approx(
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
    expected = scores._lca_heights(scores.hierarchy, *_labels(scores, [(SMALL.ids[0], PEMBROKE)]))
    assert scores.summary()["hierarchy"]["lca_height"]["top1"] == expected[0]


def test_recalibration_uses_whole_batches():
    assert whole_batches(500, 256, 4) == 512
    assert whole_batches(500, 10, 4) == 504
    assert whole_batches(0, 256, 4) == 0


def test_heights_are_of_the_best_answers_of_many():
    rng = np.random.default_rng(3)
    model = ClassList(tuple(sorted(rng.choice(fall11().ids, 400, replace=False).tolist())))
    values, labels = random_logs(rng, 5, 400), rng.integers(0, 400, 5)
    scores, hierarchy = Scores(model, model), Hierarchy(model)
    scores.add(values, labels)
    for k in RANKS:
        best = np.argsort(-values, axis=1)[:, :k]
        truth = np.repeat(labels[:, None], k, axis=1)
        whole = scores._lca_heights(hierarchy, best.ravel(), truth.ravel()).reshape(5, k)
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
            "pictures": 4,
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
    with pytest.raises(
        ValueError, match=r"have shape \[1, 5\]; expected \[1 pictures, 6 classes\]"
    ):
        scores.add(logs([[0.2] * 5]), np.array([0]))
    with pytest.raises(ValueError, match=r"labels lie in 6..6; expected 0..5"):
        scores.add(logs([[1 / 6] * 6]), np.array([6]))
    for wrong in ([[np.nan] * 6], [[3.0] * 6]):
        with pytest.raises(ValueError, match="are not numbers, or above 0; expected a log-softmax"):
            scores.add(np.array(wrong, np.float32), np.array([0]))
    with pytest.raises(ValueError, match=r"sizes have shape \[5\]; expected \[6\]"):
        scores.summary(np.arange(5))
    with pytest.raises(
        ValueError,
        match=r"has none of the data's 2 classes: n02121620 \(cat\), n02123159 .*; its own are 1 class",
    ):
        Scores(ClassList((DOG,)), ClassList((CAT, TIGER_CAT)))


# ------------------------------------------------------------------------------------------------------ with pictures


@pytest.fixture(scope="module")
def trained(few_blocks, dataset, tmp_path_factory):
    from tests.conftest import recipe

    config = recipe.__wrapped__(dataset)
    config.epochs = 1
    return loop.run(config, tmp_path_factory.mktemp("runs") / "w")


def run(*arguments) -> int:
    return cli.main([str(argument) for argument in arguments])


def test_the_command_writes_all_it_is_asked_for(trained, dataset, tmp_path, capsys):
    files = ("--per-class", tmp_path / "classes.tsv", "--reliability", tmp_path / "r.png")
    arguments = ("evaluate", "--checkpoint", trained, "--data", dataset, "--sizes-of", "val")
    assert run(*arguments, *files, "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert (
        summary["count"] == NUM_VAL
        and summary["sizes_of"] == "val"
        and list(summary["table"]) == ["all", "tolerant"]
    )
    assert [part["classes"] for part in summary["by_size"].values()] == [2, 1, 1]
    table = [line.split("\t") for line in (tmp_path / "classes.tsv").read_text().splitlines()]
    assert table[0][:4] == ["class", "name", "pictures", "top1"] and [
        row[0] for row in table[1:]
    ] == list(CLASSES.ids)
    assert sum(int(row[2]) for row in table[1:]) == NUM_VAL
    with Image.open(tmp_path / "r.png") as plot:
        assert plot.size == (540, 660)
    assert run(*arguments, "--tta", "flip") == 0
    out = " ".join(capsys.readouterr().out.split())
    for words in (
        "on 21 images and their mirror images of split 'val'",
        "top-5 100.00% 100.00%",
        "head, 2 classes",
        "most mistaken: ",
    ):
        assert words in out
    assert run(*arguments, "--per-class", tmp_path / "gone" / "x.tsv") == 2
    assert "there is no directory" in capsys.readouterr().err


def test_data_of_other_classes_is_matched_by_id(trained, dataset, tmp_path, capsys):
    """The same pictures, labelled by a list in another order in which one of four classes has another name."""
    other = ClassList((CLASSES.ids[3], "n04399382", CLASSES.ids[1], CLASSES.ids[0]))
    old = open_split(dataset, "val")
    names = {CLASSES.ids[2]: "n04399382"}
    records = []
    for record in readers.all_records(old):
        jpeg, label = decode_example(record)
        label = other.label_of[names.get(CLASSES.ids[label], CLASSES.ids[label])]
        records.append(encode_example(jpeg, label, f"ILSVRC2012_val_{len(records) + 1:08d}.JPEG"))
    written = {
        "val": (shards.write_shard(tmp_path / shards.shard_name("tiny", "val", 0, 1), records),)
    }
    write_metadata(tmp_path, "tiny", other, written)

    same, moved = evaluate_checkpoint(trained, dataset), evaluate_checkpoint(trained, tmp_path)
    rows = {row["class"]: row for row in same.scores.per_class()}
    got = {row["class"]: row for row in moved.scores.per_class()}
    for class_id in (CLASSES.ids[0], CLASSES.ids[1], CLASSES.ids[3]):
        assert got[class_id] == rows[class_id]
    assert (
        got["n04399382"]["top20"] == 0
        and got["n04399382"]["pictures"] == rows[CLASSES.ids[2]]["pictures"] == 5
    )
    summary = moved.summary()
    assert (
        summary["lacking"] == {"classes": ["n04399382"], "pictures": 5}
        and summary["classes"]["ranked"] == 3
    )
    assert (
        "the model lacks 1 class: n04399382 (teddy); their 5 images count as wrong over 4 and over 3"
        in text.describe(summary)
    )

    ilsvrc = named("ilsvrc2012")
    truth = [[ilsvrc.label_of[other.ids[decode_example(record)[1]]]] for record in records]
    (tmp_path / "real.json").write_text(json.dumps([[], *truth[1:]]))
    real = evaluate_checkpoint(trained, tmp_path, real=tmp_path / "real.json").summary()
    counted = real["real"]["over"]["top1"] * 20
    assert real["num_real"] == 20 and counted == pytest.approx(round(counted))
    assert summary["table"]["over"]["top1"] * 21 - counted == pytest.approx(
        round(summary["table"]["over"]["top1"] * 21) - round(counted)
    )
    assert (
        run(
            "evaluate",
            "--checkpoint",
            trained,
            "--data",
            tmp_path,
            "--real",
            tmp_path / "real.json",
        )
        == 0
    )
    assert "by ReaL labels, 20 images that have any:" in capsys.readouterr().out
    with pytest.raises(
        ValueError,
        match=r"record 0 of split 'val' of .* has the file name 'val/0.JPEG'; expected ILSVRC2012_val_0",
    ):
        evaluate_checkpoint(trained, dataset, real=tmp_path / "real.json")


def test_a_run_evaluates_a_second_set_of_other_classes(recipe, tmp_path, capsys):
    """Its numbers are those of `i21k evaluate`; the checkpoint is the one of a run without."""
    two = ClassList((CLASSES.ids[2], "n04399382", CLASSES.ids[0], CLASSES.ids[1]))
    recipe.epochs = 1
    second = write_dataset(tmp_path / "second", {"val": 13}, classes=two)
    recipe.evaluation.sets = f"val=val, second={second}:val"
    workdir = loop.run(recipe, tmp_path / "w")
    assert "| second top1" in capsys.readouterr().out
    row, table = (
        read_metrics(workdir)[0],
        evaluate_checkpoint(workdir, tmp_path / "second").summary()["table"],
    )
    for prefix, column in (("second_", "all"), ("second_over_", "over")):
        assert [float(row[f"{prefix}top{k}"]) for k in RANKS] == pytest.approx(
            [table[column][f"top{k}"] for k in RANKS]
        )
    assert float(row["second_top20"]) == pytest.approx(10 / 13)  # three pictures of teddy
    foreign = write_dataset(
        tmp_path / "foreign", {"val": 4}, classes=ClassList(("a", "b", "c", "d"))
    )
    recipe.evaluation.sets = f"foreign={foreign}:val"
    with pytest.raises(
        ValueError,
        match=r"evaluation 'foreign' has none of the model's 4 classes: n01440764, .*; its own are 4 classes: a, b, c, ...\. Choose",
    ):
        loop.run(recipe, tmp_path / "x")
    recipe.evaluation.sets = f"second={tmp_path / 'gone'}:val"
    with pytest.raises(ValueError, match="gone does not exist; expected a packed dataset"):
        loop.run(recipe, tmp_path / "w")


@pytest.mark.parametrize("content", ["[[1000]]", "[[-1]]", "[3]", "{", '[["a"]]'])
def test_a_file_that_is_not_real_labels(content, tmp_path):
    (tmp_path / "real.json").write_text(content)
    with pytest.raises(
        ValueError,
        match=r"cannot be read as ReaL labels .*; expected real.json, a list of numbers from 0 to 999",
    ):
        read_real(tmp_path / "real.json")


@pytest.fixture(scope="module")
def reference(trained, dataset):
    return evaluate_checkpoint(trained, dataset)


@pytest.mark.parametrize(("batch_size", "num_devices"), [(4, 4), (256, 4), (5, 1), (8, 2)])
def test_batch_size_and_devices_change_nothing(
    trained, dataset, reference, monkeypatch, batch_size, num_devices
):
    devices = jax.local_devices()[:num_devices]
    monkeypatch.setattr(jax, "local_devices", lambda: devices)
    a, b = (
        reference.summary(),
        evaluate_checkpoint(trained, dataset, batch_size=batch_size).summary(),
    )
    assert (
        b["count"] == NUM_VAL
        and b["confusions"] == a["confusions"]
        and b["hierarchy"] == a["hierarchy"]
    )
    for column, means in a["table"].items():
        assert b["table"][column] == pytest.approx(means, rel=1e-4), column


def test_a_mirrored_dataset_has_the_same_answers_with_flip(trained, dataset, monkeypatch):
    """Averaging over picture and mirror image makes no difference between the two; without it there is one."""
    plain, flipped = (
        evaluate_checkpoint(trained, dataset, flip=flip).summary()["table"]["all"]["loss"]
        for flip in (False, True)
    )

    def crop_and_mirror(image, *args):
        crop_into(image, *args)
        image[:] = image[:, ::-1].copy()

    monkeypatch.setattr("i21k.images.decode.crop_into", crop_and_mirror)
    plain_of_mirrored, flipped_of_mirrored = (
        evaluate_checkpoint(trained, dataset, flip=flip).summary()["table"]["all"]["loss"]
        for flip in (False, True)
    )
    assert (
        flipped_of_mirrored == pytest.approx(flipped, rel=1e-5)
        and abs(plain - plain_of_mirrored) > 1e-3 * plain
    )
    assert (
        flipped < (plain + plain_of_mirrored) / 2
    )  # the logarithm of a mean is above the mean of logarithms
