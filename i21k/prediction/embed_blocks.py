"""The blocks of features that are written before the output is complete, to continue after them."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from i21k import files
from i21k.errors import UserError
from i21k.prediction.embed_images import Part

LISTS = ("names", "labels", "faults")


@dataclasses.dataclass
class Kept:
    """Features since the last block was written."""

    blocks: list[np.ndarray] = dataclasses.field(default_factory=list)
    names: list[str] = dataclasses.field(default_factory=list)
    labels: list[int] = dataclasses.field(default_factory=list)
    faults: list[str] = dataclasses.field(default_factory=list)

    def add(self, part: Part, features: np.ndarray) -> None:
        self.blocks.append(features)
        self.names += part.names
        self.labels += part.labels
        self.faults += part.faults

    def save(self, folder: Path, first: int, stop: int) -> None:
        """Write the arrays, and then their description, which makes the block count."""
        path = folder / f"{first:012d}-{stop:012d}.json"
        filled = [block for block in self.blocks if len(block)]
        array = np.concatenate(filled) if filled else np.empty((0, 0), np.float32)
        with files.replaced(path.with_suffix(".npy")) as temporary, temporary.open("wb") as file:
            np.save(file, array, allow_pickle=False)
        described = {key: getattr(self, key) for key in LISTS}
        described |= {"num_features": array.shape[1]}
        files.write_text(path, json.dumps(described))


def resume(folder: Path, plan: dict[str, Any]) -> int:
    """Return the number of images whose features are there; write the plan of a new folder.

    Raises:
        UserError: if the features that are there are of other images or another model.
    """
    path = folder / "plan.json"
    if not path.exists():
        files.write_text(path, json.dumps(plan))
        return 0
    before = files.read_json(path)
    if changed := [key for key in plan if before.get(key) != plan[key]]:
        raise UserError(
            f"{folder} holds features of an earlier call with other values of"
            f" {', '.join(changed)}. Give the same arguments, or remove the folder."
        )
    stop = 0
    for block in blocks_in(folder):
        first, end = map(int, block.stem.split("-"))
        if first != stop:
            break
        stop = end
    for block in blocks_in(folder):  # after a gap
        if int(block.stem.split("-")[0]) >= stop:
            block.unlink()
    return stop


def blocks_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.json") if path.stem[:1].isdigit())
