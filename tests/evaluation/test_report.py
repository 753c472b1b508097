"""Pages about runs: complete, harmless, small, and usable in a browser."""

import json
import re

import numpy as np
import pytest

from i21k import cli
from i21k.errors import UserError
from i21k.evaluation.predictions import read_predictions
from i21k.evaluation.report import compare, page, tree
from i21k.evaluation.stored import read_stored
from i21k.labels import ClassList
from i21k.wordnet.class_lists import named
from tests.helpers.datasets import NUM_TRAIN, NUM_VAL, write_dataset
from tests.helpers.evaluations import made_up
from tests.helpers.pages import opened_page

HOSTILE = "</script><img src=x onerror=alert(1)>\x1b\u202e猫"
ANIMALS = ClassList(("n01440764", "n01443537", "n02085620", "n02123045", "n02834778"))


def run(*arguments) -> int:
    return cli.main([str(argument) for argument in arguments])


def test_the_command_evaluates_once_and_renders_from_files(
    trained, dataset, tmp_path, capsys, monkeypatch
):
    out = tmp_path / "report.html"
    assert run("report", "--checkpoint", trained, "--data", dataset, "--out", out) == 0
    first = out.read_text()
    assert first.count("<img ") == NUM_VAL  # each is a hit or a mistake
    for section in ("curves", "evaluation", "reliability", "sizes", "confusions", "map", "origin"):
        assert f'<a href="#{section}">' in first or section == "origin", section
    assert f"{NUM_VAL} images" in first and f"{NUM_TRAIN:,} images" in first
    kept = trained / "evaluations" / "val"
    stored = read_stored(kept)
    assert stored.predictions.right.mean() == pytest.approx(stored.summary["table"]["all"]["top1"])
    assert sum(stored.summary["class_sizes"].values()) == NUM_TRAIN

    def evaluate(*_, **__):
        raise AssertionError("evaluated again")

    monkeypatch.setattr("i21k.evaluation.stored.evaluate_checkpoint", evaluate)
    capsys.readouterr()
    assert run("report", "--checkpoint", trained, "--data", dataset, "--out", out) == 0
    assert "has the evaluation of this checkpoint; it is used" in capsys.readouterr().err
    monkeypatch.setattr("i21k.trained.load", evaluate)  # no model, and the images by their place
    assert run("report", trained, "--out", out) == 0
    assert out.read_text() == first
    assert run("report", trained, trained, "--out", out) == 0
    assert "The recipes are the same." in out.read_text()


def test_what_users_get_wrong(trained, dataset, tmp_path, capsys):
    assert run("report", "--out", tmp_path / "r.html") == 2
    assert "no run is given" in capsys.readouterr().err
    assert run("report", tmp_path / "gone", "--out", tmp_path / "r.html") == 2
    assert "there is no" in capsys.readouterr().err
    assert run("report", trained, "--out", tmp_path / "gone" / "r.html") == 2
    assert "there is no directory" in capsys.readouterr().err
    assert run("report", trained, "--split", "other", "--out", tmp_path / "r.html") == 0
    assert "There is no evaluation yet." in (tmp_path / "r.html").read_text()
    (tmp_path / "evaluation.json").write_text('{"format": "other"}')
    with pytest.raises(UserError, match="has format 'other'"):
        read_stored(tmp_path)


@pytest.mark.parametrize("ending", ["csv", "parquet", "jsonl"])
def test_evaluate_writes_the_answers_to_each_image(trained, dataset, tmp_path, ending, capsys):
    path = tmp_path / f"p.{ending}"
    arguments = ("evaluate", "--checkpoint", trained, "--data", dataset, "--predictions", path)
    assert run(*arguments, "--json") == 0
    out, err = capsys.readouterr()
    assert "there is no hedged answer: view 'hedge' is not calibrated" in err
    found, top1 = read_predictions(path), json.loads(out)["table"]["all"]["top1"]
    assert len(found.files) == NUM_VAL and found.right.mean() == pytest.approx(top1)
    assert found.files[0].startswith("val/") and found.records.tolist() == list(range(NUM_VAL))
    assert (found.answers[:, 0] == found.truths).tolist() == found.right.tolist()
    assert (np.diff(found.probabilities[:, :4]) <= 0).all()
    assert found.probabilities.sum(axis=1) == pytest.approx(1)  # all four classes


def test_names_of_any_kind_are_text(tmp_path):
    classes = ClassList.sorted(["Käfer", "🦋", HOSTILE.replace("\n", ""), "قط"])
    workdir = tmp_path / "run <b>猫"
    workdir.mkdir()
    stored = made_up(classes)
    stored.predictions.files[0] = HOSTILE
    (workdir / "metrics.csv").write_text("epoch,step,val_top1\n1,10,0.5\n")
    recipe = {"data": {"directory": HOSTILE}}
    (workdir / "config.json").write_text(json.dumps(recipe))
    text = page.run_page(workdir, stored)
    text.encode("utf-8")
    assert "<img src=x" not in text and "run <b>" not in text and "\u202e" not in text
    assert "hedged: " in text and "Käfer" in text and "🦋" in text and "run &lt;b&gt;猫" in text
    (tmp_path / "report.html").write_text(text, "utf-8")
    with opened_page(tmp_path / "report.html") as (shown, errors):
        assert shown.locator("#class-map .block").count() >= 4
        assert errors == []


