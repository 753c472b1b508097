"""Runs of `launch.py` in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

from ml_collections import ConfigDict

from tests.helpers.paths import ROOT


def flags(config: ConfigDict) -> list[str]:
    """A recipe as overrides of the recipe it was made from."""
    return [
        f"--config.{key}={value}"
        for key, value in config.iteritems(preserve_field_references=False)
        if not isinstance(value, ConfigDict)
    ] + [
        f"--config.{group}.{key}={value}"
        for group, values in config.iteritems()
        if isinstance(values, ConfigDict)
        for key, value in values.iteritems()
    ]


def arguments_of(recipe: ConfigDict, workdir: Path) -> list[str]:
    return ["--config", "configs/i21k_inception.py", "--workdir", str(workdir), *flags(recipe)]


def launch(arguments: list[str], env: dict[str, str] | None = None, **options) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "launch.py"), *arguments]
    # As in conftest, so that the compilation cache is shared.
    env = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"} | (env or {})
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        **options,
    )


def start(recipe: ConfigDict, workdir: Path, **options) -> subprocess.Popen:
    return launch(arguments_of(recipe, workdir), **options)


def wait_for_line(running: subprocess.Popen, part: str) -> None:
    said = []
    for line in running.stdout:
        said.append(line)
        if part in line:
            return
    raise AssertionError(f"ended without {part!r}: {''.join(said)}")
