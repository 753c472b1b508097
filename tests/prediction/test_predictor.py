"""Predictions: as in an evaluation, in every view, and the error messages."""

import io
import json
import os
import shutil

import numpy as np
import optax
import pytest
from PIL import Image

from i21k import cli, log, table_files, trained
from i21k.checkpoints import Checkpoints
from i21k.data.dataset import open_dataset
from i21k.data.format import shards
from i21k.data.format.records import decode_example
from i21k.data.format.splits import open_split
from i21k.errors import UserError
from i21k.evaluation.evaluate import evaluate_checkpoint
from i21k.labels import ClassList
from i21k.look import colours
from i21k.models.inception_bn import InceptionBN
from i21k.models.inception_network import InceptionNetwork
from i21k.prediction import calibration, model_views, plots
from i21k.prediction.embed import embed
from i21k.prediction.held_out import held_out, open_held_out
from i21k.prediction.predicted_images import PredictedImage, predict_files, predict_split
from i21k.prediction.predictor import Predictor
from i21k.prediction.regions import NUM_PARTS, combined, parts
from i21k.train.state import init_state
from i21k.wordnet import views
from tests.helpers.datasets import CLASSES, NUM_VAL, make_image
from tests.helpers.models import save_model


def run(*arguments) -> int:
    return cli.main(["predict", *map(str, arguments)])


def test_files_are_seen_as_an_evaluation_sees_them(model, workdir, dataset, tmp_path):
    files, labels = [], []
    opened = open_split(dataset, "val")
    for path, count in zip(opened.shard_paths, opened.shard_counts, strict=True):
        for _, record in shards.read_records(path, tuple(range(count))):
            jpeg, label = decode_example(record)
            files.append(tmp_path / f"{len(files)}.jpg")
            files[-1].write_bytes(jpeg)
            labels.append(label)
    probabilities = model.probabilities(files)
    batches = held_out(model.trained, open_held_out(model.trained, dataset), 8)
    expected = [np.concatenate(x) for x in zip(*batches, strict=True)]
    np.testing.assert_allclose(probabilities, expected[0], rtol=1e-5)
    np.testing.assert_array_equal(labels, expected[1])
    assert (
        np.ptp(probabilities, axis=0).max() > 0.05
    )  # the images differ, so that a mistaken order would show
    right = np.mean(probabilities.argmax(axis=1) == labels)
    result = evaluate_checkpoint(workdir, dataset, batch_size=8)
    summary = result.summary()
    assert summary["count"] == len(files) == NUM_VAL and summary["table"]["all"][
        "top1"
    ] == pytest.approx(right)


def test_large_and_rotated_images_are_prepared_as_the_packer_does(model, tmp_path):
    upright = Image.fromarray(make_image(1, 1, 520, 640))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right to see it upright
    upright.save(tmp_path / "upright.png")
    upright.transpose(Image.Transpose.ROTATE_90).save(
        tmp_path / "turned.jpg", quality=95, exif=exif
    )
    with Image.open(tmp_path / "upright.png") as opened:
        assert opened.size == (640, 520)
    a, b = (
        model.trained.prepare(tmp_path / "upright.png").astype(int),
        model.trained.prepare(tmp_path / "turned.jpg").astype(int),
    )
    assert np.abs(a - b).mean() < 3 < np.abs(a - b[::-1, ::-1]).mean()
    assert (
        min(
            Image.open(
                io.BytesIO(trained.Preprocessing(32, 1.0).recoded(tmp_path / "turned.jpg"))
            ).size
        )
        == 256
    )


def test_batches_change_nothing_and_compile_once(workdir):
    model = Predictor(workdir)
    images = np.random.default_rng(0).integers(0, 255, (19, 32, 32, 3), np.uint8)
    together = model.trained.probabilities(images)
    one_by_one = np.concatenate([model.trained.probabilities(images[i : i + 1]) for i in range(19)])
    np.testing.assert_allclose(together, one_by_one, rtol=1e-6)
    np.testing.assert_allclose(
        Predictor(workdir, batch_size=3).trained.probabilities(images), together, rtol=1e-5
    )
    np.testing.assert_allclose(together.sum(axis=1), 1, rtol=1e-6)
    assert model.trained._answer()[0]._cache_size() == 1
    assert model.trained.probabilities(images[:0]).shape == (0, 4)


