"""The day on a GPU: what runs the parts, and all parts at small shapes on the CPU."""

import importlib.metadata
import io
import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu_day, gpu_wheels
from benchmarks.gpu_day_parts import driver, memory_plans
from benchmarks.gpu_day_parts.driver import Part
from benchmarks.gpu_day_parts.page import PAGE, RESULTS, Results, tables
from benchmarks.gpu_day_parts.parts import Plan, parts
from tests.helpers.paths import ROOT


def part(name: str, code: str, **options: Any) -> Part:
    options = {"limit_s": 20.0, **options}
    return Part(name, f"part {name}", (sys.executable, "-c", code), **options)


def run(directory: Path, *wanted: Part, seconds: float = 60.0) -> Results:
    results = Results(directory, wanted, "the command")
    driver.run_parts(wanted, seconds, results.add, io.StringIO(), ROOT)
    return results


def endings(results: Results) -> dict[str, str]:
    return {r["part"]: r["end"] for r in results.records if "end" in r}


def test_a_part_that_crashes_keeps_its_results_and_the_next_one_runs(tmp_path: Path) -> None:
    crash = part("crash", "print('{\"x\": 1}', flush=True); raise SystemExit('broken pipe dream')")
    missing = Part("missing", "no such program", ("/no/such/program",), 5.0)
    results = run(tmp_path, crash, missing, part("good", "print('text'); print('{\"y\": 2}')"))
    assert endings(results) == {"crash": "error", "missing": "error", "good": "done"}
    assert results.of("crash") == [{"x": 1}]
    assert results.of("good") == [{"y": 2}]
    assert "broken pipe dream" in (tmp_path / PAGE).read_text()


