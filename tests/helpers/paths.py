"""Paths of the checkout and the golden values."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
FIXTURES = ROOT / "tests" / "fixtures"


def module_names() -> list[str]:
    """Return the names of all modules of i21k, without its packages."""
    files = (path.relative_to(ROOT).with_suffix("") for path in (ROOT / "i21k").rglob("*.py"))
    return sorted(".".join(file.parts) for file in files if file.name != "__init__")
