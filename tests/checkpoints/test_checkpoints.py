import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from i21k.checkpoints import Checkpoints, FormatError, directory
from i21k.errors import UserError

META = {"epoch_done": True, "classes": ["a", "b"]}


class State(struct.PyTreeNode):
    w: object
    opt_state: object


def tree(value: float = 1.0):
    return {
        "w": {"kernel": jnp.full((3, 2), value), "n": np.int32(7)},
        "empty": {},
        "b": np.arange(4, dtype=np.float32),
    }


def test_what_is_saved_comes_back(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c")
    assert checkpoints.newest() is None and checkpoints.steps() == []
    checkpoints.save(5, tree(), META)
    restored = Checkpoints(tmp_path / "c").newest()
    assert restored is not None and restored.step == 5
    assert restored.classes.ids == ("a", "b")
    np.testing.assert_array_equal(restored.tree["w"]["kernel"], np.ones((3, 2), np.float32))
    assert restored.tree["w"]["n"].dtype == np.int32 and restored.tree["w"]["n"] == 7


def test_restores_into_a_state_and_names_what_does_not_fit(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c")
    checkpoints.save(
        5, {"w": np.ones(3, np.float32), "opt_state": {"0": {}, "1": {"0": np.int32(4)}}}, META
    )
    restored = checkpoints.newest()
    state = restored.into(State(w=np.zeros(3, np.float32), opt_state=((), (np.int32(0),))))
    assert state.w.tolist() == [1, 1, 1] and state.opt_state == ((), (4,))
    with pytest.raises(ValueError, match=r"has float32\[3\] at w; expected float32\[4\]"):
        restored.into(State(w=np.zeros(4, np.float32), opt_state=()))
    with pytest.raises(ValueError, match=r"has none at opt_state/2; expected int32\[\]"):
        restored.into(State(w=np.zeros(3, np.float32), opt_state=((), (np.int32(0),), np.int32(0))))


def test_keeps_the_newest_epochs_and_drops_what_was_saved_in_between(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    for step, done in ((1, True), (2, True), (3, False), (4, True), (5, False)):
        checkpoints.save(step, tree(), META | {"epoch_done": done})
    assert checkpoints.steps() == [2, 4, 5]
    checkpoints.save(6, tree(), META)
    assert checkpoints.steps() == [4, 6]
    everything = Checkpoints(tmp_path / "all")
    for step in range(4):
        everything.save(step, tree(), META)
    assert everything.steps() == [0, 1, 2, 3]


def test_the_best_is_kept_until_another_one_is_better(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c", keep=1)
    with pytest.raises(UserError, match=r"is marked as the best. Train with .*keep_best=val_top1"):
        checkpoints.find("best")
    for step, done in ((1, True), (2, False), (3, True), (4, True), (5, False)):
        checkpoints.save(step, tree(step), META | {"epoch_done": done})
        if step in (1, 2):
            checkpoints.mark_best(step, "val_top1", step / 10)
    assert checkpoints.steps() == [2, 4, 5]  # 2 was saved inside an epoch, and is the best
    assert checkpoints.find("best").step == 2 and checkpoints.find("last").step == 5
    assert checkpoints.find(4).tree["w"]["kernel"][0, 0] == 4
    with pytest.raises(UserError, match=r"no checkpoint of step 3. Give another step \(2, 4, 5\)"):
        checkpoints.find(3)
    checkpoints.mark_best(4, "val_top1", 0.9)
    checkpoints.save(6, tree(), META)
    assert checkpoints.steps() == [4, 6]
    (tmp_path / "c" / "4" / "meta" / "metadata").write_text("{")
    for which in ("best", 4):
        with pytest.raises(UserError, match=r"4 is damaged \(metadata: .*another step \(6\)"):
            checkpoints.find(which)
    checkpoints.forget_best()
    checkpoints.save(7, tree(), META)
    assert checkpoints.steps() == [7]


def test_a_reader_whose_checkpoint_is_removed_reads_the_next_one(tmp_path, monkeypatch, capsys):
    """Whatever has been read of a checkpoint when it goes: nothing, the metadata, the arrays."""
    writer = Checkpoints(tmp_path / "c", keep=1)
    writer.save(1, tree(1), META)
    read_meta, digest = directory.read_meta, directory.digest

    def overtaken(step, function, after):
        def call(argument):
            monkeypatch.undo()
            found = function(argument) if after else None
            writer.save(step, tree(step), META)
            return found if after else function(argument)

        return call

    reader = Checkpoints(tmp_path / "c")
    for step, name, function, after in (
        (2, "read_meta", read_meta, False),
        (3, "read_meta", read_meta, True),
        (4, "digest", digest, True),  # all was read: this one is whole
    ):
        monkeypatch.setattr(directory, name, overtaken(step, function, after))
        found = reader.find("last")
        assert found.step == (step if name == "read_meta" else step - 1)
        assert found.tree["w"]["kernel"][0, 0] == found.step
    monkeypatch.setattr(directory, "read_meta", overtaken(5, read_meta, True))
    with pytest.raises(UserError, match="no checkpoint of step 4"):
        reader.find(4)
    assert "damaged" not in capsys.readouterr().err


def test_removals_that_were_cut_off_are_finished(tmp_path):
    (tmp_path / "c" / "3.deleted" / "state").mkdir(parents=True)
    Checkpoints(tmp_path / "c", keep=1).save(5, tree(), META)
    assert not (tmp_path / "c" / "3.deleted").exists()


def test_saving_an_older_step_puts_the_newer_ones_aside(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c")
    for step in (10, 20, 30):
        checkpoints.save(step, tree(step), META)
    checkpoints.save(15, tree(15), META)
    assert checkpoints.steps() == [10, 15]
    assert checkpoints.newest().tree["w"]["kernel"][0, 0] == 15
    assert {p.name for p in (tmp_path / "c").glob("*.aside")} == {"20.aside", "30.aside"}


def test_a_state_that_is_not_finite_is_never_saved(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c")
    checkpoints.save(1, tree(), META)
    with pytest.raises(ValueError, match="w/kernel is not finite at step 2"):
        checkpoints.save(2, tree(np.nan), META)
    assert checkpoints.steps() == [1]


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty"])
def test_a_damaged_checkpoint_is_skipped(tmp_path, damage, capsys):
    checkpoints = Checkpoints(tmp_path / "c")
    rng = np.random.default_rng(0)
    for step in (1, 2):
        checkpoints.save(step, {"w": rng.standard_normal((64, 64)).astype(np.float32)}, META)
    files = [p for p in (tmp_path / "c" / "2" / "state").rglob("*") if p.is_file()]
    path = max(files, key=lambda p: p.stat().st_size)
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 4
    path.write_bytes(
        content
        if damage == "flip"
        else content[: len(content) // 2]
        if damage == "truncate"
        else b""
    )
    assert checkpoints.newest().step == 1
    assert f"warning: checkpoint {tmp_path / 'c' / '2'} is damaged (" in capsys.readouterr().err
    path.unlink()
    for file in (tmp_path / "c" / "1" / "meta").rglob("*"):
        file.write_bytes(b"{")
    with pytest.raises(ValueError, match=r"no intact checkpoint in .*: step 2: .*step 1: "):
        checkpoints.newest()


def test_a_save_that_was_cut_off_does_not_count(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c")
    checkpoints.save(1, tree(), META)
    (tmp_path / "c" / "2.orbax-checkpoint-tmp").mkdir()
    assert checkpoints.steps() == [1]
    checkpoints.save(2, tree(), META)
    assert sorted(p.name for p in (tmp_path / "c").iterdir() if p.is_dir()) == ["1", "2"]


def test_reading_does_not_touch_what_a_run_is_writing(tmp_path):
    Checkpoints(tmp_path / "c").save(1, tree(), META)
    (tmp_path / "c" / "2.orbax-checkpoint-tmp").mkdir()
    assert Checkpoints(tmp_path / "c").newest().step == 1
    assert (tmp_path / "c" / "2.orbax-checkpoint-tmp").exists()


def test_the_metadata_is_verified_too(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c")
    for step in (1, 2):
        checkpoints.save(step, tree(), META)
    path = tmp_path / "c" / "2" / "meta" / "metadata"
    path.write_text(path.read_text().replace('["a", "b"]', '["b", "a"]'))
    assert checkpoints.newest().step == 1


def test_a_disk_that_does_not_answer_is_not_taken_for_damage(tmp_path, monkeypatch):
    saved = Checkpoints(tmp_path / "c")
    for step in (1, 2):
        saved.save(step, tree(), META)

    def fail(_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(directory, "digest", fail)
    with pytest.raises(OSError, match="Input/output error"):
        saved.newest()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two intact checkpoints, of steps 1 and 2."""
    directory = tmp_path_factory.mktemp("two") / "c"
    rng = np.random.default_rng(0)
    for step in (1, 2):
        weights = rng.standard_normal((64, 64)).astype(np.float32)
        Checkpoints(directory).save(step, {"a": {"w": weights}, "n": np.int32(step)}, META)
    return directory


# Of several arrays that cannot be read, Orbax waits only for the first.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("inventory", [True, False], ids=["", "old"])
def test_damage_of_any_file_is_found_or_harmless(two, tmp_path, capsys, inventory):
    """A checkpoint of an older version has no inventory of its files."""
    names = sorted(p.relative_to(two) for p in (two / "2").rglob("*") if p.is_file())
    assert len(names) > 5
    expected = Checkpoints(two).newest()
    rng = np.random.default_rng(1)
    num_found = 0
    for name in names:
        content = (two / name).read_bytes()
        flips = [
            content[:k] + bytes([content[k] ^ 1]) + content[k + 1 :]
            for k in (rng.integers(0, len(content), 3) if content else [])
        ]
        for damaged in (None, b"", content[: len(content) // 2], *flips):
            directory = tmp_path / "c"
            shutil.copytree(two, directory)
            if not inventory:
                (directory / "2" / "files.json").unlink()
            (directory / name).unlink(missing_ok=True)
            if damaged is not None:
                (directory / name).write_bytes(damaged)
            try:
                found = Checkpoints(directory).newest()
            except FormatError:
                assert name.name == "metadata"
            else:
                if found.step == 2:
                    np.testing.assert_array_equal(found.tree["a"]["w"], expected.tree["a"]["w"])
                else:
                    num_found += 1
                    assert "2 is damaged" in capsys.readouterr().err
            shutil.rmtree(directory)
    assert num_found > 10


JUNK = [b"[]", b"3", b"null", b"{}", b'{"item_handlers": 3}', b"[" * 100_000, b'{"step": 1e999}']
JUNK += [b'{"step": ' + b"9" * size + b"}" for size in (400, 5000)]


@pytest.mark.parametrize("damaged", [1, 2])
@pytest.mark.parametrize(
    "name", ["_CHECKPOINT_METADATA", "state/_METADATA", "meta/metadata", "files.json"]
)
def test_other_json_in_one_checkpoint_does_not_disturb_the_others(two, tmp_path, name, damaged):
    """Orbax's manager reads the metadata of all checkpoints, also to save one."""
    for k, junk in enumerate(JUNK):
        directory = tmp_path / str(k)
        shutil.copytree(two, directory)
        (directory / str(damaged) / name).write_bytes(junk)
        saved = Checkpoints(directory, keep=9)
        assert saved.find(3 - damaged).step == 3 - damaged
        assert saved.newest().step >= 3 - damaged
        saved.save(4, tree(), META)
        assert saved.newest().step == 4


@pytest.mark.parametrize("junk", JUNK, ids=range(len(JUNK)))
def test_other_json_about_the_best_checkpoint_marks_none(two, tmp_path, junk):
    shutil.copytree(two, tmp_path / "c")
    (tmp_path / "c" / "best.json").write_bytes(junk)
    saved = Checkpoints(tmp_path / "c")
    assert saved.best_step() is None
    saved.mark_best(2, "val_top1", 0.5)
    assert saved.find("best").step == 2


def test_a_save_that_fails_leaves_nothing(two, tmp_path, monkeypatch):
    shutil.copytree(two, tmp_path / "c")
    before = sorted((tmp_path / "c").rglob("*"))

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    from orbax.checkpoint import JsonCheckpointHandler

    monkeypatch.setattr(JsonCheckpointHandler, "save", fail)
    monkeypatch.setattr(JsonCheckpointHandler, "async_save", fail)
    with pytest.raises(OSError, match="No space left"):
        Checkpoints(tmp_path / "c").save(3, tree(), META)
    assert sorted((tmp_path / "c").rglob("*")) == before


def test_a_save_that_fails_while_other_files_are_written_says_why(two, tmp_path, monkeypatch):
    """Orbax writes the parts of a checkpoint in threads, and one of them may fail first."""
    shutil.copytree(two, tmp_path / "c")
    before = sorted((tmp_path / "c").rglob("*"))
    real, calls = shutil.rmtree, []

    def rmtree(path, *args, **options):
        calls.append(path)
        if len(calls) < 3 and Path(path).exists():  # a thread writes between listing and removing
            real(path, *args, **options)
            Path(path).mkdir(exist_ok=True)
            if not options.get("ignore_errors"):
                raise OSError(39, "Directory not empty", str(path))
            return
        real(path, *args, **options)

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    from orbax.checkpoint import JsonCheckpointHandler

    monkeypatch.setattr(JsonCheckpointHandler, "save", fail)
    monkeypatch.setattr(JsonCheckpointHandler, "async_save", fail)
    monkeypatch.setattr(shutil, "rmtree", rmtree)
    with pytest.raises(OSError, match="No space left"):
        Checkpoints(tmp_path / "c").save(3, tree(), META)
    assert len(calls) >= 3
    assert sorted((tmp_path / "c").rglob("*")) == before


@pytest.mark.parametrize("inventory", [True, False], ids=["", "old"])
@pytest.mark.parametrize("kind", [AttributeError, TypeError, KeyError])
def test_a_bug_in_orbax_is_not_taken_for_damage(two, tmp_path, monkeypatch, kind, inventory):
    shutil.copytree(two, tmp_path / "c")
    if not inventory:
        (tmp_path / "c" / "2" / "files.json").unlink()

    def fail(*_, **__):
        raise kind("after an upgrade")

    monkeypatch.setattr(directory.ocp.Checkpointer, "restore", fail)
    with pytest.raises(kind, match="after an upgrade"):
        Checkpoints(tmp_path / "c").newest()


def test_a_value_error_is_not_taken_for_damage_where_the_files_are_intact(two, monkeypatch):
    def fail(*_, **__):
        raise ValueError("a bug")

    monkeypatch.setattr(directory.ocp.Checkpointer, "restore", fail)
    with pytest.raises(ValueError, match="a bug"):
        Checkpoints(two).newest()


def test_another_format_is_refused_and_not_skipped(tmp_path, monkeypatch):
    saved = Checkpoints(tmp_path / "c")
    saved.save(1, tree(), META)
    monkeypatch.setattr(directory, "FORMAT", 2)
    saved.save(2, tree(), META)
    monkeypatch.setattr(directory, "FORMAT", 1)
    with pytest.raises(ValueError, match="2 has format 2; this version of i21k reads 1"):
        saved.newest()


def test_a_full_disk_is_reported_before_anything_is_written(tmp_path, monkeypatch):
    usage = directory.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(directory.shutil, "disk_usage", lambda _: usage._replace(free=10))
    with pytest.raises(OSError, match=r"0 MiB free, a checkpoint needs .* MiB. Make room"):
        Checkpoints(tmp_path / "c").save(1, tree(), META)
    assert Checkpoints(tmp_path / "c").steps() == []


def test_a_checkpoint_that_was_renamed_is_not_taken_for_another_step(tmp_path, capsys):
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(step, {"params": {"a": np.ones(2)}}, {"epoch_done": True})
    (tmp_path / "1").rename(tmp_path / "9")
    assert checkpoints.newest().step == 2
    assert "9 is damaged (it is the checkpoint of step 1)" in capsys.readouterr().err
    with pytest.raises(UserError, match="it is the checkpoint of step 1"):
        checkpoints.find(9)
