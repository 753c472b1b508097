import errno
import io
import json
import os
import pathlib
import time
from unittest import mock

import pytest
import rich.console

from i21k.errors import UserError
from i21k.train.clock import Clock
from i21k.train.report import Report, duration, read_metrics, step_line
from tests.helpers.runs import row

VAL = ("val_loss", "val_top1", "val_top5", "val_top20")


def test_rows_after_the_restored_step_are_dropped(tmp_path, capsys):
    with Report(tmp_path, 0, 30) as report:
        for epoch in (1, 2, 3):
            report.step({"step": 10 * epoch - 5, "epoch": epoch, "loss": 1.0}, f"line {epoch}")
            report.epoch(row(epoch, 10 * epoch))
    assert (tmp_path / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "st')  # cut off
    before = (tmp_path / "metrics.csv").read_text().splitlines()
    with Report(tmp_path, 20, 30) as report:
        assert report.row_of(20) is not None and report.row_of(30) is None
    assert (tmp_path / "metrics.csv").read_text().splitlines() == before[:3]
    assert [
        json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
    ] == [5, 10, 15, 20]
    assert "line 1" in capsys.readouterr().out


def test_the_columns_follow_from_the_evaluations(tmp_path):
    with Report(tmp_path, 0, 10, [*VAL, "ilsvrc_top1"]) as report:
        report.epoch(row(1, 10) | {"ilsvrc_top1": 0.125})
    head, line = (tmp_path / "metrics.csv").read_text().splitlines()
    assert head == (
        "epoch,step,lr,train_loss,train_top1,train_top5,"
        "val_loss,val_top1,val_top5,val_top20,ilsvrc_top1,"
        "images_per_s,data_wait_fraction,train_s"
    )
    assert line == "1,10,0.05,2.5,0.25,0.5,,,,,0.125,100.0,,"
    assert read_metrics(tmp_path)[0]["val_top1"] == ""


def test_columns_of_earlier_evaluations_stay(tmp_path):
    """Version one wrote empty columns for a second set that nobody had given; these go."""
    (tmp_path / "metrics.csv").write_text(
        "epoch,step,train_loss,val_top1,second_top1,second_top5\n1,10,2.5,0.5,0.25,\n"
    )
    with Report(tmp_path, 10, 20, VAL) as report:
        report.epoch(row(2, 20) | {"val_top1": 0.75})
    first, second = read_metrics(tmp_path)
    assert (first["val_top1"], first["second_top1"], first["lr"]) == ("0.5", "0.25", "")
    assert (second["val_top1"], second["second_top1"], second["lr"]) == ("0.75", "", "0.05")
    assert "second_top5" not in first


def test_a_disk_that_is_full_for_a_while_ends_nothing_and_loses_no_record(
    tmp_path, monkeypatch, capsys
):
    with Report(tmp_path, 0, 30) as report:
        report.step({"step": 5, "epoch": 1, "loss": 1.0}, "line")
        with monkeypatch.context() as full:
            refuse = OSError(errno.ENOSPC, "No space left on device")
            full.setattr(os, "fsync", mock.Mock(side_effect=refuse))
            full.setattr(pathlib.Path, "open", mock.Mock(side_effect=refuse))
            report.epoch(row(1, 10))
            report.step({"step": 15, "epoch": 2, "loss": 1.0}, "line")
        report.epoch(row(2, 20))
    said = capsys.readouterr().err
    for name in ("metrics.jsonl", "metrics.csv"):
        assert said.count(f"{name} cannot be written (No space left on device). The run") == 1
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [5, 10, 15, 20]
    assert [line["step"] for line in read_metrics(tmp_path)] == ["10", "20"]


def test_damaged_metrics_are_named(tmp_path):
    for damaged in ("1,ten,", "1,10", "1,10,,4"):
        (tmp_path / "metrics.csv").write_text(f"epoch,step,lr\n{damaged}\n")
        with pytest.raises(UserError, match=r"line 2 of .*metrics.csv is not a row of metrics. R"):
            Report(tmp_path, 0, 10)


def test_a_narrow_terminal_shows_the_whole_line(tmp_path):
    out = io.StringIO()
    console = rich.console.Console(file=out, force_terminal=True, width=80)
    with Report(tmp_path, 0, 10, (), console) as report:
        report.step(
            {"step": 5, "epoch": 1, "loss": 1.0},
            "epoch 1/2 | " + "x" * 100 + " | eta 1d09h | input-bound",
        )
    assert "input-bound" in out.getvalue()


def test_the_step_line():
    numbers = {
        "epoch": 4,
        "epochs": 40,
        "step": 100_140,
        "num_steps": 965_520,
        "means": {"loss": 6.2141, "top1": 0.123},
        "lr": 0.045,
    }
    line = step_line(**numbers, images_per_s=3680.2, step_s=0.139, wait_s=0.003)
    assert line == (
        "epoch 5/40 | step 100,140/965,520 10.4% | loss 6.214 | top1 12.3% | lr 0.0450 | 3,680 "
        "img/s | step 139 ms (data 3 ms) | eta 1d09h"
    )
    assert step_line(**numbers, images_per_s=3680.2, step_s=0.139, wait_s=0.01).endswith(
        "| input-bound"
    )


def test_durations():
    assert [duration(s) for s in (12.4, 200, 7500, 118800)] == ["12s", "3m20s", "2h05m", "1d09h"]


def test_the_clock_counts_training_alone():
    clock = Clock()
    clock.lap(64, 1.0)  # not started: a compilation
    assert (clock.train_s, clock.images) == (0, 0)
    clock.lap(64, 0.0)
    assert (clock.images, clock.steps, clock.wait_s) == (64, 1, 0) and 0 < clock.train_s < 1
    time.sleep(0.05)
    clock.settle()  # the step that was started last has ended
    assert clock.train_s >= 0.05 and (clock.images, clock.steps) == (64, 1)
    following = clock.next()
    time.sleep(0.05)  # belongs to the next lap, not to nobody
    following.lap(64, 0.0)
    assert 0.05 <= following.train_s < 1 and following.steps == 1
    other = Clock()
    other.restore(clock.state())
    assert other.state() == clock.state()
