"""What the program prints: where it goes, and that other loggers keep their levels."""

import fcntl
import io
import logging
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

from i21k import log
from i21k.errors import Stopped, UserError
from i21k.text import printable, wrapped

WIDTH = 80


def run_on_a_terminal(code: str) -> str:
    """Return what a program prints to a terminal of 80 columns on its standard error output."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, WIDTH, 0, 0))
    environ = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR")}
    running = subprocess.Popen(
        [sys.executable, "-c", code],
        stderr=slave,
        stdout=subprocess.PIPE,
        text=True,
        env=environ | {"TERM": "xterm"},
    )
    os.close(slave)
    out, _ = running.communicate(timeout=60)
    shown = b""
    try:
        while part := os.read(master, 65536):
            shown += part
    except OSError:  # the end, on Linux
        pass
    os.close(master)
    assert running.returncode == 0
    return out + "\n--\n" + shown.decode()


def test_a_bar_fits_a_terminal_of_80_columns():
    code = """
import time
from i21k import closed_output, log
from i21k.errors import Stopped, UserError
with log.progress("read and recode", 14_197_122) as bar:
    for done in range(0, 14_197_123, 1_419_712):
        bar.update(done, "1,234,567,890 MB")
        time.sleep(0.03)
    log.info("a result")
    log.warning("a [bold]warning[/bold]")
"""
    out, shown = run_on_a_terminal(code).split("\n--\n")
    assert out == "a result\n"  # a pipe gets what is printed, also while a bar is drawn
    assert "warning: a [bold]warning[/bold]" in shown
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    lines = [line for line in re.split(r"[\r\n]+", plain) if "read" in line]
    assert lines and all(len(line) <= WIDTH for line in lines)
    assert re.search(r"/14,197,122 images [\d,]+/s eta 0:00:\d\d", lines[-1])


def test_lines_elsewhere_have_rate_and_remaining_time(capsys, monkeypatch):
    now = 0.0
    monkeypatch.setattr(log.time, "monotonic", lambda: now)
    with log.progress("read", 1000) as progress:
        for done in range(0, 1000, 100):
            now += 4.0
            progress.update(done, "12 classes")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3  # of 40 s
    assert lines[-1].startswith("read ") and "/1,000 images | " in lines[-1]
    assert re.search(r"\d/s \| eta 0:0\d:\d\d \| 12 classes$", lines[-1])
    assert all(len(line) < WIDTH for line in lines)


def test_the_rate_counts_from_the_first_update(capsys, monkeypatch):
    now = 0.0
    monkeypatch.setattr(log.time, "monotonic", lambda: now)
    with log.progress("read", 2_000_000, "bytes") as progress:
        now = 5.0
        progress.update(1_000_000)
        now = 15.0
        progress.update(1_500_000)
    assert capsys.readouterr().err == "read 75.0% | 2/2 MB | 0.1 MB/s | eta 0:00:10\n"


def test_the_rate_leaves_out_the_first_piece_which_compiles(capsys, monkeypatch):
    now = 0.0
    monkeypatch.setattr(log.time, "monotonic", lambda: now)
    with log.progress("predict", 100) as progress:
        now = 60.0
        for _ in range(4):
            progress.advance(10)
            now += 5.0
    assert capsys.readouterr().err.splitlines() == [
        "predict 10.0% | 10/100 images | eta ?",
        "predict 30.0% | 30/100 images | 2/s | eta 0:00:35",
    ]


def test_only_process_0_prints_information_and_progress(capsys, monkeypatch):
    monkeypatch.setattr(log, "_LINE_EVERY_S", 0.0)
    monkeypatch.setattr(log, "_rank", 0)
    for rank in (0, 1):
        log.set_rank(rank)
        log.info("started")
        log.warning("low disk")
        with log.progress("read", 2) as progress:
            progress.advance()
        out, err = capsys.readouterr()
        if rank == 0:
            assert out == "started\n" and err.startswith(
                "warning: low disk\nread 50.0% | 1/2 images"
            )
        else:
            assert out == "" and err == "warning: process 1: low disk\n"


def test_tee_writes_everything_with_its_time(tmp_path, capsys):
    log.info("before")
    with log.tee(tmp_path / "log.txt"):
        log.info("one\ntwo")
        log.warning("three")
    log.info("after")
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert [line[20:] for line in lines] == ["one", "two", "warning: three"]
    assert all(line[:2] == "20" and line[10] == " " for line in lines)


def test_libraries_are_silenced_by_name_and_the_root_logger_keeps_its_level(monkeypatch):
    root = logging.getLogger()
    before = root.level
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    root.addHandler(handler)
    try:
        with pytest.MonkeyPatch.context():
            levels = {name: logging.getLogger(name).level for name in ("absl", "orbax")}
            log.quiet_libraries()
            logging.getLogger("absl").warning("forty lines")
            logging.getLogger("of.a.caller").warning("their own")
    finally:
        root.removeHandler(handler)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
    assert root.level == before
    assert stream.getvalue() == "their own\n"


def test_tee_writes_the_error_that_ends_the_block(tmp_path):
    with pytest.raises(UserError), log.tee(tmp_path / "log.txt"):
        raise UserError("refused at once")
    assert not (tmp_path / "log.txt").exists()
    with pytest.raises(UserError), log.tee(tmp_path / "log.txt"):
        log.info("a line")
        raise UserError("epochs is 0. Use at least 1.")
    with pytest.raises(KeyError), log.tee(tmp_path / "log.txt"):
        raise KeyError("bug")
    with pytest.raises(Stopped), log.tee(tmp_path / "log.txt"):
        raise Stopped
    text = (tmp_path / "log.txt").read_text()
    assert " error: epochs is 0. Use at least 1.\n" in text
    assert "Traceback" in text and text.rstrip().endswith("KeyError: 'bug'")


def test_a_log_that_cannot_be_written_is_named_once_and_tried_again(tmp_path, capsys):
    path = tmp_path / "gone" / "log.txt"
    with log.tee(path):
        log.info("one")
        log.info("two")
        path.parent.mkdir()
        log.info("three")
    shown = capsys.readouterr()
    assert shown.out == "one\ntwo\nthree\n"
    assert shown.err.count("log.txt cannot be written (No such file or directory)") == 1
    assert path.read_text().endswith(" three\n")


@pytest.mark.parametrize("redirect", ["| head -1", "2>&1 | head -1", ">&-", ">&- 2>&-"])
def test_nothing_that_is_printed_ends_a_run(redirect, tmp_path):
    code = f"""if True:
        import sys
        from i21k import closed_output, log
        closed_output.survive()
        with log.tee(log.Path({str(tmp_path / "log.txt")!r})):
            for number in range(20_000):
                log.info(f"line {{number}}")
            print("and what others print")
            print("to both", file=sys.stderr)
            log.warning("done")
    """
    script = f"{sys.executable} -c '{code.replace(chr(39), chr(34))}' {redirect}"
    script += "; exit ${PIPESTATUS[0]}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "Error" not in done.stderr, done
    assert (tmp_path / "log.txt").read_text().endswith("warning: done\n")


def test_a_terminal_that_is_gone_ends_nothing(tmp_path):
    """Descriptors of a terminal that was closed fail with another error than those of a pipe."""
    code = """
