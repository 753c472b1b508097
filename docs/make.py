"""Make every output and picture that the documentation shows.

    python docs/make.py [PAGE ...] [--keep FOLDER]

A page marks an output with a comment, and the block that follows it is replaced by what the command
prints:

    <!-- output of: i21k info data/quickstart -->

A command that prints a Markdown table is marked with `table of:`, and the table ends with an empty
line.

The commands run in a scratch folder in which the quick start was trained. `--keep` names a folder
for it, so that a second call need not train again. Without PAGE all pages are made.

A command that needs what is not part of the project (see `NEEDS`) runs if that is in the folder.
Otherwise its output stays as it is, and a line names what is missing.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
TABLE = re.compile(r"(<!-- table of: (?P<command>.+?) -->\n\n)(?:\|.*\n)*")
BLOCK = re.compile(r"(<!-- output of: (?P<command>.+?) -->\n+)```text\n.*?```\n", re.DOTALL)
REPORT = "i21k report --checkpoint runs/quickstart --data data/quickstart"
NEEDS = {  # word of a command: where it comes from
    "lite0.onnx": "EfficientNet-Lite0, exported as docs/export.md shows",
    "photos": "a folder with a few photographs",
    "data/photos": "photographs of ImageNet, packed with their classes",
}
PICTURES = {  # file in docs/pictures: command that writes it, with {} for its path
    "contact_sheet.jpg": "i21k info data/quickstart --contact-sheet {}",
    "learning_curve.png": "cp runs/quickstart/learning_curve.png {}",
    "reliability.png": (
        "i21k evaluate --checkpoint runs/quickstart --data data/quickstart --reliability {}"
    ),
    "report.png": f"{REPORT} && python {DOCS}/page_image.py report.html {{}} --height 880",
    "report_map.png": f"{REPORT} && python {DOCS}/page_image.py report.html {{}} --section map",
    "dataset_page.jpg": (
        "i21k info data/quickstart --html dataset.html &&"
        f" python {DOCS}/page_image.py dataset.html {{}} --width 900 --height 760"
    ),
}


def prepare(folder: Path) -> dict[str, str]:
    """Train the quick start in `folder` unless it is there; return the environment of commands."""
    env = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "100",
    }
    for name in ("benchmarks", "configs", "docs", "launch.py"):
        link = folder / name
        if not link.exists():
            link.symlink_to(ROOT / name)
    if not (folder / "runs" / "quickstart" / "metrics.csv").exists():
        command = [sys.executable, "launch.py", "--config", "configs/quickstart.py"]
        log = folder / "quickstart.txt"
        with log.open("w") as file:
            subprocess.run(command, cwd=folder, env=env, check=True, stdout=file)
    return env


def missing(command: str, folder: Path) -> str:
    """Return what a command needs and the folder lacks; empty if nothing."""
    absent = [word for word in command.split() if word in NEEDS and not (folder / word).exists()]
    return "; ".join(f"{word}: {NEEDS[word]}" for word in absent)


def output_of(command: str, folder: Path, env: dict[str, str]) -> str:
    """Return what a command prints, and stop with its error if it fails."""
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=env, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"`{command}` ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return "\n".join(line.rstrip() for line in done.stdout.splitlines()) + "\n"


def make_page(page: Path, folder: Path, env: dict[str, str]) -> None:
    """Replace each output of a page by what its command prints now."""

    def replaced(match: re.Match[str]) -> str:
        print(f"  {match['command']}", flush=True)
        if lacks := missing(match["command"], folder):
            print(f"    not run, the output stays as it is. Missing: {lacks}", flush=True)
            return match[0]
        return f"{match[1]}```text\n{output_of(match['command'], folder, env)}```\n"

    def table(match: re.Match[str]) -> str:
        print(f"  {match['command']}", flush=True)
        return match[1] + output_of(match["command"], folder, env)

    print(page.relative_to(ROOT))
    page.write_text(TABLE.sub(table, BLOCK.sub(replaced, page.read_text())))


def make_pictures(folder: Path, env: dict[str, str]) -> None:
    """Write the pictures again."""
    pictures = DOCS / "pictures"
    pictures.mkdir(exist_ok=True)
    for name, command in PICTURES.items():
        print(f"docs/pictures/{name}")
        output_of(command.format(pictures / name), folder, env)


def make_screenshots(folder: Path, env: dict[str, str]) -> None:
    """Take the screenshots of the page of `i21k serve`. This needs Chromium."""
    print("docs/pictures/serve*.png")
    command = f"{sys.executable} {DOCS / 'screenshots.py'} --checkpoint runs/quickstart"
    output_of(f"{command} --data data/quickstart --out {DOCS / 'pictures'}", folder, env)


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    cli.add_argument("pages", metavar="PAGE", nargs="*", type=Path, help="pages to make; all")
    cli.add_argument("--keep", metavar="FOLDER", type=Path, help="folder of the trained model")
    args = cli.parse_args()
    folder = args.keep or Path(tempfile.mkdtemp(prefix="i21k-docs-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        env = prepare(folder)
        for page in args.pages or [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]:
            make_page(page.resolve(), folder, env)
        if not args.pages:
            make_pictures(folder, env)
            make_screenshots(folder, env)
    finally:
        if args.keep is None:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