@pytest.fixture(scope="module")
def everything():
    return made_up(named("fall11"), per_class=1)


def test_the_tree_counts_each_image_once(everything):
    stored = everything
    columns = tree.tree_of(stored.predictions)
    assert sum(columns["images"]) == len(stored.predictions.files) == 21_841
    assert sum(columns["top1"]) == stored.predictions.right.sum()
    parents = columns["parents"]
    assert parents[0] == -1 and all(0 <= p < n for n, p in enumerate(parents) if n)
    num_children = np.bincount(parents[1:], minlength=len(parents))
    is_class = np.array(columns["images"]) > 0
    assert (is_class | (num_children > 1)).all()  # synsets with a single child are skipped


def test_relatives_are_neighbours():
    ids = ["n02834778", "n01443537", "n02123045", "n01440764", "zzz"]  # bicycle, fish, cat, fish
    order = tree.order_of(ids)
    assert abs(order.index("n01443537") - order.index("n01440764")) == 1 and order[-1] == "zzz"


def test_a_page_of_all_classes_is_small_and_usable(everything, tmp_path):
    text = page.run_page(tmp_path, everything)
    assert len(text.encode()) < 10e6
    path = tmp_path / "report.html"
    path.write_text(text, "utf-8")
    with opened_page(path, viewport={"width": 375, "height": 800}) as (shown, errors):
        width = shown.evaluate("document.documentElement.scrollWidth")
        assert width <= 375
        assert shown.locator("#class-map .block").count() < 1000
        shown.fill("#class-map input", "zebra")
        shown.click("#class-map .found button >> nth=0")
        path_text = shown.inner_text("#class-map .path")
        assert path_text.startswith("entity") and "equine" in path_text
        shown.click("#class-map .path button >> nth=0")
        assert shown.inner_text("#class-map .tip").startswith("entity")
        shown.locator("#class-map .block").nth(1).focus()
        shown.keyboard.press("ArrowDown")
        below = shown.inner_text("#class-map .tip")
        shown.keyboard.press("ArrowRight")
        assert shown.inner_text("#class-map .tip") != below
        shown.keyboard.press("Enter")
        assert not shown.inner_text("#class-map .tip").startswith("entity:")
        assert errors == []


def test_curves_zoom(trained, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(page.run_page(trained, None), "utf-8")
    with opened_page(path) as (shown, errors):
        chart = shown.locator("#charts .chart svg").first
        before = chart.inner_html()
        box = chart.bounding_box()
        shown.mouse.move(box["x"] + 150, box["y"] + 60)
        shown.mouse.down()
        shown.mouse.move(box["x"] + 300, box["y"] + 60)
        shown.mouse.up()
        zoomed = chart.inner_html()
        chart.dblclick()
        assert zoomed != before and _ticks(chart.inner_html()) == _ticks(before)
        chart.press("+")
        assert _ticks(chart.inner_html()) != _ticks(before)
        shown.click("text=log scale of losses")
        assert errors == []


def _ticks(svg: str) -> list[str]:
    return re.findall(r'text-anchor="middle">([^<]*)<', svg)


def test_runs_are_compared_image_by_image(tmp_path):
    first, second = made_up(ANIMALS, 40), made_up(ANIMALS, 40)
    flipped = second.predictions.ranks.copy()
    flipped[:10] = np.where(flipped[:10] == 1, 2, 1)
    second = second._replace(predictions=second.predictions._replace(ranks=flipped))
    pair = compare.paired(first, second)
    assert pair is not None and (pair.first != pair.second).sum() == 10
    for name, rate in (("a", 0.1), ("b", 0.2)):
        (tmp_path / name).mkdir()
        recipe = {"optimizer": {"learning_rate": rate}}
        (tmp_path / name / "config.json").write_text(json.dumps(recipe))
    text = compare.compare_page([tmp_path / "a", tmp_path / "b"], [first, second])
    assert "<code>optimizer.learning_rate</code>" in text and "0.2" in text
    gained, lost = int((pair.second & ~pair.first).sum()), int((pair.first & ~pair.second).sum())
    assert f"b alone is right for {gained} of them, and a alone for {lost}" in text
    other = second._replace(summary=second.summary | {"fingerprint": "g"})
    assert compare.paired(first, other) is None
    text = compare.compare_page([tmp_path / "a", tmp_path / "b"], [first, other])
    assert "evaluated on different images" in text
    assert compare.short_names([tmp_path / "a" / "w", tmp_path / "b" / "w"]) == ["a/w", "b/w"]


def test_a_model_in_one_file_has_a_page(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"a model")
    text = page.run_page(path, made_up(ANIMALS))
    assert "was not trained here" in text and "Report on a model" in text


def test_damaged_images_and_other_data_are_no_error(trained, dataset, tmp_path, capsys):
    other = write_dataset(tmp_path / "other", {"val": 5})
    path = tmp_path / "r.html"
    assert run("report", "--checkpoint", trained, "--data", dataset, "--out", path) == 0
    stored = read_stored(trained / "evaluations" / "val")
    text = page.run_page(trained, stored, other)
    assert "The images are not there." in text and "<img" not in text
