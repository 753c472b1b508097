"""The documentation: links that lead somewhere, outputs that were made, commands that exist."""

import re

import pytest

from i21k import cli
from tests.helpers.paths import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = set(cli._COMMANDS)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_and_pictures_are_there(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_outputs_are_not_empty(page):
    text = page.read_text()
    blocks = re.findall(r"<!-- output of: .+? -->\n+```text\n(.*?)```", text, re.DOTALL)
    blocks += re.findall(r"<!-- table of: .+? -->\n\n((?:\|.*\n)*)", text)
    assert len(blocks) == len(re.findall("<!-- (?:output|table) of:", text))
    assert all(block.strip() for block in blocks)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_exist(page):
    for command in re.findall(r"^i21k ([a-z-]+)", page.read_text(), re.MULTILINE):
        assert command in COMMANDS, command


def test_the_readme_is_short():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 150
    commands = [line for line in lines if line.startswith("python3 -m venv")]
    assert len(commands) == 2  # which `.ci/run` executes as they are
    assert all(len(line) <= 100 for line in lines if not line.startswith(("python3", "i21k ")))


def test_scripts_find_the_files_of_the_checkout_wherever_they_are_started():
    """Only i21k is installed: `configs`, `benchmarks` and `tests` are found by path."""
    scripts = [*(ROOT / "benchmarks").rglob("*.py"), *(ROOT / "docs").glob("*.py")]
    started = [path for path in scripts if "__main__" in path.read_text()]
    assert len(started) > 20
    for path in started:
        text = path.read_text()
        used = re.search(r"^ *(?:from|import) (?:configs|benchmarks|tests)\b", text, re.MULTILINE)
        if used:
            assert 0 <= text.find("sys.path.insert(") < used.start(), path
