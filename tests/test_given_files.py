"""Pipes and devices in the place of a file never keep a command or take its memory."""

import os
import signal
from pathlib import Path

import pytest

from i21k import files, table_files, trained
from i21k.data.sources.tables import read_lines
from i21k.errors import UserError
from i21k.evaluation import priors
from i21k.evaluation.features import load_features
from i21k.evaluation.real import read_real
from i21k.evaluation.report.write import write_report
from i21k.interop.mxnet.params import read_params
from i21k.interop.mxnet.read_symbol import read_symbol
from i21k.labels import ClassList
from i21k.trained import onnx_file
from i21k.trained.preprocessing import read_contract

CLASSES = ClassList(("n01440764", "n01443537"))
READERS = {
    "classes.txt": ClassList.read,
    "labels.csv": read_lines,
    "prior.txt": lambda path: priors._read_counts(path, CLASSES),
    "real.json": read_real,
    "preprocessing.json": read_contract,
    "Inception-symbol.json": read_symbol,
    "Inception-0000.params": read_params,
    "features.npz": load_features,
    "features.parquet": load_features,
    "table.csv": lambda path: table_files.read(path, {"truth": str}),
    "table.parquet": lambda path: table_files.read(path, {"truth": str}),
    "model.onnx": onnx_file.read,
    "run": lambda path: write_report([path], path.with_name("x.html"), load=trained.load),
}


@pytest.fixture
def soon():
    """Fail after some seconds, because a fault of this kind waits for ever."""

    def fail(*_):
        raise AssertionError("it still waits, or reads")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
@pytest.mark.parametrize("name", READERS)
def test_what_is_no_file_is_refused(tmp_path, soon, name, kind):
    if name == "model.onnx":
        pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    path = tmp_path / name
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    with pytest.raises(UserError) as refused:
        READERS[name](path)
    assert str(path) in str(refused.value)


def test_a_pipe_with_a_writer_is_read(soon):
    """As `--classes <(cut -f 1 table.tsv)` makes it."""
    source, sink = os.pipe()
    try:
        os.write(sink, b"n01440764\nn01443537\n")
        os.close(sink)
        assert ClassList.read(f"/dev/fd/{source}") == CLASSES
        with pytest.raises(UserError, match="a pipe from which nothing comes"):
            files.read_given(Path(f"/dev/fd/{source}"))
    finally:
        os.close(source)
