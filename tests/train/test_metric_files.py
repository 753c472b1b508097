"""The files of metrics after power cuts, damage and old versions."""

import json
import os
import shutil
from pathlib import Path

import pytest

from i21k.errors import UserError
from i21k.evaluation.report.curves import read_curves
from i21k.evaluation.report.run import metrics_table
from i21k.train import metric_files
from i21k.train.metrics import RANKS
from i21k.train.report import FIRST_COLUMNS, LAST_COLUMNS, Report, read_metrics
from tests.helpers.runs import row


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of three epochs and an evaluation inside one."""
    directory = tmp_path_factory.mktemp("made")
    with Report(directory, 0, 30, ["val_top1"]) as report:
        for epoch in (1, 2, 3):
            report.step({"step": 10 * epoch - 5, "epoch": epoch, "loss": 1.0}, "line")
            if epoch == 2:
                report.epoch(row(1, 15) | {"epoch": 1.5})
            report.epoch(row(epoch, 10 * epoch) | {"val_top1": epoch / 7})
    return directory


@pytest.fixture
def workdir(made, tmp_path):
    """Return a copy of it: drawing the learning curve of each takes long."""
    return Path(shutil.copytree(made, tmp_path / "run"))


@pytest.mark.parametrize("content", [b"", b"\0" * 4096, b"\n", None, b"epoch,step\n1,10\n"])
def test_the_table_is_written_again_from_the_records(workdir, content, capsys):
    before = (workdir / "metrics.csv").read_bytes()
    records = (workdir / "metrics.jsonl").read_bytes()
    (workdir / "metrics.csv").unlink()
    if content is not None:
        (workdir / "metrics.csv").write_bytes(content)
    capsys.readouterr()
    with Report(workdir, 30, 30, ["val_top1"]):
        pass
    assert "metrics.csv lacks" in capsys.readouterr().err
    assert (workdir / "metrics.jsonl").read_bytes() == records
    after = (workdir / "metrics.csv").read_bytes()
    assert after.splitlines()[-3:] == before.splitlines()[-3:]
    assert len(after.splitlines()) == len(before.splitlines())


def test_a_damaged_row_is_written_again_or_named(workdir):
    damaged = (workdir / "metrics.csv").read_text().replace("\n3,30", "\n3,thirty")
    (workdir / "metrics.csv").write_text(damaged)
    with pytest.raises(UserError, match=r"line 5 of .*metrics.csv is not a row of metrics"):
        read_metrics(workdir)
    with Report(workdir, 30, 30):
        pass
    assert [line["step"] for line in read_metrics(workdir)] == ["10", "15", "20", "30"]
    (workdir / "metrics.jsonl").unlink()
    (workdir / "metrics.csv").write_text(damaged)
    with pytest.raises(UserError, match="Restore the file"):
        Report(workdir, 30, 30)


BAD = [
    b"[" * 100_000,
    b'{"kind": "step", "step": ' + b"[" * 50_000,
    b'{"kind": "step", "step": Infinity}',
    b'{"kind": "step", "step": 1e999}',
    b'{"kind": "epoch", "step": 30, "epoch": NaN}',
    b'{"kind": "epoch", "step": 30, "epoch": Infinity}',
    b'{"kind": "step", "step": "30"}',
    b'{"kind": "step", "step": true}',
    b'{"kind": "step", "step": -1}',
    b'{"kind": "step", "step": 1, "loss": {}}',
    b'{"kind": 3, "step": 1}',
    b'{"kind": "step", "step": 1, "epoch": ' + b"9" * 400 + b"}",
    b'{"kind": "step", "step": 1, "loss": ' + b"9" * 400 + b', "lr": 1}',
    b'{"kind": "step", "step": 1, "loss": 1, "lr": 1e308}',
    b'{"kind": "step", "step": ' + b"9" * 5000 + b"}",
    b'{"kind": "epoch", "step": 1, "epoch": 1, "val_top1": 1e308}',
    b'{"kind": "epoch", "step": 1, "epoch": 1, "\\ud800_top1": 1}',
    b'{"kind": "epoch", "step": 1, "epoch": 1, "$\\\\frac$_top1": 1}',
    b'{"step": 1}',
    b"[]",
    b"null",
    b"\xff\xfe\0",
    b"\0" * 512,
    b'{"kind": "st',
]


@pytest.mark.parametrize("bad", BAD, ids=range(len(BAD)))
def test_a_bad_line_is_set_aside_and_named(workdir, bad, capsys):
    path = workdir / "metrics.jsonl"
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([lines[0], bad, *lines[1:]]) + b"\n")
    with Report(workdir, 30, 30):
        pass
    assert path.read_bytes().splitlines() == lines
    assert (workdir / "metrics.bad.jsonl").read_bytes() == bad + b"\n"
    assert "1 lines of" in (said := capsys.readouterr().err) and "(line 2)" in said
    with Report(workdir, 30, 30):
        pass
    assert "lines of" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "value", ["thirty", "0\0.5", "1e308", "1" * 200_000, "1,2", '"'], ids=range(6)
)
def test_a_cell_that_is_no_number_is_written_again_or_named(workdir, value):
    """The learning curve draws all cells at the end of an epoch: too late for an error."""
    before = (workdir / "metrics.csv").read_text()
    assert ",0.428571429," in before
    damaged = before.replace(",0.428571429,", f",{value},")
    (workdir / "metrics.csv").write_text(damaged)
    with Report(workdir, 30, 40) as report:
        report.epoch(row(4, 40) | {"val_top1": 0.5})
    assert (workdir / "metrics.csv").read_text().startswith(before)
    (workdir / "metrics.jsonl").unlink()
    (workdir / "metrics.csv").write_text(damaged)
    with pytest.raises(UserError, match="is not a row of metrics"):
        Report(workdir, 30, 40)


@pytest.mark.parametrize("step", ["9" * 5000, "9" * 30, "\u0663"])
def test_a_step_that_is_none_is_named(tmp_path, step):
    (tmp_path / "metrics.csv").write_text(f"epoch,step\n1,{step}\n")
    with pytest.raises(UserError, match="line 2 of .* is not a row of metrics"):
        read_metrics(tmp_path)


@pytest.mark.parametrize("column", ["my notes $\\frac$", "my_note", "lr_note", "My_top1"])
def test_a_column_of_the_user_is_kept(workdir, column):
    path = workdir / "metrics.csv"
    head, *rows = path.read_text().splitlines()
    path.write_text("\n".join([f"{head},{column}", *(f"{r},<good>" for r in rows)]) + "\n")
    with Report(workdir, 30, 40, ["val_top1"]) as report:
        report.epoch(row(4, 40) | {"val_top1": 0.5})
    assert [line[column] for line in read_metrics(workdir)] == ["<good>"] * 4 + [""]
    curves = read_curves(workdir, "run")
    assert curves.sets == ["val"] and "&lt;good&gt;" in metrics_table(curves)


@pytest.mark.parametrize("name", ["val", "many-1", "val_ema"])
def test_the_columns_of_every_evaluation_are_metrics(name):
    of_set = (f"{name}{over}_top{k}" for over in ("", "_over") for k in RANKS)
    columns = [f"{name}_loss", *of_set, *FIRST_COLUMNS, *LAST_COLUMNS]
    assert {column for column in columns if not metric_files.is_metric(column)} == {"epoch", "step"}


def test_a_byte_order_mark_loses_nothing(workdir, capsys):
    path = workdir / "metrics.jsonl"
    before = path.read_bytes()
    path.write_bytes(b"\xef\xbb\xbf" + before)
    table = (workdir / "metrics.csv").read_bytes()
    (workdir / "metrics.csv").write_bytes(b"\xef\xbb\xbf" + table)
    with Report(workdir, 30, 30, ["val_top1"]):
        pass
    assert path.read_bytes() == before and (workdir / "metrics.csv").read_bytes() == table
    assert capsys.readouterr().err == ""


def test_a_row_whose_record_is_whole_is_kept(workdir, monkeypatch):
    """The run was killed between the two writes."""
    monkeypatch.setattr(metric_files.MetricFiles, "write_rows", lambda *_: None)
    with Report(workdir, 30, 40) as report:
        report.epoch(row(4, 40))
    monkeypatch.undo()
    with Report(workdir, 40, 40) as report:
        assert report.row_of(40)["epoch"] == "4"
    assert json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 40


def test_rows_are_on_the_disk_before_a_run_continues(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(
        os, "fsync", lambda fd: synced.append(str(Path(f"/proc/self/fd/{fd}").readlink()))
    )
    with Report(tmp_path, 0, 30) as report:
        synced.clear()
        report.epoch(row(1, 10))
    names = [path.rpartition("/")[2] for path in synced]
    assert "metrics.jsonl" in names and any(name.endswith("metrics.csv") for name in names)
    assert str(tmp_path) in synced  # the name of the file that was replaced