import sys, time
from i21k import closed_output, log
from i21k.errors import Stopped, UserError
closed_output.survive()
print("ready", flush=True)
sys.stdin.readline()
with log.progress("work", 100) as bar:
    for done in range(100):
        bar.update(done)
        log.info("line")
        time.sleep(0.002)
sys.exit(7)
"""
    master, slave = pty.openpty()
    running = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=slave, stderr=slave, text=True
    )
    os.close(slave)
    assert b"ready" in os.read(master, 100)
    os.close(master)
    running.communicate("go\n", timeout=60)
    assert running.returncode == 7


HOSTILE = "\x1b]0;title\x07\r\x9b1m \u202eabc\udcff é 日本"


def test_control_characters_are_never_printed(capsys, tmp_path):
    with log.tee(tmp_path / "log.txt"):
        for say in (log.info, log.warning, log.error, log.note):
            say(f"{HOSTILE}\n\tsecond line")
    shown = capsys.readouterr()
    expected = r"\x1b]0;title\x07\r\x9b1m \u202eabc\udcff é 日本"
    for text in (shown.out, shown.err, (tmp_path / "log.txt").read_text()):
        assert expected in text and "\n" in text
        assert not set(HOSTILE) & set("\x1b\x07\r\x9b\u202e\udcff") & set(text)
    assert printable("a\nb\tc") == r"a\nb\tc"


def test_a_terminal_that_cannot_write_a_character_gets_an_escape():
    done = subprocess.run(
        [sys.executable, "-c", f"from i21k import log; log.info({HOSTILE!r})"],
        env=os.environ | {"PYTHONIOENCODING": "ascii:strict"},
        capture_output=True,
        text=True,
    )
    assert r"\udcff \xe9 \u65e5\u672c" in done.stdout, done


@pytest.mark.parametrize("num_columns", [80, 200])
def test_lines_on_a_terminal_break_between_words(num_columns):
    master, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, num_columns, 0, 0))
    words = [f"{letter}{'-word' * 3}" for letter in "abcdefghijklmnopqrst"]
    with os.fdopen(terminal, "w") as stream:
        log._print("  ".join(words), stream)
        log._print("resume with: " + "x" * 30 + " y" * 100, stream, False)
        shown = b""
        while shown.count(b"y") < 100:  # a terminal gives what it has in pieces
            shown += os.read(master, 10_000)
    lines = shown.decode().replace("\r", "").splitlines()
    os.close(master)
    *broken, whole = lines
    assert all(len(line) <= num_columns for line in broken) and len(broken) > 20 * 16 // num_columns
    assert " ".join(broken).split() == words
    assert whole.endswith("x" + " y" * 100), "a command that is copied stays one line"


def test_wide_letters_take_two_columns_and_long_words_stay_whole():
    assert wrapped("猫猫猫 猫猫", 8) == "猫猫猫\n  猫猫"
    assert wrapped("a " + "b" * 20, 8) == "a\n  " + "b" * 20
    assert wrapped("  two   spaces\n\nend", 80) == "  two   spaces\n\nend"
    assert wrapped("of no size", 0) == "of no size"