def test_a_part_that_hangs_is_ended_with_what_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "_GRACE_S", 0.5)
    child = "[sys.executable, '-c', 'import time; time.sleep(600)']"
    code = f"""
import json, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(json.dumps({{"pid": subprocess.Popen({child}).pid}}), flush=True)
time.sleep(600)"""
    start = time.monotonic()
    results = run(tmp_path, part("hang", code, limit_s=1.5), part("next", "print('{}')"))
    assert time.monotonic() - start < 15
    assert endings(results) == {"hang": "time limit", "next": "done"}
    (result,) = results.of("hang")
    deadline = time.monotonic() + 5
    while alive(result["pid"]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(result["pid"])


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_each_result_is_on_disk_before_its_part_ends(tmp_path: Path) -> None:
    flag = tmp_path / "seen"
    code = f"""
import pathlib, time
print('{{"x": 1234}}', flush=True)
while not pathlib.Path({str(flag)!r}).exists():
    time.sleep(0.01)"""
    wanted = (part("slow", code),)
    results = Results(tmp_path, wanted, "the command")

    def record(result: driver.Record) -> None:
        results.add(result)
        if "result" in result:
            lines = (tmp_path / RESULTS).read_text().splitlines()
            assert json.loads(lines[-1])["result"] == {"x": 1234}
            assert "| x | 1,234 |" in (tmp_path / PAGE).read_text()
            flag.touch()

    driver.run_parts(wanted, 60, record, io.StringIO(), ROOT)
    assert endings(results) == {"slow": "done"}


def test_no_part_starts_without_time_or_without_a_gpu(tmp_path: Path) -> None:
    results = run(tmp_path / "late", part("late", "print('{}')"), seconds=driver.LEAST_S / 2)
    assert endings(results) == {"late": "not run"}
    machine = part("machine", "raise SystemExit('no GPU')", essential=True)
    results = run(tmp_path, machine, part("next", "print('{}')"))
    assert endings(results) == {"machine": "error", "next": "not run"}
    assert results.records[-1]["why"] == "part machine gave no result"


def test_results_of_an_earlier_call_stay(tmp_path: Path) -> None:
    first, second = (part(name, "print('{}')") for name in ("first", "second"))
    run(tmp_path, first)
    run(tmp_path, second)
    (old,) = tmp_path.glob(f"until-*-{RESULTS}")
    assert '"first"' in old.read_text()
    assert '"first"' not in (tmp_path / RESULTS).read_text()


def test_neighbours_with_equal_keys_share_a_table() -> None:
    first, second = tables([{"a": 1, "b": "x|y"}, {"a": 2000, "b": ""}, {"c": 0.5}])
    assert first == "| a | b |\n|---|---|\n| 1 | x\\|y |\n| 2,000 |  |"
    assert second == "| what | value |\n|---|---|\n| c | 0.5 |"


def test_predictions_come_from_the_newest_table() -> None:
    step = {"size_px": 224, "dtype": "bfloat16", "remat": "block", "batch": 256, "peak_mib": 1}
    assert 1000 < memory_plans.beside(step)["predicted_peak_mib"] < 3000
    assert memory_plans.beside(step | {"batch": 7}) == {}
    assert memory_plans.beside({"variant": "latency hiding"}) == {}


def test_the_parts_are_programs_of_the_checkout(tmp_path: Path) -> None:
    wanted = parts(Plan(tmp_path, torch_python="pt/bin/python", images=tmp_path))
    names = [p.name for p in wanted]
    assert len(set(names)) == len(names)
    assert {name.split("-")[0] for name in names} == {"machine", *"abcdefg"}
    assert all((ROOT / p.command[1]).is_file() for p in wanted)
    assert all(" python benchmarks/" in f" {p.shown}" for p in wanted)
    assert "--torch-python" in next(p for p in wanted if p.name == "a-torch-compiled").command


def test_parts_find_the_version_of_a_checkout_that_is_not_installed(tmp_path: Path) -> None:
    directory = gpu_day.project_metadata(tmp_path)
    (found,) = importlib.metadata.distributions(name="i21k", path=[str(directory)])
    assert found.version == importlib.metadata.version("i21k")


def test_needs_of_a_wheel_are_those_of_the_other_machine(tmp_path: Path) -> None:
    wheel = tmp_path / "thing-1.0-py3-none-any.whl"
    needs = [
        "one>=2",
        "two; python_version < '3.12'",
        "three; platform_system == 'Windows'",
        "four; extra == 'wanted'",
        "five; extra == 'other'",
    ]
    with zipfile.ZipFile(wheel, "w") as archive:
        lines = ["Name: thing", *(f"Requires-Dist: {need}" for need in needs)]
        archive.writestr("thing-1.0.dist-info/METADATA", "\n".join(lines))
    assert [r.name for r in gpu_wheels.needs_of(wheel, {"wanted"})] == ["one", "four"]


@pytest.mark.slow
@pytest.mark.long
def test_dry_run(tmp_path: Path) -> None:
    start = time.monotonic()
    command = [sys.executable, "benchmarks/gpu_day.py", "--out", str(tmp_path / "out")]
    command += ["--scratch", str(tmp_path / "scratch"), "--minutes", "8", "--dry-run"]
    env = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    print(f"{time.monotonic() - start:.0f} s\n{done.stdout}{done.stderr}")
    assert done.returncode == 0
    records = [json.loads(line) for line in (tmp_path / "out" / RESULTS).read_text().splitlines()]
    ends = {r["part"]: r["end"] for r in records if "end" in r}
    found = {
        part: [r["result"] for r in records if r["part"] == part and "result" in r] for part in ends
    }
    modern = {part: end for part, end in ends.items() if part.startswith("g-")}
    is_there = (ROOT / "configs" / "i21k_modern.py").is_file()
    assert set(modern.values()) == {"done" if is_there else "not run"}
    assert ends.pop("a-torch-eager") in ("done", "not run")  # there may be no PyTorch
    assert {end for part, end in ends.items() if part not in modern} == {"done"}
    assert found["a-bfloat16"][0]["img_per_s"] > 0
    whole, interrupted, resumed = found["b-quickstart"]
    assert whole["exit_code"] == resumed["exit_code"] == 0
    assert interrupted["exit_code"] == interrupted["expected_exit_code"]
    assert resumed["bit_exact"]
    assert {line["what"] for line in found["c-loader"]} == {
        "step alone", "loader and step", "loader alone", "loader and step, one step queued",
    }  # fmt: skip
    assert [line["variant"] for line in found["d-variants"] if "ratio" in line] == [
        "steps in flight", "no command buffers",
    ]  # fmt: skip
    assert len(found["e-profile"]) > 10
    assert found["f-batch-4"][0]["only_folded_img_per_s"] > 0
    page = (tmp_path / "out" / PAGE).read_text()
    assert page.count("\n## ") == len(ends) + 1
