"""Where the checkout and the golden values are."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
FIXTURES = ROOT / "tests" / "fixtures"


def modules_with(text: str) -> list[str]:
    """Return the names of the modules of i21k whose source contains `text`."""
    return [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in sorted((ROOT / "i21k").rglob("*.py"))
        if text in path.read_text()
    ]
