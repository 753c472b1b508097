"""Make the vendored tables beside this file from published packages; run only when a table is to change.

pip download --no-deps timm && python -m i21k.wordnet.make_tables timm-*.whl
"""

import sys
import zipfile
from pathlib import Path

from i21k.labels import ClassList

TABLES = Path(__file__).parent / "tables"


def make_class_list(timm_wheel: Path, source: str, name: str, num_classes: int) -> None:
    """Write one of timm's lists as `name`.txt, checking its count and order."""
    with zipfile.ZipFile(timm_wheel) as wheel:
        ids = wheel.read(f"timm/data/_info/{source}").decode().split()
    if len(ids) != num_classes or ids != sorted(ids):
        raise ValueError(f"{source} of {timm_wheel} holds {len(ids)} synsets; expected {num_classes:,} in ascending order")
    ClassList(tuple(ids)).write(TABLES / f"{name}.txt")


if __name__ == "__main__":
    make_class_list(Path(sys.argv[1]), "imagenet22k_synsets.txt", "fall11", 21841)
    make_class_list(Path(sys.argv[1]), "imagenet_synsets.txt", "ilsvrc2012", 1000)
