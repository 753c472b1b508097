"""The layout as a test: imports point down only, and each heavy library is in one file."""

import ast
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

PACKAGE = ROOT / "i21k"
FILES = sorted(PACKAGE.rglob("*.py"))
# From the top to the bottom. A module may import its own layer and every layer below it.
LAYERS = (
    ("__init__", "__main__"),
    ("cli",),
    ("serve",),
    ("prediction",),
    ("evaluation",),
    ("interop",),
    ("train",),
    ("trained", "interop.safetensors"),  # a format that `trained` reads
    ("checkpoints",),
    ("data.overview_page",),
    (
        "data.synthetic",
        "data.verify",
        "data.overview",
        "data.contents",
        "data.contact_sheet",
        "data.dataset",
    ),
    ("data.pack",),
    ("data.load",),
    ("data.sources",),
    ("data.format",),
    ("models",),
    ("images",),
    ("wordnet",),
    ("look", "table_files"),
    ("workers", "machine", "files", "log", "labels", "backend"),
    ("text", "closed_output"),
    ("errors", "jax_private"),
)
# The only files that may import a library.
ONLY_IN = {
    "grain": {"data/load/loader.py"},
    "orbax": {"checkpoints/directory.py"},
    "array_record": {"data/format/shards.py", "data/format/readers.py"},
    "tensorboardX": {"train/report.py", "train/tensorboard.py"},
    "apache_beam": {"data/pack/beam.py"},
    "tensorflow": set(),
    "pyarrow": {"data/sources/parquet.py", "evaluation/features.py", "table_files.py"},
    "starlette": {
        f"serve/{name}.py" for name in ("app", "bounds", "guard", "parameters", "server")
    },
    "uvicorn": {"serve/server.py"},
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


def layer_of(module: str) -> int:
    """Return how far below the top a module is, given its name without `i21k.`."""
    found = [
        (len(name), number)
        for number, names in enumerate(LAYERS)
        for name in names
        if module == name or module.startswith(f"{name}.")
    ]
    assert found, f"{module} is in no layer; add it to LAYERS"
    return max(found)[1]  # of the longest name


def module_of(path: Path) -> str:
    name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    return name.removesuffix(".__init__")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    if module_of(path) == "data":  # a package without code
        assert not imports(path)
        return
    used = [name.removeprefix("i21k.") for name in imports(path) if name.startswith("i21k.")]
    upwards = [name for name in used if layer_of(name) < layer_of(module_of(path))]
    assert upwards == []


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_heavy_libraries_are_imported_in_one_file(path: Path) -> None:
    name = str(path.relative_to(PACKAGE))
    used = {module.split(".")[0] for module in imports(path)}
    assert [lib for lib, files in ONLY_IN.items() if lib in used and name not in files] == []


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_private_parts_of_jax_are_used_in_one_file(path: Path) -> None:
    name = str(path.relative_to(PACKAGE))
    assert ("jax._src" in path.read_text()) == (name == "jax_private.py")


# What only the code of networks and of their formats may know.
OF_NETWORKS = {"fc1", "117", "released", "symbol2016", "REVISIONS", "WIDTHS", "MEAN"}
# A recipe names variants and revisions as data; a class list is named after the released model.
MAY_KNOW = ("models", "interop", "train.recipe", "wordnet.make_tables")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_networks_are_known_in_their_package_only(path: Path) -> None:
    if module_of(path).startswith(MAY_KNOW):
        return
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Constant) and type(node.value) in (str, int, float):
            found.add(str(node.value).removesuffix(".0"))
    assert found & OF_NETWORKS == set()
