"""Keys of earlier versions, and what became of them."""

from collections.abc import Mapping
from typing import Any

# Keys that have another name now. What a stored recipe or an old recipe file gives is renamed.
RENAMES: dict[str, str] = {}
# Keys of version one, whose recipes stated every key. `upgrade` maps their values.
VERSION_ONE = ("data.val_split", "evaluation.second_directory", "evaluation.second_split")


def is_renamed(name: str) -> bool:
    """Return whether an earlier version had a key of this name."""
    return name in RENAMES or name in VERSION_ONE


def upgrade(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values with the names and meanings of today."""
    new = {RENAMES.get(name, name): value for name, value in values.items()}
    if "evaluation.sets" in new or not any(name in new for name in VERSION_ONE):
        return new
    split, directory, second = (new.pop(name, None) for name in VERSION_ONE)
    sets = [] if split == "none" else [f"val={split or 'val'}"]
    if directory not in (None, "none"):
        sets.append(f"second={directory}:{second or 'val'}")
    new["evaluation.sets"] = ", ".join(sets) or "none"
    if new.get("model.bn_momentum") == 0:  # meant what "default" means now
        new["model.bn_momentum"] = "default"
    return new
