"""Measure everything that needs a GPU, in the minutes for which there is one.

    python benchmarks/gpu_day.py --out DIR --minutes 9 [--bundle gpu_bundle]
    python benchmarks/gpu_day.py --out DIR --only d-variants e-profile  # some parts, by their names
    python benchmarks/gpu_day.py --out DIR --dry-run  # small shapes, on a CPU

The parts run in order of value, each in a process of its own with a time limit. Every result is
written the moment it is there: to `results.jsonl`, and to the page `gpu-day.md` with the commands.
What the parts print besides is in `log.txt`. A part that fails is recorded, and the next one runs.
Exit codes: 0 some part gave a result, 1 none did, 2 wrong arguments. See `docs/gpu-day.md`.
"""

import argparse
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.gpu_day_parts import driver, memory_plans, parts
from benchmarks.gpu_day_parts.page import LOG, Results

DRY_RUN_IMAGES = 2  # of each class


def main(argv: list[str]) -> int:
    args = parse_arguments(argv)
    signal.signal(signal.SIGTERM, lambda signum, _: sys.exit(128 + signum))  # ends the part too
    scratch = args.scratch or Path(tempfile.gettempdir()) / "i21k-gpu-day"
    scratch.mkdir(parents=True, exist_ok=True)
    env = environment(args, scratch)
    images = args.images or existing(args.bundle / "data" / "images")
    if args.dry_run:
        images = drawn_images(scratch / "images", env)
    plan = parts.Plan(
        scratch=scratch,
        torch_python=find_torch(args.torch_python, env),
        quickstart_data=existing(args.bundle / "data" / "quickstart"),
        images=images,
        tiny=args.dry_run,
    )
    wanted = parts.parts(plan)
    if args.only:
        names = [part.name for part in wanted]
        if unknown := [name for name in args.only if name not in names]:
            print(f"No part {unknown[0]!r}. Use some of {', '.join(names)}.", file=sys.stderr)
            return 2
        wanted = [part for part in wanted if part.name in args.only]
    results = Results(args.out, wanted, shlex.join(["python", *sys.argv]))

    def record(result: driver.Record) -> None:
        if "result" in result:
            result["result"] |= memory_plans.beside(result["result"])
        results.add(result)
        print(result, flush=True)

    with (args.out / LOG).open("w") as log:
        driver.run_parts(wanted, 60 * args.minutes, record, log, ROOT, env)
    print(f"The results are in {args.out}.")
    return 0 if any("result" in record for record in results.records) else 1


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    cli.add_argument("--out", type=Path, required=True, help="for the results")
    cli.add_argument("--minutes", type=float, default=9.0, help="for all parts together")
    cli.add_argument(
        "--bundle",
        type=Path,
        default=ROOT / "gpu_bundle",
        help="what benchmarks/gpu_wheels.py made: wheels to use, and packed images",
    )
    cli.add_argument("--images", type=Path, help="packed dataset for the loader, at least 256 px")
    cli.add_argument("--only", nargs="+", metavar="PART", help="names of parts to run")
    cli.add_argument("--torch-python", help="interpreter that has PyTorch; by default this one")
    cli.add_argument(
        "--scratch",
        type=Path,
        help="for runs and compiled steps; keep it to save the second call some time",
    )
    cli.add_argument("--dry-run", action="store_true", help="small shapes, on a CPU")
    return cli.parse_args(argv)


def environment(args: argparse.Namespace, scratch: Path) -> dict[str, str]:
    """Return the variables of all parts: the checkout, the wheels, and one compilation cache."""
    paths = [str(ROOT), str(project_metadata(scratch / "metadata"))]
    wheels = sorted((args.bundle / "wheels").glob("*.whl"))
    if wheels and not args.dry_run:
        site = scratch / "site"
        shutil.rmtree(site, ignore_errors=True)
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
        command += ["--no-compile", "--target", str(site), *map(str, wheels)]
        if subprocess.run(command, check=False).returncode:
            print("pip could not install the wheels; trying without them", flush=True)
        paths.append(str(site))
    if before := os.environ.get("PYTHONPATH"):
        paths.append(before)
    variables = {
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
        # Parts that compile the same step share it, with the kernels chosen for it.
        "JAX_COMPILATION_CACHE_DIR": str(scratch / "xla-cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1",
        "TORCHINDUCTOR_CACHE_DIR": str(scratch / "torch-cache"),
    }
    if args.dry_run:
        variables |= {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    return variables


def project_metadata(directory: Path) -> Path:
    """Write what tells the version of a package, because the checkout may not be installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    name, version = project["name"], project["version"]
    file = directory / f"{name}-{version}.dist-info" / "METADATA"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return directory


def find_torch(python: str | None, env: dict[str, str]) -> str:
    """Return an interpreter that has PyTorch, or nothing."""
    python = python or sys.executable
    check = "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is None)"
    try:
        code = subprocess.run([python, "-c", check], env=os.environ | env, check=False).returncode
    except OSError:
        return ""
    return "" if code else python


def existing(path: Path) -> Path | None:
    return path if path.is_dir() else None


def drawn_images(directory: Path, env: dict[str, Any]) -> Path:
    """Draw and pack a few images."""
    code = (
        "import sys; from pathlib import Path; from i21k.data import synthetic;"
        " synthetic.pack_if_missing(Path(sys.argv[1]), int(sys.argv[2]), 0)"
    )
    command = [sys.executable, "-c", code, str(directory), str(DRY_RUN_IMAGES)]
    subprocess.run(command, env=os.environ | env, check=True, cwd=ROOT)
    return directory


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
