"""The command `i21k`: what it imports, its exit codes, and which errors keep a traceback."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from i21k import cli, log
from i21k.checkpoints import Checkpoints
from i21k.cli import arguments, info, verify
from i21k.errors import UserError
from tests.helpers.paths import FIXTURES, ROOT

HEAVY = {"jax", "numpy", "tensorflow_datasets", "orbax", "grain", "PIL", "cv2", "rich", "absl"}


def run(*arguments: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        **options,
    )


def test_help_imports_nothing_heavy():
    done = run("-X", "importtime", "-m", "i21k", "--help")
    assert done.returncode == 0 and "Evaluate a checkpoint on a dataset split." in done.stdout
    assert "exit codes: 0 fine, 1 something failed, 2 user error" in done.stdout
    imported = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "i21k" in imported and "argparse" in imported  # so it measures
    assert imported & HEAVY == set()


@pytest.mark.parametrize("command", cli._COMMANDS)
def test_every_command_has_a_help_text_and_the_exit_codes(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main([command, "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert cli._COMMANDS[command].HELP in shown and "2 user error" in shown
    assert "picture" not in shown and "left out" not in shown


@pytest.mark.parametrize(
    ("typed", "named"),
    [
        (["pack", "images", "--out="], "--out"),
        (["pack", "images", "--out", ""], "--out"),
        (["info", ""], "an argument"),
        (["predict", "--checkpoint", "", "a.jpg"], "--checkpoint"),
    ],
)
def test_an_empty_argument_is_not_the_present_directory(typed, named, capsys):
    assert cli.main(typed) == 2
    assert capsys.readouterr().err == f"error: {named} is empty. Give a value.\n"


def test_the_defaults_of_pack_are_those_of_its_options(monkeypatch, tmp_path):
    from i21k.data.pack import pack

    called = {}

    def fake(**arguments):
        called.update(arguments)
        raise UserError("stopped here")

    monkeypatch.setattr(pack, "pack", fake)
    assert cli.main(["pack", str(tmp_path), "--out", str(tmp_path / "out"), "--json"]) == 2
    assert called["options"] == pack.PackOptions()
    assert called["beam_options"] is None


def test_the_rate_of_a_packing_that_resumes_counts_what_it_did_itself(monkeypatch, capsys):
    from i21k.data.pack.pack import Progress

    now = 0.0
    monkeypatch.setattr(log.time, "monotonic", lambda: now)
    with arguments.shown_progress(quiet=False) as show:
        for phase, at_s, num_mb in (
            ("reading", 0, 800),
            ("reading", 10, 850),
            ("reading", 20, 900),
            ("planning", 21, 0),
            ("planning", 31, 500),
        ):
            now = float(at_s)
            show(Progress(phase, num_mb * 10**6, 1000 * 10**6, num_mb))
    assert capsys.readouterr().err.splitlines() == [
        "reading 85.0% | 850/1,000 MB | 5.0 MB/s | eta 0:00:30 | 850 images",
        "reading 90.0% | 900/1,000 MB | 5.0 MB/s | eta 0:00:20 | 900 images",
        "planning 50.0% | 500/1,000 MB | 50.0 MB/s | eta 0:00:10 | 500 images",
    ]


def test_summary_of_a_recipe_and_of_a_file_that_is_missing(capsys):
    classes = ["--num-classes", "10"]
    recipe = str(ROOT / "configs" / "quickstart.py")
    assert cli.main(["summary", "--config", recipe, *classes]) == 0
    assert "GFLOPs forward" in capsys.readouterr().out
    assert cli.main(["summary", "--config", "configs/gone.py", *classes]) == 2
    assert "there is no config configs/gone.py. Give" in capsys.readouterr().err


def test_a_user_error_is_one_line_and_exit_code_2(monkeypatch, capsys):
    def fail(_):
        raise UserError("size is 3 and there are 2. Give 2.")

    monkeypatch.setattr(info, "run", fail)
    assert cli.main(["info", "x"]) == 2
    assert capsys.readouterr().err == "error: size is 3 and there are 2. Give 2.\n"


@pytest.mark.parametrize(
    "error", [ValueError("a bug"), KeyError("bug"), ConnectionResetError(104, "reset")]
)
def test_a_bug_keeps_its_traceback(monkeypatch, error):
    def fail(_):
        raise error

    monkeypatch.setattr(verify, "run", fail)
    with pytest.raises(type(error)):
        cli.main(["verify", "x"])


def test_a_bug_of_a_process_shows_a_traceback_and_exit_code_1():
    code = """if True:
        import sys
        from i21k import cli, log
        def fail(_):
            raise ValueError("a bug")
        cli.info.run = fail
        sys.exit(cli.main(["info", "x"]))
    """
    done = run("-c", code)
    assert done.returncode == 1
    assert "Traceback" in done.stderr and done.stderr.endswith("ValueError: a bug\n")


def test_a_missing_file_of_the_user_is_exit_code_2(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(info, "run", lambda _: (tmp_path / "gone").read_text())
    assert cli.main(["info", "x"]) == 2
    assert "gone" in capsys.readouterr().err


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_gives_128_and_its_number(signum):
    code = f"""if True:
        import os, signal, sys, time
        from i21k import cli, log
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have ignored it
        def stop(_):
            os.kill(os.getpid(), {int(signum)})
            time.sleep(10)
        cli.info.run = stop
        sys.exit(cli.main(["info", "x"]))
    """
    assert run("-c", code).returncode == 128 + signum


def test_a_reader_that_ends_early_is_no_error():
    code = """if True:
        import sys
        from i21k import cli, log
        def print_much(_):
            for _ in range(100_000):
                log.info("line")
            return 0
        cli.info.run = print_much
        sys.exit(cli.main(["info", "x"]))
    """
    script = f"{sys.executable} -c '{code}' | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", script],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 128 + signal.SIGPIPE
    assert done.stdout == "line\n" and done.stderr == ""


@pytest.fixture(scope="module")
def damaged(tmp_path_factory) -> Path:
    """A run of version one whose newest checkpoint is damaged, and its dataset."""
    import json
    import tarfile

    directory = tmp_path_factory.mktemp("damaged")
    with tarfile.open(FIXTURES / "version1.tar.xz") as tar:
        tar.extractall(directory, filter="data")
    run_directory = next(path.parent for path in directory.rglob("checkpoints"))
    checkpoints = Checkpoints(run_directory / "checkpoints")
    newest = checkpoints.newest()
    meta = {k: v for k, v in newest.meta.items() if k not in ("digests", "meta_digest")}
    checkpoints.save(newest.step + 1, newest.tree, {**meta, "step": newest.step + 1})
    path = run_directory / "checkpoints" / str(newest.step + 1) / "meta" / "metadata"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"meta_digest": "0"}))
    return run_directory


def test_evaluate_and_predict_name_a_damaged_checkpoint(damaged, tmp_path):
    from PIL import Image

    Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    data = next(path.parent for path in damaged.parent.rglob("dataset_info.json"))
    before = damaged / "checkpoints"
    newest = max(before.iterdir(), key=lambda path: int(path.name) if path.name.isdigit() else -1)
    told = f"warning: checkpoint {newest} is damaged (metadata: its SHA-256 differs)."
    for command in (
        ["evaluate", "--data", str(data), "--batch-size", "4"],
        ["predict", str(tmp_path / "red.png"), "--view", "top"],
        ["predict", "--data", str(data), "--split", "val", "--num", "2"],
    ):
        done = run("-m", "i21k", *command, "--checkpoint", str(damaged))
        assert done.returncode == 0, done.stderr
        assert told in done.stderr and done.stdout
        assert ("(truth: " in done.stdout) == ("--num" in command)
        assert "orbax" not in done.stderr and "absl" not in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        "info data --html",
        "info data --contact-sheet",
        "predict --checkpoint run image.jpg --png",
        "search --features x.npz image.jpg --png",
        "probe --features x.npz --confusion",
        "evaluate --checkpoint run --data data --per-class",
        "report run --out",
    ],
)
def test_a_folder_that_is_missing_is_named_before_the_work(tmp_path, capsys, command):
    assert cli.main([*command.split(), str(tmp_path / "gone" / "out.png")]) == 2
    assert f"there is no directory {tmp_path / 'gone'} for out.png. Make it" in (
        capsys.readouterr().err
    )