def test_every_view_through_the_command(workdir, model, dataset, folder, tmp_path, capsys):
    mine = tmp_path / "run"
    shutil.copytree(workdir, mine)
    assert (
        run("--checkpoint", mine, "--view", "hedge", "--accuracy", 0.8, "--calibrate", dataset) == 0
    )
    assert "21 images of split 'val'" in capsys.readouterr().err
    files = [folder / "a.png", folder / "b.jpg", folder / "below" / "c.webp"]
    hierarchy = model.hierarchy
    saved = json.loads((mine / calibration.CALIBRATION).read_text())["accuracies"]["0.8"]
    generality = saved["generality"]
    raw = model.probabilities(files)
    probabilities = raw.astype(float) ** (1 / saved["temperature"])
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    shark = np.array([False, False, True, True])
    expected = {
        ("--view", "top", "-k", 2): views.top(probabilities, CLASSES, 2),
        ("--view", "subset", "--among", "under(shark)"): views.subset(
            probabilities, CLASSES, shark
        ),
        ("--view", "fold", "--among", "n01482330"): views.fold(
            probabilities, hierarchy, ["n01482330"]
        ),  # shark, none of the model's classes
        ("--view", "fold"): views.fold(probabilities, hierarchy, CLASSES.ids),
        ("--view", "diverse"): views.diverse(probabilities, hierarchy),
        ("--view", "hedge", "--accuracy", 0.8): [
            [answer] for answer in views.hedge(raw, hierarchy, generality)
        ],
        ("--view", "basic"): views.basic(probabilities, hierarchy),
    }
    assert {options[1] for options in expected} == set(model_views.VIEWS)
    for options, answers in expected.items():
        assert run("--checkpoint", mine, folder, "--json", *options) == 0
        printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [entry["file"] for entry in printed] == [str(file) for file in files]
        for entry, of_image in zip(printed, answers, strict=True):
            assert [a["id"] for a in entry["answers"]] == [a.id for a in of_image]
            np.testing.assert_allclose(
                [a["probability"] for a in entry["answers"]],
                [a.probability for a in of_image],
                rtol=1e-4,
            )
    assert printed[0]["answers"][0]["name"] == "shark"


def test_text_and_image(workdir, folder, tmp_path, capsys):
    (folder / "notes.png").write_text("no image")
    (folder / ".hidden").write_text("not looked at")
    png = tmp_path / "seen.png"
    assert (
        run(
            "--checkpoint",
            workdir,
            folder,
            tmp_path / "absent.jpg",
            "--png",
            png,
            "--batch-size",
            2,
        )
        == 1
    )
    out, err = capsys.readouterr()
    assert (
        out.count("  entity\n")
        == out.count(".png\n") + out.count(".jpg\n") + out.count(".webp\n")
        == 3
    )
    assert "└─ " in out and "goldfish" in out and "%" in out
    assert f"error: {folder / 'notes.png'}: not an image; expected a whole JPEG, PNG" in err
    assert (
        f"error: {tmp_path / 'absent.jpg'}: No such file or directory" in err
        and ".hidden" not in err
    )
    with Image.open(png) as drawn:
        pixels = np.asarray(drawn.convert("RGB")).astype(int)
    assert drawn.width > 2 * 224  # three images are two columns
    accent = [int(colours.ACCENT[k : k + 2], 16) for k in (1, 3, 5)]
    assert (np.abs(pixels - accent).sum(axis=2) == 0).sum() > 1_000  # the bars
    with pytest.raises(ValueError, match="there are 0 images to draw; expected 1 to 100"):
        plots.draw([PredictedImage(png, [], "fault")], png)


