"""Make the vendored tables beside this file from published packages; run only when a table is to change.

pip download --no-deps timm && python -m i21k.wordnet.make_tables timm-*.whl
"""

import sys
import zipfile
from pathlib import Path

from i21k.labels import ClassList

TABLES = Path(__file__).parent / "tables"


def make_fall11(timm_wheel: Path) -> None:
    """Write `fall11.txt` from timm's list, checking its count and order."""
    with zipfile.ZipFile(timm_wheel) as wheel:
        ids = wheel.read("timm/data/_info/imagenet22k_synsets.txt").decode().split()
    if len(ids) != 21841 or ids != sorted(ids):
        raise ValueError(f"{timm_wheel} holds {len(ids)} synsets; expected 21,841 in ascending order")
    ClassList(tuple(ids)).write(TABLES / "fall11.txt")


if __name__ == "__main__":
    make_fall11(Path(sys.argv[1]))
