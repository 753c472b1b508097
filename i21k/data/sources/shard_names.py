"""The splits of shards by their names, for WebDataset, Parquet and RecordIO."""

import re
from collections.abc import Sequence
from pathlib import Path

from i21k.data.sources.rules import SPLITS
from i21k.errors import UserError

_SPLIT = re.compile(r"(?:^|[-_./])(train|training|val|valid|validation|test)(?=[-_.\d])", re.I)


def shards_by_split(shards: Sequence[Path]) -> dict[str, list[Path]]:
    """Sort shards into splits by their names; the split is empty if no name has one.

    Raises:
        UserError: if only some names have one.
    """
    found: dict[str, list[Path]] = {}
    for shard in shards:
        match = _SPLIT.search(shard.name)
        split = match.group(1).lower() if match else shard.parent.name.lower()
        found.setdefault(SPLITS.get(split, ""), []).append(shard)
    if "" in found and len(found) > 1:
        raise UserError(
            f"{found[''][0].name} is in no split, and other files beside it are in the splits "
            f"{', '.join(sorted(found.keys() - {''}))}. Give the files of one split as SOURCE."
        )
    order = ("", "train", "val", "test")
    return {split: found[split] for split in order if split in found}