def test_classes_that_are_no_synsets(few_blocks, folder, tmp_path, capsys):
    mine = save_model(tmp_path / "own", classes=ClassList(("apples", "pears", "quinces")))
    assert run("--checkpoint", mine, folder / "a.png") == 0
    out = capsys.readouterr().out
    assert "entity" not in out and all(
        f"  {name}" in out for name in ("apples", "pears ", "quinces")
    )
    assert run("--checkpoint", mine, folder / "a.png", "--view", "diverse") == 2
    assert "error: view 'diverse' needs WordNet" in capsys.readouterr().err
    for view in set(model_views.VIEWS) - {"top"}:
        with pytest.raises(
            ValueError,
            match=rf"view '{view}' needs WordNet, but 3 of 3 classes are not .*'apples'.*; the "
            rf"view top takes any",
        ):
            Predictor(mine).view(view)


def test_a_sigmoid_model_has_answers_but_no_distribution(few_blocks, folder, tmp_path, capsys):
    workdir = save_model(tmp_path / "w", probability="sigmoid")
    predictor = Predictor(workdir)
    found = predictor.probabilities(folder / "a.png")
    assert not 0.98 < found.sum() < 1.02  # otherwise this shows nothing
    (answers,) = [predictor.view("top", k=4)(found[None])[0]]
    assert [answer.probability for answer in answers] == sorted(found.tolist(), reverse=True)
    for view in ("subset", "fold", "hedge", "diverse", "basic"):
        with pytest.raises(UserError, match=f"view '{view}' needs probabilities that add up to 1"):
            predictor.view(view, **({"among": "leaf"} if view == "subset" else {}))
    assert run("--checkpoint", workdir, folder / "a.png") == 0


