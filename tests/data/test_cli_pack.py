"""The command `i21k pack`: its output, its exit codes, signals."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from i21k import cli
from i21k.labels import ClassList
from tests.helpers.packing import CLASS_IDS, content_of, encoded, tar_of


@pytest.fixture
def interruptible() -> Iterator[None]:
    """What is started hears SIGINT, even where a shell has started the tests in the background and
    thus switched it off."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(
    ("number", "code", "after_s"),  # while workers start, or while they work
    [
        (signal.SIGINT, 130, 0.0),
        (signal.SIGINT, 130, 0.3),
        (signal.SIGTERM, 143, 0.0),
        (signal.SIGKILL, -9, 0.7),
    ],
)
def test_signals_end_workers_and_clean_up(
    tmp_path: Path, number: int, code: int, after_s: float
) -> None:
    source, out = tmp_path / "slow.tar", tmp_path / "new" / "out"
    slow = encoded(Image.new("RGB", (6000, 6000)), "PNG")  # small, but the decoder is busy for long
    source.write_bytes(tar_of({"n00000001.tar": tar_of({f"{i}.png": slow for i in range(12)})}))
    command = [
        sys.executable,
        "-m",
        "i21k",
        "pack",
        str(source),
        "--out",
        str(out),
        "--workers",
        "2",
    ]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    while not (out / ".packing").exists() and process.poll() is None:
        time.sleep(0.01)
    time.sleep(after_s)
    (process.kill if number == signal.SIGKILL else lambda: os.killpg(process.pid, number))()
    _, errors = process.communicate(
        timeout=30
    )  # returns when the last process that can write to the pipe has ended, workers too
    assert process.returncode == code, errors
    if number != signal.SIGKILL:
        assert "Traceback" not in errors, errors
        assert not out.parent.exists()


def test_command_prints_a_summary(
    whole_tar: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classes = tmp_path / "classes.txt"
    ClassList(CLASS_IDS[:2]).write(classes)
    assert (
        cli.main(
            [
                "pack",
                str(whole_tar),
                "--out",
                str(tmp_path / "out"),
                "--workers",
                "1",
                "--classes",
                str(classes),
            ]
        )
        == 0
    )
    printed = capsys.readouterr().out
    assert "split train: 12 images of 2 classes" in printed
    assert "skipped 6: class not in the list" in printed
    again = [
        "pack",
        str(whole_tar),
        "--out",
        str(tmp_path / "again"),
        "--workers",
        "1",
        "--classes",
        str(tmp_path / "out"),
    ]
    assert cli.main(again) == 0  # the classes of a dataset
    assert "split train: 12 images of 2 classes" in capsys.readouterr().out


def test_command_explains_errors(
    whole_tar: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["pack", str(tmp_path / "none"), "--out", str(tmp_path / "out"), "--json"]) == 2
    assert capsys.readouterr().err.startswith("error: Source ")
    assert (
        cli.main(["pack", str(whole_tar), "--out", str(tmp_path / "out"), "--classes", "fall12"])
        == 2
    )
    assert "no class list is named 'fall12'. Use one of fall11" in capsys.readouterr().err


def test_split_is_added_and_reads_by_tfds_without_tensorflow(
    whole_tar: Path, class_folders: Path, tmp_path: Path
) -> None:
    subset = class_folders / CLASS_IDS[1]
    (tmp_path / "subset").mkdir()
    subset.rename(tmp_path / "subset" / CLASS_IDS[1])
    code = """if True:
        import sys
        from i21k import cli
        whole, subset, out = sys.argv[1:]
        assert cli.main(["pack", whole, "--out", out, "--workers", "1", "--json"]) == 0
        val = ["--split", "val", "--workers", "1", "--json"]
        assert cli.main(["pack", subset, "--out", out, *val]) == 0
        assert not {"jax", "tensorflow"} & set(sys.modules), "packing needs neither"
        import tensorflow_datasets as tfds
        builder = tfds.builder_from_directory(out)
        sizes = {name: split.num_examples for name, split in builder.info.splits.items()}
        assert sizes == {"train": 18, "val": 6}
        assert {example["label"] for example in builder.as_data_source("val")} == {1}
        assert builder.info.features["label"].names == ["n00000001", "n00000002", "n00000003"]
        assert "tensorflow" not in sys.modules
    """
    arguments = [str(whole_tar), str(tmp_path / "subset"), str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        check=True,
        timeout=60,
        capture_output=True,
        text=True,
    )
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    assert [list(report["splits"]) for report in reports] == [["train"], ["val"]]
    assert reports[1]["num_classes"] == 3


@pytest.mark.parametrize("overwrite", [True, False])
def test_stopped_while_the_source_is_recognised(
    tmp_path: Path,
    overwrite: bool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing has begun then, so the message speaks of no resuming and the dataset is there."""
    source = tmp_path / "s.tar"
    source.write_bytes(
        tar_of({"n00000001.tar": tar_of({"1.jpg": encoded(Image.new("L", (9, 9)))})})
    )
    command = ["pack", str(source), "--out", str(tmp_path / "out"), "--workers", "1"]
    assert cli.main(command) == 0
    before = content_of(tmp_path / "out")
    capsys.readouterr()
    again = [*command, *(["--overwrite"] if overwrite else [])]

    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("i21k.data.pack.pack.recognise", stop)
        assert cli.main(again) == 130
    errors = capsys.readouterr().err
    assert "Give the same command again" in errors and "resumes" not in errors
    assert content_of(tmp_path / "out") == before

    other = [*again[:3], str(tmp_path / "out"), *again[4:], "--short-side", "8", "--overwrite"]
    with monkeypatch.context() as patch:
        patch.setattr("i21k.data.pack.plan.make", stop)
        assert cli.main(other) == 130
    assert "The same command without --overwrite resumes from here" in capsys.readouterr().err
