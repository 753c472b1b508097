"""`i21k evaluate` on images of which the model knows only some classes."""

import json

import jax
import pytest
from PIL import Image

from i21k import cli
from i21k.data.format import readers, shards
from i21k.data.format.records import decode_example, encode_example
from i21k.data.format.splits import open_split
from i21k.data.format.tfds import write_metadata
from i21k.evaluation import text
from i21k.evaluation.evaluate import evaluate_checkpoint, whole_batches
from i21k.evaluation.ranks import RANKS
from i21k.evaluation.real import read_real
from i21k.images.decode import crop_into
from i21k.labels import ClassList
from i21k.train import loop
from i21k.train.report import read_metrics
from i21k.wordnet.class_lists import named
from tests.helpers.datasets import CLASSES, NUM_VAL, write_dataset


def test_recalibration_uses_whole_batches():
    assert whole_batches(500, 256, 4) == 512
    assert whole_batches(500, 10, 4) == 504
    assert whole_batches(0, 256, 4) == 0


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
    assert table[0][:4] == ["class", "name", "images", "top1"] and [
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
    """The same images, labelled by a list in another order in which one of four classes has
    another name."""
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
        and got["n04399382"]["images"] == rows[CLASSES.ids[2]]["images"] == 5
    )
    summary = moved.summary()
    assert (
        summary["lacking"] == {"classes": ["n04399382"], "images": 5}
        and summary["classes"]["ranked"] == 3
    )
    assert (
        "the model lacks 1 class: n04399382 (teddy); "
        "their 5 images count as wrong over 4 and over 3" in text.describe(summary)
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
        match=r"record 0 of split 'val' of .* has the file name 'val/0.JPEG'; expected ILSVRC2012_",
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
    assert float(row["second_top20"]) == pytest.approx(10 / 13)  # three images of teddy
    foreign = write_dataset(
        tmp_path / "foreign", {"val": 4}, classes=ClassList(("a", "b", "c", "d"))
    )
    recipe.evaluation.sets = f"foreign={foreign}:val"
    with pytest.raises(
        ValueError,
        match=r"evaluation 'foreign' has none of the model's 4 classes: n01440764, .*; "
        r"its own are 4 classes: a, b, c, ...\. Choose",
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
        match=r"cannot be read as ReaL labels .*\. Give real.json, a list of numbers",
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
    """Averaging over image and mirror image makes no difference between the two; without it there
    is one."""
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