def test_images_of_a_split_with_the_truth(workdir, dataset, tmp_path, capsys):
    png = tmp_path / "seen.png"
    data = ("--checkpoint", workdir, "--data", dataset, "--split", "val")
    assert run(*data, "--num", 4, "--png", png) == 0
    out = capsys.readouterr().out
    assert out.count("(truth: ") == 4 and "(truth: tench)" in out
    with Image.open(png) as drawn:
        assert drawn.width < drawn.height  # a grid of two rows
    assert run(*data, "--json") == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    opened = open_dataset(dataset, "val")
    assert len(printed) == NUM_VAL
    for number, entry in enumerate(printed):
        assert entry["file"] == opened.file_name(number)
        assert entry["truth"]["id"] == CLASSES.ids[opened.label(number)]
    assert run(*data, "--num", 0) == 2
    assert "num is 0. Use at least 1." in capsys.readouterr().err
    assert run("--checkpoint", workdir, "--num", 4, png) == 2
    assert "--num is given without --data" in capsys.readouterr().err
    assert run(*data, png) == 2
    assert "files and --data are given" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((), "no IMAGE is given. Give files or folders"),
        (
            ("empty",),
            "folder empty has no images, and 0 other files; expected JPEG",
        ),
        (
            ("a.png", "--view", "best"),
            "no view is called 'best'; expected one of top, subset, fold",
        ),
        (("a.png", "-k", "0"), "k is 0; expected at least 1"),
        (("a.png", "--batch-size", "0"), "batch_size is 0. Use at least 1."),
        (
            ("a.png", "--among", "leaf"),
            "view 'top' takes no expression, and 'leaf' was given; use the view subset or fold",
        ),
        (
            ("a.png", "--view", "subset"),
            "view 'subset' needs an expression; give one such as",
        ),
        (("a.png", "--view", "subset", "--among", "leaf & under(sharkk)"), "Did you mean 'shark'"),
        (
            ("a.png", "--view", "subset", "--among", "leaf & under(sharkk)"),
            "\n  leaf & under(sharkk)\n               ^",
        ),
        (
            ("a.png", "--view", "fold", "--among", "dog"),
            "none of the model's 4 classes is at or below 'dog'; choose other synsets",
        ),
        (
            ("a.png",) * 101 + ("--png", "x.png"),
            "--png plots at most 100 images, and 101 are given. Give fewer images, or omit --png.",
        ),
    ],
)
def test_what_users_get_wrong(arguments, message, workdir, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    Image.fromarray(make_image(0, 0)).save("a.png")
    assert run("--checkpoint", workdir, *arguments) == 2
    out, err = capsys.readouterr()
    assert message in err and out == ""


def test_files_too_large_are_not_read(tmp_path):
    with (tmp_path / "large.jpg").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(
        ValueError, match=r"large.jpg: file larger than 128 MiB; expected a whole JPEG"
    ):
        trained.Preprocessing(32, 1.0).recoded(tmp_path / "large.jpg")


def test_a_checkpoint_without_class_list_is_refused(few_blocks, tmp_path):
    model = InceptionBN(num_classes=4, variant="standard", width=0.125)
    state = init_state(InceptionNetwork(model), optax.sgd(0.1), 32, "he_normal", 0)
    meta = {
        "epoch_done": True,
        "model": InceptionNetwork(model).describe(),
        "input": {"image_size": 32, "crop_fraction": 0.875},
    }
    Checkpoints(tmp_path / "checkpoints").save(
        3, {"params": state.params, "batch_stats": state.batch_stats}, meta
    )
    with pytest.raises(
        ValueError,
        match=r"Checkpoint 3 of .* has no class list, so the meaning .* Import the model again "
        r"with its --synset",
    ):
        Predictor(tmp_path)


@pytest.mark.parametrize("name", ["fifo", "zero"])
def test_what_is_no_file_is_not_read(name, workdir, folder, tmp_path, capsys):
    os.mkfifo(tmp_path / "fifo")
    path = tmp_path / "fifo" if name == "fifo" else "/dev/zero"
    assert run("--checkpoint", workdir, path, folder / "a.png") == 1
    out, err = capsys.readouterr()
    assert f"error: {path}: not a regular file; expected a whole JPEG" in err and "a.png" in out


def test_other_files_of_a_folder_are_skipped_and_counted(workdir, folder, capsys):
    (folder / "README.txt").write_text("text")
    (folder / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    (folder / ".hidden.png").write_bytes(b"")
    os.mkfifo(folder / "below" / "fifo")
    shutil.copy(folder / "a.png", folder / "no_ending")
    assert run("--checkpoint", workdir, folder, "--json") == 0
    out, err = capsys.readouterr()
    names = [json.loads(line)["file"].rpartition("/")[2] for line in out.splitlines()]
    assert names == ["a.png", "b.jpg", "c.webp", "no_ending"]
    assert "3 files of the folders are no images and are skipped" in err
    (folder / "damaged.JPG").write_text("text")
    (folder / "unknown.tiff").write_text("text")
    assert run("--checkpoint", workdir, folder, "--json") == 1
    err = capsys.readouterr().err
    assert "damaged.JPG" in err and "unknown.tiff" in err


def test_links_of_a_folder_stay_in_it(workdir, folder, tmp_path, capsys):
    shutil.copy(folder / "a.png", tmp_path / "outside.png")
    (folder / "inside.png").symlink_to("a.png")
    (folder / "outside.png").symlink_to(tmp_path / "outside.png")
    (folder / "linked").symlink_to("below")
    assert run("--checkpoint", workdir, folder, "--json") == 0
    out, err = capsys.readouterr()
    names = [json.loads(line)["file"].rpartition("/")[2] for line in out.splitlines()]
    assert "inside.png" in names and "outside.png" not in names
    assert "2 symbolic links of the folders leave them and are skipped" in err


def test_a_folder_that_cannot_be_read_is_named(workdir, folder, monkeypatch, capsys):
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("below"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert run("--checkpoint", workdir, folder) == 1
    out, err = capsys.readouterr()
    assert f"error: folder {folder / 'below'} cannot be read (Permission denied)" in err
    assert "a.png" in out and "b.jpg" in out


def test_names_of_files_and_classes_may_hold_anything(few_blocks, folder, tmp_path, capsys):
    hostile = "\x1b]0;title\x07\n\u202e"
    classes = ClassList(("n01440764", "a\x1b[31mb", "c\x9b1m", "d"))
    workdir = save_model(tmp_path / "w", classes=classes)
    for name in (f"a{hostile}.png", b"\xff.png".decode(errors="surrogateescape")):
        shutil.copy(folder / "a.png", folder / name)
    (folder / f"broken{hostile}.png").write_bytes(b"text")
    png = tmp_path / "out.png"
    assert run("--checkpoint", workdir, folder, "--png", png) == 1
    shown = "".join(capsys.readouterr())
    assert not set(shown) & set("\x1b\x07\u202e\x9b\udcff")
    assert r"a\x1b]0;title\x07\n\u202e.png" in shown and r"\udcff.png" in shown
    assert r"broken\x1b]0;title\x07\n\u202e.png" in shown and r"a\x1b[31mb" in shown
    assert run("--checkpoint", workdir, folder, "--json") == 1
    assert not set(capsys.readouterr().out) & set("\x1b\x07\u202e\x9b\udcff")


@pytest.mark.parametrize("output_format", ["csv", "parquet", "jsonl"])
def test_answers_as_a_table(output_format, workdir, dataset, tmp_path, capsysbinary):
    data = ("--checkpoint", workdir, "--data", dataset, "--split", "val", "-k", 2)
    assert run(*data, "--format", output_format) == 0
    path = tmp_path / f"answers.{output_format}"
    path.write_bytes(capsysbinary.readouterr().out)
    if output_format == "jsonl":
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert len(lines) == NUM_VAL and len(lines[0]["answers"]) == 2
        return
    columns = {"file": str, "truth": str, "answer_1": str, "probability_2": float}
    table = table_files.read(path, columns)
    opened = open_dataset(dataset, "val")
    assert table["file"] == [opened.file_name(n) for n in range(NUM_VAL)]
    assert table["truth"] == [CLASSES.ids[opened.label(n)] for n in range(NUM_VAL)]
    assert set(table["answer_1"]) <= set(CLASSES.ids) and max(table["probability_2"]) <= 0.5
    with pytest.raises(UserError, match="lacks the column 'answer_3'"):
        table_files.read(path, {"answer_3": str})


def test_a_terminal_gets_no_parquet(monkeypatch, workdir, folder, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert run("--checkpoint", workdir, folder, "--format", "parquet") == 2
    assert "Add > answers.parquet" in capsys.readouterr().err


def test_many_files_show_progress(workdir, folder, monkeypatch, capsys):
    monkeypatch.setattr(log, "_LINE_EVERY_S", 0)
    paths = [folder / "a.png"] * 20
    assert run("--checkpoint", workdir, *paths) == 0
    assert "predict 100.0% | 20/20 images" in capsys.readouterr().err
    assert run("--checkpoint", workdir, *paths, "--json") == 0
    assert "predict" not in capsys.readouterr().err
    assert run("--checkpoint", workdir, *paths, "--format", "csv") == 0  # into a file or a pipe
    assert "predict 100.0% | 20/20 images" in capsys.readouterr().err


def test_regions_are_combined(model, folder):
    image = Image.open(folder / "b.jpg")
    image.load()
    found = parts(model.trained.preprocessing, image)
    assert found.shape == (NUM_PARTS, 32, 32, 3)
    np.testing.assert_array_equal(found[0], model.trained.prepare(image))
    pixels = np.asarray(image)  # 48 x 80
    middle = model.trained.prepare(pixels[12:36, 20:60])
    assert np.abs(found[5].astype(int) - middle.astype(int)).mean() < 4  # encoded once more
    assert np.abs(found[5].astype(int) - found[0].astype(int)).mean() > 8
    of_file = parts(model.trained.preprocessing, folder / "b.jpg")
    by_part = model.trained.probabilities(of_file)
    weights = by_part.max(axis=1) ** 2 * np.array([9] + 9 * [1])
    expected = (weights[:, None] * by_part).sum(axis=0) / weights.sum()
    both = model.probabilities([folder / "b.jpg", folder / "a.png"], regions=True)
    np.testing.assert_allclose(both[0], expected, rtol=1e-4)
    np.testing.assert_allclose(model.probabilities(image, regions=True), expected, atol=0.02)
    seen = list(predict_files(model, [folder / "b.jpg"], model.view("top"), regions=True))
    assert seen[0].answers[0].probability == pytest.approx(expected.max(), rel=1e-3)


def test_a_certain_region_counts_more_and_one_object_keeps_its_answer():
    uncertain = np.full(5, 0.2, np.float32)
    certain = np.array([0, 0, 0, 0, 1], np.float32)
    one_region = np.stack([uncertain] * 9 + [certain])
    assert combined(one_region).argmax() == 4
    assert combined(one_region)[4] > one_region.mean(axis=0)[4]
    one_object = np.stack([certain] + [np.array([0.6, 0.4, 0, 0, 0], np.float32)] * 9)
    assert combined(one_object).argmax() == 4
    np.testing.assert_allclose(combined(one_object).sum(), 1, rtol=1e-6)


def test_a_partition_counts_each_class_once(model):
    probabilities = np.array([[0.4, 0.3, 0.2, 0.1]])
    answers = model.view("fold", "partition(ic>=0.2)", k=10)(probabilities)[0]
    assert sum(answer.probability for answer in answers) == pytest.approx(1)


def test_options_belong_to_the_name_of_a_view(model, folder):
    image = folder / "a.png"
    assert len(model.predict(image, "top", k=2)) == 2
    with pytest.raises(UserError, match=r"k, among is given with a view .* name 'top' with them"):
        model.predict(image, model.view("top"), k=3, among=None)


def test_the_view_hedge_takes_no_regions(workdir, dataset, folder, tmp_path):
    shutil.copytree(workdir, tmp_path / "run")
    own = Predictor(tmp_path / "run")
    own.calibrate(dataset)
    view = own.view("hedge")
    assert len(own.predict(folder / "a.png", view)) == 1
    for predict in (
        lambda: own.predict(folder / "a.png", "hedge", regions=True),
        lambda: own.predict(folder / "a.png", view, regions=True),
        lambda: list(predict_files(own, [folder / "a.png"], view, regions=True)),
        lambda: list(predict_split(own, dataset, "val", view, regions=True)),
    ):
        with pytest.raises(UserError, match="calibrated on whole images. Omit regions"):
            predict()


def test_a_loaded_model_stays_as_it_is(workdir, folder, monkeypatch):
    loaded = trained.load(workdir)
    loaded.batch_size = 5
    used = []
    outputs = type(loaded)._outputs

    def spy(self, *arguments):
        used.append(self.batch_size)
        return outputs(self, *arguments)

    monkeypatch.setattr(type(loaded), "_outputs", spy)
    own = Predictor(loaded, batch_size=3)
    own.probabilities(folder / "a.png")
    own.features(folder / "a.png")
    embed(loaded, folder, batch_size=2)
    assert used == [3, 3, 2] and loaded.batch_size == 5


def test_a_step_is_refused_with_a_loaded_model(workdir, dataset):
    loaded = trained.load(workdir)
    with pytest.raises(UserError, match=r"step is 7, and the model is loaded already \(.*step 0\)"):
        Predictor(loaded, step=7)
    with pytest.raises(UserError, match="step is 'best', and the model is loaded already"):
        evaluate_checkpoint(loaded, dataset, step="best")


def test_regions_on_the_command_line(workdir, folder, capsys):
    assert run(folder / "b.jpg", "--checkpoint", workdir, "--regions", "--json") == 0
    by_regions = json.loads(capsys.readouterr().out)["answers"]
    assert run(folder / "b.jpg", "--checkpoint", workdir, "--json") == 0
    assert by_regions != json.loads(capsys.readouterr().out)["answers"]
    assert run(folder / "b.jpg", "--checkpoint", workdir, "--regions", "--view", "hedge") == 2
    assert "calibrated on whole images" in capsys.readouterr().err
