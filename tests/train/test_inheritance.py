"""Start a run from a trained model: what is taken, mapped, warned of and refused."""

import json
import shutil

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from i21k.checkpoints import Checkpoints
from i21k.data.format.splits import open_split
from i21k.data.load import loader
from i21k.errors import UserError
from i21k.interop.export import export
from i21k.interop.mxnet.checkpoints import import_mxnet
from i21k.labels import ClassList
from i21k.models.network import build
from i21k.train import feed, inheritance, interruption, loop
from i21k.train.recipe import parse
from i21k.trained import load_checkpoint
from tests.helpers.datasets import CLASSES, write_dataset
from tests.helpers.models import save_random_model

pytestmark = pytest.mark.usefixtures("few_blocks")

# A shark and a fish of the parent, their genus "shark", which the parent lacks, and a new class.
OTHERS = ClassList(("n01440764", "n01482330", "n01484850", "n07753592"))


@pytest.fixture(scope="module")
def parent(few_blocks, tmp_path_factory):
    return save_random_model(tmp_path_factory.mktemp("runs") / "parent")


@pytest.fixture(scope="module")
def other_data(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data") / "other", {"train": 24, "val": 8},
                         classes=OTHERS)  # fmt: skip


def variables_of(workdir, step="last"):
    return flatten_dict(dict(load_checkpoint(workdir, step).variables), sep="/")


@pytest.fixture
def tuning(recipe, parent):
    recipe.epochs, recipe.init_from = 1, str(parent)
    recipe.log.keep_checkpoints = 0
    recipe.evaluation.sets, recipe.log.keep_best = "none", "none"  # evaluations take as long
    return recipe


def run_to_first_step(config, workdir, monkeypatch):
    """Open a run, and end it before its first step."""
    monkeypatch.setattr(loop, "_train_epoch", lambda run, epoch: run.interruption.leave())

    class Left(Exception):
        pass

    def leave(interrupted):
        raise Left

    monkeypatch.setattr(interruption.Interruption, "leave", leave)
    with pytest.raises(Left):
        loop.run(config, workdir)
    monkeypatch.undo()


def test_the_same_classes_take_every_array(tuning, parent, tmp_path, monkeypatch, capsys):
    run_to_first_step(tuning, tmp_path / "w", monkeypatch)
    before, after = variables_of(parent), variables_of(tmp_path / "w")
    assert before.keys() == after.keys()
    for path in before:
        np.testing.assert_array_equal(after[path], before[path], err_msg=path)
    shown = capsys.readouterr().out
    num = len(before)
    assert f"{num} of {num} arrays from {parent}, step 0" in shown
    meta = load_checkpoint(tmp_path / "w").checkpoint.meta
    origin = load_checkpoint(parent).origin
    assert meta["parent"] == {
        "workdir": str(parent),
        "step": 0,
        "digest": origin.digest,
        "kind": "init_from",
        "arrays": num,
    }
    assert json.loads((tmp_path / "w" / "run.json").read_text())["parent"] == meta["parent"]


