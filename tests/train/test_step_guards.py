"""Guards around the step: transfers, compilation, donation, and values that are not finite."""

import functools
import json
import logging
import os
import re
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from i21k.checkpoints import Checkpoints
from i21k.train import feed, interruption, loop, passes, steps
from i21k.train.devices import put_batch, put_state, transfers
from i21k.train.report import read_metrics
from i21k.train.state import DeviceBatch
from i21k.trained import load_checkpoint

pytestmark = pytest.mark.usefixtures("few_blocks")


def after_step(monkeypatch, number: int, act) -> None:
    """Do something to a run when it has done `number` steps, before it logs or saves."""
    do = loop._one_step

    def one_step(run, feeder):
        wait_s = do(run, feeder)
        if run.step == number:
            act(run)
        return wait_s

    monkeypatch.setattr(loop, "_one_step", one_step)


# --------------------------------------------------------------------------------------------------


def test_a_batch_that_nobody_sent_does_not_reach_the_step(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(
        feed,
        "put_batch",
        lambda batch, devices: DeviceBatch(
            *(np.reshape(x, (len(devices), -1, *x.shape[1:])) for x in batch[:4])
        ),
    )
    with pytest.raises(
        jax.errors.JaxRuntimeError,
        match=r"Disallowed host-to-device transfer: aval=ShapedArray\(uint8\[4,2,32,32,3\]\)",
    ):
        loop.run(recipe, tmp_path / "w")


@pytest.mark.parametrize(
    "careless",
    [
        lambda run: run.state.step + 1,
        lambda run: jnp.zeros(3),
        lambda run: jax.device_put(np.zeros(3)),  # by name, but not in a place for it
    ],
)
def test_what_travels_between_steps_in_passing_is_refused(recipe, tmp_path, monkeypatch, careless):
    after_step(monkeypatch, 2, careless)
    with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
        loop.run(recipe, tmp_path / "w")
    assert jnp.zeros(3).sum() + 1 == 1  # here it is allowed again


def test_an_evaluation_sends_what_it_sends_by_name(recipe, tmp_path, monkeypatch):
    evaluate = passes.evaluate
    monkeypatch.setattr(
        passes,
        "evaluate",
        lambda eval_step, variables, *rest: evaluate(eval_step, jax.device_get(variables), *rest),
    )
    with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
        loop.run(recipe, tmp_path / "w")


# --------------------------------------------------------------------------------------------------


def test_each_step_is_compiled_once_in_a_run_and_once_when_it_goes_on(
    recipe, tmp_path, monkeypatch, caplog
):
    traced = []
    for name in ("train_step", "eval_step"):

        def counted(*args, _step, _name, **kwargs):
            traced.append(_name)
            return _step(*args, **kwargs)

        monkeypatch.setattr(
            steps, name, functools.partial(counted, _step=getattr(steps, name), _name=name)
        )

    def compiled() -> int:
        number = sum(
            bool(re.match(r"Compiling .*_fun", record.getMessage())) for record in caplog.records
        )  # pmap's name for all
        caplog.clear()
        return number

    recipe.epochs = 3
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        after_step(monkeypatch, 14, lambda run: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(interruption.Interrupted):
            loop.run(recipe, tmp_path / "w")
        assert sorted(traced) == ["eval_step", "train_step"] and compiled() == 2
        assert len(read_metrics(tmp_path / "w")) == 2
        traced.clear()
        loop.run(recipe, tmp_path / "w")
        assert sorted(traced) == ["eval_step", "train_step"] and compiled() == 2


def test_a_second_shape_is_an_error_and_not_a_second_compilation(recipe, tmp_path, monkeypatch):
    number = iter(range(100))
    monkeypatch.setattr(
        feed,
        "put_batch",
        lambda batch, devices: put_batch(
            type(batch)(*(x[: 4 if next(number) >= 10 else 8] for x in batch[:4])), devices
        ),
    )
    with pytest.raises(RuntimeError, match=r"re-tracing function .* but 'no_tracing' is set"):
        loop.run(recipe, tmp_path / "w")


@pytest.mark.parametrize("num_devices", [1, 4])
def test_a_buffer_donated_in_vain_is_an_error(recipe, tmp_path, monkeypatch, num_devices):
    recipe.devices = num_devices
    train_step = steps.train_step

    def wasteful(state, batch, **how):
        state = train_step(state, batch, **how)
        return state.replace(params=jax.tree.map(lambda x: x.astype(jnp.bfloat16), state.params))

    monkeypatch.setattr(steps, "train_step", wasteful)
    with pytest.raises(
        AssertionError,
        match=r"\d+ donated buffers of the state were not reused, such as .*: old and new state",
    ):
        loop.run(recipe, tmp_path / "w")


# ------------------------------------------------------------------------------------------- number


def spoil(part: str, layer: str, name: str, value: float):
    """Put a number into the state, unseen by the loss."""

    def act(run):
        with transfers("allow"):
            tree = jax.device_get(getattr(run.state, part))
            array = tree[layer][name].copy()
            array.flat[0] = value
            tree = {**tree, layer: {**tree[layer], name: array}}
            run.state = run.state.replace(**{part: put_state(tree, run.devices)})

    return act


def steps_written(workdir) -> list[int]:
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert all(
        np.isfinite(value) for line in lines for value in line.values() if isinstance(value, float)
    )
    return [line["step"] for line in lines if line["kind"] == "step"]


def test_statistics_that_the_loss_does_not_show_stop_the_run_at_the_next_line(
    recipe, tmp_path, monkeypatch
):
    after_step(monkeypatch, 8, spoil("batch_stats", "bn_conv2", "moving_var", np.inf))
    message = (
        r"batch_stats/bn_conv2/moving_var is not finite at step 9, learning rate 0.01; the "
        r"last good checkpoint is step 6. Try a lower"
    )
    with pytest.raises(ValueError, match=message):
        loop.run(recipe, tmp_path / "w")
    assert Checkpoints(tmp_path / "w" / "checkpoints").steps() == [6]
    assert steps_written(tmp_path / "w") == [3, 6] and len(read_metrics(tmp_path / "w")) == 1


@pytest.mark.parametrize(("step", "checkpoints", "last"), [(6, [], "none"), (11, [6], "step 6")])
def test_parameters_that_the_last_step_of_an_epoch_spoils_are_not_saved(
    recipe, tmp_path, monkeypatch, step, checkpoints, last
):
    after_step(monkeypatch, step, spoil("params", "fc1", "kernel", np.nan))
    message = (
        rf"params/fc1/kernel is not finite at step {step}, learning rate 0.01; the last "
        rf"good checkpoint is {last}. Try a lower"
    )
    with pytest.raises(ValueError, match=message):
        loop.run(recipe, tmp_path / "w")
    assert Checkpoints(tmp_path / "w" / "checkpoints").steps() == checkpoints
    assert len(read_metrics(tmp_path / "w")) == len(checkpoints)


def test_a_state_that_is_spoilt_when_a_signal_comes_is_not_saved_either(
    recipe, tmp_path, monkeypatch
):
    def act(run):
        spoil("params", "conv_conv1", "bias", -np.inf)(run)
        os.kill(os.getpid(), signal.SIGTERM)
        while not run.interruption:  # the thread that reads signals needs a moment
            pass

    after_step(monkeypatch, 8, act)
    with pytest.raises(
        ValueError,
        match=r"params/conv_conv1/bias is not finite at step 8, .* the last good checkpoint is "
        r"step 6",
    ):
        loop.run(recipe, tmp_path / "w")
    assert Checkpoints(tmp_path / "w" / "checkpoints").steps() == [6]


# ------------------------------------------------------------------------------------------- micro-


@pytest.mark.slow
def test_a_run_in_micro_batches_goes_on_bit_exact_and_counts_updates(
    recipe, tmp_path, monkeypatch, capsys
):
    recipe.devices, recipe.accumulate_steps, recipe.reduce_dtype = 2, 2, "bfloat16"
    recipe.model.sync_bn = True
    loop.run(recipe, tmp_path / "whole")
    assert "batch 8 = 2 x 2 x 2" in capsys.readouterr().out
    row = read_metrics(tmp_path / "whole")[0]
    assert (
        row["step"] == "6" and round(float(row["train_top5"]) * 48) == 48
    )  # all images counted: of four classes, five are always right
    with monkeypatch.context() as stopping, pytest.raises(interruption.Interrupted):
        after_step(stopping, 8, lambda run: os.kill(os.getpid(), signal.SIGTERM))
        loop.run(recipe, tmp_path / "w")
    shutil.copytree(tmp_path / "w", tmp_path / "other")
    loop.run(recipe, tmp_path / "w")
    one, other = (load_checkpoint(tmp_path / name).checkpoint for name in ("whole", "w"))
    assert one.step == other.step == 11 and one.meta["digests"] == other.meta["digests"]
    recipe.accumulate_steps, recipe.reduce_dtype = 1, "float32"
    capsys.readouterr()
    loop.run(recipe, tmp_path / "other")
    out = capsys.readouterr().out
    assert "config.accumulate_steps was 2 and is 1: not bit for bit the same run" in out
    assert "config.reduce_dtype was 'bfloat16' and is 'float32'" in out


def test_a_batch_that_does_not_divide_into_micro_batches_of_a_step(recipe, tmp_path):
    recipe.accumulate_steps = 3
    message = (
        r"batch_size 8 is not divisible by 4 devices x 3 accumulate_steps. Use a multiple, "
        r"for example --config.batch_size=12"
    )
    with pytest.raises(ValueError, match=message):
        loop.run(recipe, tmp_path / "w")
