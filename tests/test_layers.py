"""The architecture as a test: imports point down only, and each heavy library has one door."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "i21k"
FILES = sorted(PACKAGE.rglob("*.py"))
# What each room may import of the project; front doors (i21k/*.py) may import all of it, and nothing imports them.
MAY_IMPORT = {"labels": set(), "backend": set(), "data": {"labels", "data"}, "model": {"labels", "model"}, "wordnet": {"labels", "wordnet"}}
MAY_IMPORT["scores"] = {"labels", "wordnet"}
MAY_IMPORT["train"] = {"labels", "data", "model", "wordnet", "scores", "train"}
DOORS = {
    "grain": {"data/loader.py"},
    "orbax": {"train/checkpoint.py"},
    "array_record": {"data/shards.py"},
    "tensorboardX": {"train/report.py"},
    "tensorflow": set(),
    "torch": set(),
    "clu": set(),
}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    used = {name.split(".")[1] for name in imports(path) if name.startswith("i21k.")}
    if room in MAY_IMPORT:
        assert used <= MAY_IMPORT[room]
    else:
        assert room in ("cli", "evaluate", "exchange", "predict", "__init__"), f"{path} is a new room: say here what it may import"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_heavy_libraries_have_one_door(path):
    name = str(path.relative_to(PACKAGE))
    used = {module.split(".")[0] for module in imports(path)}
    assert [library for library, doors in DOORS.items() if library in used and name not in doors] == []


def test_one_file_starts_and_joins_processes():
    assert [str(p.relative_to(PACKAGE)) for p in FILES if "distributed." in p.read_text()] == ["train/processes.py"]


def test_only_the_steps_know_collectives():
    words = ("pmap", "psum", "pmean", "all_gather", "shard_map", "PartitionSpec")
    allowed = {"train/steps.py", "model/batch_norm.py"}  # which averages statistics over an axis whose name it is given
    found = [str(p.relative_to(PACKAGE)) for p in FILES if any(f"{word}(" in p.read_text() for word in words)]
    assert set(found) <= allowed
