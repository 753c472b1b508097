"""Run the quick start to its end, and again with a SIGTERM in the middle; compare the last states.

    python benchmarks/gpu_day_parts/quickstart.py --scratch DIR [--data DIR] [--epochs N]

Prints a line of JSON for each of three runs: the whole one, the interrupted one, the resumed one.
"""

import argparse
import csv
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
WANTED_TOP1 = 0.85
RECIPE, TINY_RECIPE = "configs/quickstart.py", "benchmarks/gpu_day_parts/tiny_quickstart.py"
PER_CLASS, TINY_PER_CLASS = 200, 2  # images to draw, as the recipes have it


def command(workdir: Path, recipe: Sequence[str]) -> list[str]:
    script = [sys.executable, str(ROOT / "launch.py"), "--workdir", str(workdir)]
    return [*script, "--config", *recipe]


def train(workdir: Path, recipe: Sequence[str]) -> dict[str, Any]:
    """Train to the end."""
    start = time.perf_counter()
    code = subprocess.run(
        command(workdir, recipe), cwd=ROOT, check=False, stdout=sys.stderr
    ).returncode
    result = {"exit_code": code, "seconds": round(time.perf_counter() - start, 1)}
    if code:
        return result
    rows = list(csv.DictReader((workdir / "metrics.csv").open()))
    if top1 := rows[-1].get("val_top1"):
        result |= {"val_top1": round(float(top1), 4), "reached": float(top1) >= WANTED_TOP1}
    return result | {
        "epochs": len(rows),
        "images_per_s": round(float(rows[-1]["images_per_s"])),
        "data_wait_fraction": round(float(rows[-1]["data_wait_fraction"]), 3),
    }


def interrupt(workdir: Path, recipe: Sequence[str]) -> dict[str, Any]:
    """Train, and send SIGTERM after the first epoch."""
    run = subprocess.Popen(
        command(workdir, recipe), cwd=ROOT, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert run.stdout
    sent_at, lines = 0.0, []
    for line in run.stdout:
        sys.stderr.write(line)
        lines.append(line)
        if not sent_at and line.startswith("epoch 1/") and " done " in line:
            run.send_signal(signal.SIGTERM)
            sent_at = time.perf_counter()
    code = run.wait()
    return {
        "exit_code": code,
        "expected_exit_code": 128 + signal.SIGTERM,
        "seconds_to_end": round(time.perf_counter() - sent_at, 1) if sent_at else "no signal sent",
    }


def compare(one: Path, other: Path) -> dict[str, Any]:
    """Return how the newest checkpoints of two runs differ."""
    import numpy as np
    from flax.traverse_util import flatten_dict

    from i21k.checkpoints import Checkpoints

    states = [Checkpoints(workdir / "checkpoints").newest() for workdir in (one, other)]
    assert states[0] and states[1], "a run has no checkpoint"
    a, b = (flatten_dict(state.tree, sep="/") for state in states if state)
    same = {path for path in a if path in b and np.array_equal(a[path], b[path])}
    different = sorted((a.keys() | b.keys()) - same)
    return {
        "steps": [state.step for state in states if state],
        "arrays": len(a),
        "bit_exact": not different,
        "different_arrays": len(different),
        "such_as": different[:3],
    }


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    cli.add_argument(
        "--scratch", type=Path, required=True, help="for the runs; emptied of old ones"
    )
    cli.add_argument("--data", type=Path, help="packed quick start; drawn if it is missing")
    cli.add_argument("--epochs", type=int, help="instead of all of the recipe")
    cli.add_argument(
        "--tiny", action="store_true", help="try this on a small network and few images"
    )
    args = cli.parse_args()
    data = (args.data or args.scratch / "quickstart-data").resolve()
    recipe = [TINY_RECIPE if args.tiny else RECIPE, f"--config.data.directory={data}"]
    # Images are drawn into another directory than the recipe's only if a flag sets their number.
    recipe.append(f"--config.data.synthetic_per_class={TINY_PER_CLASS if args.tiny else PER_CLASS}")
    if args.epochs:
        recipe.append(f"--config.epochs={args.epochs}")
    workdirs = [args.scratch.resolve() / f"quickstart-{name}" for name in ("whole", "resumed")]
    for workdir in workdirs:
        subprocess.run(["rm", "-rf", str(workdir)], check=True)
    whole = train(workdirs[0], recipe)
    print(json.dumps({"run": "whole"} | whole), flush=True)
    if whole["exit_code"]:
        sys.exit("the quick start failed")
    interrupted = interrupt(workdirs[1], recipe)
    print(json.dumps({"run": "interrupted"} | interrupted), flush=True)
    resumed = train(workdirs[1], recipe)
    if resumed["exit_code"] == 0:
        resumed |= compare(*workdirs)
    print(json.dumps({"run": "resumed"} | resumed))
    if resumed["exit_code"] or interrupted["exit_code"] != interrupted["expected_exit_code"]:
        sys.exit("the interrupted run did not end as it should")


if __name__ == "__main__":
    main()
