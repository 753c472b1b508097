"""Use the run of the quick start: evaluate, predict, export, fine-tune and features.

    python benchmarks/gpu_day_parts/commands.py --scratch DIR [--data DIR]

`quickstart.py` has trained the run. Prints a line of JSON for each command. At the end it lists the
commands that failed.
"""

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]


def commands(run: Path, data: Path, out: Path) -> dict[str, list[str]]:
    """Return the commands by name."""
    i21k = [sys.executable, "-m", "i21k"]
    model = ["--checkpoint", str(run)]
    training = [sys.executable, str(ROOT / "launch.py")]
    return {
        "evaluate": [*i21k, "evaluate", *model, "--data", str(data)],
        "predict": [*i21k, "predict", *model, "--data", str(data), "--num", "4"],
        "embed": [*i21k, "embed", *model, "--data", str(data), "--out", str(out / "features.npz")],
        "export": [*i21k, "export", *model, "--format", "stablehlo", "--out", str(out / "export")],
        "fine-tune": [
            *training, "--config", f"{ROOT}/configs/finetune.py:{data}:{run}",
            "--workdir", str(out / "finetuned"), "--config.epochs=1",
        ],
        "modern": [
            *training, "--config", f"{ROOT}/configs/tiny_imagenet_modern.py",
            "--workdir", str(out / "modern"), f"--config.data.directory={data}",
            "--config.epochs=2", "--config.image_size=32@0 48@0.5", "--config.ema.decay=0.99",
        ],
    }  # fmt: skip


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    cli.add_argument("--scratch", type=Path, required=True, help="as for quickstart.py")
    cli.add_argument("--data", type=Path, help="packed quick start")
    args = cli.parse_args()
    data = (args.data or args.scratch / "quickstart-data").resolve()
    out = args.scratch.resolve() / "commands"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    wanted = commands(args.scratch.resolve() / "quickstart-whole", data, out)
    failed = []
    for name, words in wanted.items():
        start = time.perf_counter()
        done = subprocess.run(
            words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        sys.stderr.write(f"$ {shlex.join(words)}\n{done.stdout}\n")
        lines = [line for line in done.stdout.splitlines() if line.strip()]
        result = {
            "command": name,
            "exit_code": done.returncode,
            "last_line": lines[-1][:100] if lines else "",
            "seconds": round(time.perf_counter() - start, 1),
        }
        print(json.dumps(result), flush=True)
        failed += [name] if done.returncode else []
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