def test_a_mapped_head_gives_the_parents_logits(
    tuning, parent, other_data, tmp_path, monkeypatch, capsys
):
    tuning.data.directory = str(other_data)
    run_to_first_step(tuning, tmp_path / "w", monkeypatch)
    assert "fc1: 2 classes taken, 1 from classes below them, 1 new" in capsys.readouterr().out
    old, new = load_checkpoint(parent), load_checkpoint(tmp_path / "w")
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3)).astype(np.uint8)
    before, after = old.logits(images), new.logits(images)
    label = CLASSES.label_of
    np.testing.assert_array_equal(after[:, 0], before[:, label["n01440764"]])
    np.testing.assert_array_equal(after[:, 2], before[:, label["n01484850"]])
    sharks = before[:, [label["n01484850"], label["n01491361"]]]  # great white, tiger shark
    np.testing.assert_allclose(after[:, 1], sharks.mean(axis=1), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(after[:, 3], 0)


def test_a_new_head_is_zero_and_the_trunk_is_the_parents(
    tuning, parent, other_data, tmp_path, monkeypatch, capsys
):
    tuning.data.directory, tuning.init_head = str(other_data), "new"
    run_to_first_step(tuning, tmp_path / "w", monkeypatch)
    before, after = variables_of(parent), variables_of(tmp_path / "w")
    assert f"{len(before) - 2} of {len(before)} arrays" in capsys.readouterr().out
    assert not after["params/fc1/kernel"].any() and not after["params/fc1/bias"].any()
    for path in before.keys() - {"params/fc1/kernel", "params/fc1/bias"}:
        np.testing.assert_array_equal(after[path], before[path], err_msg=path)


def test_a_resumed_run_needs_no_parent(tuning, parent, tmp_path, monkeypatch):
    mine = shutil.copytree(parent, tmp_path / "parent")
    tuning.init_from = str(mine)
    run_to_first_step(tuning, tmp_path / "stopped", monkeypatch)
    loop.run(tuning, tmp_path / "whole")
    shutil.rmtree(mine)
    loop.run(tuning, tmp_path / "stopped")
    one, other = (
        Checkpoints(tmp_path / name / "checkpoints").newest() for name in ("whole", "stopped")
    )
    assert one.step == other.step == 6 and one.meta["digests"] == other.meta["digests"]
    assert other.meta["parent"]["workdir"] == str(mine)


def test_starting_from_a_safetensors_export(tuning, parent, tmp_path, monkeypatch):
    pytest.importorskip("safetensors")
    export(load_checkpoint(parent), tmp_path / "exported", "safetensors")
    tuning.init_from = str(tmp_path / "exported")
    run_to_first_step(tuning, tmp_path / "w", monkeypatch)
    before, after = variables_of(parent), variables_of(tmp_path / "w")
    for path in before:
        np.testing.assert_array_equal(after[path], before[path], err_msg=path)


def test_starting_from_a_file_of_2015(tuning, tmp_path, monkeypatch, capsys):
    """A model in MXNet's own format, imported: another revision, and all its classes in common."""
    source = save_random_model(tmp_path / "source", "released")
    export(load_checkpoint(source), tmp_path / "mxnet", "mxnet")
    folder = tmp_path / "mxnet"
    (folder / "preprocessing.json").unlink()  # the files of 2015 have none
    CLASSES.write(tmp_path / "synset.txt")
    import_mxnet(
        symbol=next(folder.glob("*symbol.json")),
        params=next(folder.glob("*.params")),
        synset=tmp_path / "synset.txt",
        directory=tmp_path / "imported",
    )
    tuning.init_from, tuning.model.revision = str(tmp_path / "imported"), "released"
    run_to_first_step(tuning, tmp_path / "w", monkeypatch)
    before, after = variables_of(tmp_path / "imported"), variables_of(tmp_path / "w")
    for path in before:
        np.testing.assert_array_equal(after[path], before[path], err_msg=path)
    shown = capsys.readouterr().out
    assert "warning: images are prepared differently than for" in shown
    assert "image_size 32 (before: 224)" in shown


def test_a_parent_of_another_width_is_named_with_what_would_fit(tuning, parent, tmp_path):
    tuning.model.width = 0.25
    with pytest.raises(UserError, match=r"width 0.125, and the recipe has .*width 0.25") as caught:
        loop.run(tuning, tmp_path / "w")
    assert "Use --config.model.width=0.125." in str(caught.value)
    assert not (tmp_path / "w" / "checkpoints").exists()


def test_a_parent_of_another_variant_is_named(recipe, parent, tmp_path):
    cfg = parse(recipe)
    network = build({"variant": "full", "revision": "symbol2016", "width": 0.125}, 4)
    model = load_checkpoint(parent)
    initial = network.initial(32, "he_normal", 0)
    with pytest.raises(UserError, match=r"--config.model.variant=standard"):
        inheritance.inherit(cfg, network, initial, model, CLASSES)


@pytest.mark.parametrize(
    ("classes", "head", "message"),
    [
        (("dog", "cat", "cow", "pig"), "mapped", "no class of the data is one of the parent's 4"),
    ],
)
def test_a_head_that_cannot_be_mapped_is_refused(recipe, parent, classes, head, message):
    recipe.init_head = head
    network = load_checkpoint(parent).network
    initial = network.initial(32, "he_normal", 0)
    with pytest.raises(UserError, match=message):
        inheritance.inherit(
            parse(recipe), network, initial, load_checkpoint(parent), ClassList(classes)
        )


def test_parents_that_cannot_be_used_are_refused(tuning, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "model.onnx").write_bytes(b"x")
    for value, message in (
        (tmp_path / "missing", "does not exist"),
        (tmp_path / "empty", "holds no checkpoint"),
        (tmp_path / "model.onnx", "an ONNX model, which cannot be trained"),
        (tmp_path / "w", "the working directory itself"),
    ):
        tuning.init_from = str(value)
        with pytest.raises(UserError, match=message):
            loop.run(tuning, tmp_path / "w")


def test_data_with_too_few_images(tuning, tmp_path, capsys, monkeypatch):
    tuning.batch_size = 4
    for num, name in ((5, "one"), (7, "some")):
        write_dataset(tmp_path / name, {"train": num, "val": 4}, num_shards=1)
    tuning.data.directory = str(tmp_path / "one")
    run_to_first_step(tuning, tmp_path / "w", monkeypatch)
    shown = capsys.readouterr().out
    assert "3 of 4 classes have fewer than two training images; n01443537 has one image" in shown
    lines: list[str] = []
    few = write_dataset(tmp_path / "few", {"train": 3, "val": 3}, num_shards=1)
    with pytest.raises(UserError, match="has 3 images of 4 classes"):
        inheritance.check_data(lines.append, open_split(few, "train"))


def test_a_parent_that_is_being_trained_is_named(tuning, parent, tmp_path, monkeypatch, capsys):
    mine = shutil.copytree(parent, tmp_path / "parent")
    (mine / "lock").write_text("process 1 on here\n")
    tuning.init_from = f"{mine}@0"
    run_to_first_step(tuning, tmp_path / "w", monkeypatch)
    assert "is being written by a run. Its step 0 is used." in capsys.readouterr().out


# What moves


def changed_by(config, parent, workdir):
    """Train, and return for each array whether it is another one than the parent's."""
    loop.run(config, workdir)
    last = flatten_dict(Checkpoints(workdir / "checkpoints").newest().tree, sep="/")
    first = variables_of(parent)
    return {path: bool((first[path] != last[path]).any()) for path in first}, last


def test_a_frozen_trunk_is_bit_identical_after_twenty_steps(tuning, parent, tmp_path):
    tuning.epochs, tuning.batch_size = 6, 12  # 22 steps
    tuning.devices, tuning.accumulate_steps = 1, 3  # a mean of three equal numbers may round
    tuning.model.freeze = "trunk"
    tuning.optimizer.warmup_epochs = 0.0
    changed, last = changed_by(tuning, parent, tmp_path / "w")
    assert {path for path, moved in changed.items() if moved} == {
        "params/fc1/kernel",
        "params/fc1/bias",
    }
    # The optimizer has a state of the head alone.
    kept = [path for path in last if path.startswith("opt_state") and "conv_" in path]
    assert not kept


def test_freezing_up_to_a_part_keeps_the_parts_below(tuning, parent, tmp_path):
    tuning.model.freeze, tuning.optimizer.warmup_epochs = "3a", 0.0
    tuning.devices = 1  # two images of one pixel, normalised, have no gradient
    changed, _ = changed_by(tuning, parent, tmp_path / "w")
    part = {path: path.split("/")[1].split("_")[1] if "_" in path.split("/")[1] else "head"
            for path in changed}  # fmt: skip
    frozen = {"conv1", "conv2", "conv2red", "3a"}
    assert not any(moved for path, moved in changed.items() if part[path] in frozen)
    moved = {part[path] for path in changed if changed[path]}
    assert moved == {"3c", "5b", "head"}


def test_frozen_statistics_stay_while_parameters_move(tuning, parent, tmp_path):
    tuning.model.freeze_bn, tuning.optimizer.warmup_epochs = True, 0.0
    tuning.devices = 1
    changed, _ = changed_by(tuning, parent, tmp_path / "w")
    assert not any(moved for path, moved in changed.items() if path.startswith("batch_stats"))
    assert changed["params/fc1/kernel"] and changed["params/conv_conv1/kernel"]


@pytest.mark.parametrize("name", ["sgd", "lamb"])
def test_only_the_head_changes_in_the_first_epochs(tuning, parent, tmp_path, name):
    tuning.optimizer.head_epochs, tuning.optimizer.warmup_epochs = 1.0, 0.0
    tuning.optimizer.name, tuning.optimizer.weight_decay = name, 0.1
    tuning.epochs = 2
    loop.run(tuning, tmp_path / "w")
    steps = Checkpoints(tmp_path / "w" / "checkpoints").steps()
    assert len(steps) == 2  # after each epoch
    states = [variables_of(parent), *(variables_of(tmp_path / "w", step) for step in steps)]
    trunk = [p for p in states[0] if p.startswith("params/conv") and p.endswith("kernel")]
    assert not any((states[0][path] != states[1][path]).any() for path in trunk)
    assert (states[0]["params/fc1/kernel"] != states[1]["params/fc1/kernel"]).any()
    assert all((states[1][path] != states[2][path]).any() for path in trunk)


def test_an_unknown_part_is_refused_and_a_random_frozen_trunk_is_warned_of(
    recipe, tmp_path, monkeypatch, capsys
):
    recipe.model.freeze = "7a"
    with pytest.raises(UserError, match=r"no part '7a' to freeze. Use none, trunk, or .*stem, 3a"):
        loop.run(recipe, tmp_path / "w")
    recipe.model.freeze = "trunk"
    run_to_first_step(recipe, tmp_path / "w", monkeypatch)
    assert "The frozen parameters are random" in capsys.readouterr().out


def test_a_frozen_part_has_no_gradient(dataset, recipe):
    """The step of a frozen trunk needs less memory and fewer operations."""
    from i21k.train import steps
    from i21k.train.state import init_state, make_network
    from tests.helpers.stepping import KEEP_GRADIENT

    def planned(freeze: str) -> tuple[int, float]:
        recipe.model.freeze, recipe.devices = freeze, 1
        cfg = parse(recipe)
        network, device = make_network(cfg.model, 4), jax.local_devices()[:1]
        state = init_state(network, KEEP_GRADIENT, 32, "he_normal", 0)
        options = feed.train_options(cfg)
        with loader.batches(open_split(dataset, "train"), options) as batches:
            batch = next(batches)
        from i21k.train.devices import put_batch

        step = steps.make_train_step(network, KEEP_GRADIENT, device)
        compiled = step.lower(state, put_batch(batch, device)).compile()
        analysis = compiled.cost_analysis()
        analysis = analysis[0] if isinstance(analysis, list) else analysis
        return compiled.memory_analysis().temp_size_in_bytes, analysis["flops"]

    (memory, flops), (all_memory, all_flops) = planned("trunk"), planned("none")
    assert memory < all_memory / 2 and flops < all_flops / 2
