import logging

import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from i21k import checkpoints
from i21k.checkpoints import Checkpoints

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
def test_a_damaged_checkpoint_is_passed_over(tmp_path, damage, caplog):
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
    with caplog.at_level(logging.WARNING, "i21k"):
        assert checkpoints.newest().step == 1
    assert "2 is damaged" in caplog.text
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


def test_what_stands_beside_the_arrays_is_verified_too(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c")
    for step in (1, 2):
        checkpoints.save(step, tree(), META)
    path = tmp_path / "c" / "2" / "meta" / "metadata"
    path.write_text(path.read_text().replace('["a", "b"]', '["b", "a"]'))
    assert checkpoints.newest().step == 1


def test_a_disk_that_does_not_answer_is_not_taken_for_damage(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path / "c")
    for step in (1, 2):
        checkpoints.save(step, tree(), META)

    def fail(_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("i21k.checkpoints._digest", fail)
    with pytest.raises(OSError, match="Input/output error"):
        checkpoints.newest()


def test_another_format_is_refused_and_not_passed_over(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path / "c")
    checkpoints.save(1, tree(), META)
    monkeypatch.setattr("i21k.checkpoints.FORMAT", 2)
    checkpoints.save(2, tree(), META)
    monkeypatch.setattr("i21k.checkpoints.FORMAT", 1)
    with pytest.raises(ValueError, match="2 has format 2; this version of i21k reads 1"):
        checkpoints.newest()


def test_a_full_disk_is_said_before_anything_is_written(tmp_path, monkeypatch):
    usage = checkpoints.shutil.disk_usage(tmp_path)
    monkeypatch.setattr("i21k.checkpoints.shutil.disk_usage", lambda _: usage._replace(free=10))
    with pytest.raises(OSError, match=r"0 MiB free, a checkpoint needs .*; make room"):
        Checkpoints(tmp_path / "c").save(1, tree(), META)
    assert Checkpoints(tmp_path / "c").steps() == []
