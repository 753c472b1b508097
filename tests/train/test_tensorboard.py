"""Event files that TensorBoard reads, written to disks that fail."""

import os
import struct
import subprocess
import sys
import time

from tensorboardX.event_file_writer import event_pb2
from tensorboardX.record_writer import masked_crc32c

from i21k.train import tensorboard
from i21k.train.tensorboard import TensorBoard
from tests.helpers.paths import ROOT


def events(directory):
    found = []
    for path in sorted(directory.iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            body = data[12 : 12 + length]
            assert struct.unpack("<I", data[8:12])[0] == masked_crc32c(data[:8])
            assert struct.unpack("<I", data[12 + length : 16 + length])[0] == masked_crc32c(body)
            found.append(event_pb2.Event.FromString(body))
            data = data[16 + length :]
    return found


def scalars(directory):
    return [
        (event.step, value.tag, value.simple_value)
        for event in events(directory)
        for value in event.summary.value
    ]


def test_what_is_written_can_be_read(tmp_path):
    writer = TensorBoard(str(tmp_path / "t"), purge_step=3)
    writer.add_scalar("loss", 0.5, 4)
    writer.add_text("recipe", "text")
    writer.close()
    first, version, start, _scalar, text = events(tmp_path / "t")
    assert first.file_version == version.file_version == "brain.Event:2"
    assert start.session_log.status == 1 and start.step == version.step == 3
    assert scalars(tmp_path / "t")[0] == (4, "loss", 0.5) and text.summary.value[0].tag


def test_a_directory_that_cannot_be_written_is_named_once_and_tried_again(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(tensorboard, "_RETRY_S", 0.05)
    (tmp_path / "t").write_text("a file")
    writer = TensorBoard(str(tmp_path / "t"))
    for step in range(3):
        writer.add_scalar("loss", 0.5, step)
    time.sleep(0.3)
    (tmp_path / "t").unlink()
    writer.close()
    assert [step for step, *_ in scalars(tmp_path / "t")] == [0, 1, 2]
    assert capsys.readouterr().err.count("cannot be written (File exists). The run continues") == 1


def test_a_disk_that_is_full_for_a_while_leaves_whole_records(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tensorboard, "_RETRY_S", 0.05)
    write, room = os.write, [150]

    def full(descriptor, data):
        part = bytes(data)[: room[0]]
        room[0] -= len(part)
        if not part:
            raise OSError(28, "No space left on device")
        return write(descriptor, part)

    monkeypatch.setattr(os, "write", full)
    writer = TensorBoard(str(tmp_path / "t"))
    for step in range(30):
        writer.add_scalar("loss", 0.5, step)
    time.sleep(0.3)
    assert [step for step, *_ in scalars(tmp_path / "t")] == [0, 1]
    room[0] = 10**6
    writer.close()
    assert [step for step, *_ in scalars(tmp_path / "t")] == list(range(30))
    assert capsys.readouterr().err.count("No space left on device") == 1


def test_a_disk_that_hangs_keeps_nobody(tmp_path, monkeypatch):
    monkeypatch.setattr(tensorboard, "_MOST_EVENTS", 5)
    monkeypatch.setattr(tensorboard, "_CLOSE_S", 0.2)
    monkeypatch.setattr(tensorboard, "_record", lambda data: time.sleep(600))
    started = time.monotonic()
    writer = TensorBoard(str(tmp_path / "t"))
    for step in range(100):
        writer.add_scalar("loss", 0.5, step)
    writer.close()
    assert time.monotonic() - started < 5


def test_no_shared_memory_is_needed(tmp_path):
    code = f"""if True:
        import multiprocessing.synchronize, _multiprocessing
        def refuse(*_): raise OSError(28, "No space left on device")
        _multiprocessing.SemLock = refuse
        from i21k.train.tensorboard import TensorBoard
        writer = TensorBoard({str(tmp_path / "t")!r})
        writer.add_scalar("loss", 0.5, 1)
        writer.close()
    """
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    assert scalars(tmp_path / "t") == [(1, "loss", 0.5)]
