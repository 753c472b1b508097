"""The splits of shards by their names, for WebDataset, Parquet and RecordIO."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from i21k.data.sources.rules import SPLIT_FOLDERS, SPLITS, split_of
from i21k.errors import UserError


def _pattern(words: Iterable[str]) -> re.Pattern[str]:
    return re.compile(rf"(?:^|[-_./])({'|'.join(words)})(?=[-_.\d])", re.IGNORECASE)


_SPLIT, _UNCLEAR_SPLIT = _pattern(SPLITS), _pattern(SPLIT_FOLDERS)


def shards_by_split(shards: Sequence[Path]) -> dict[str, list[Path]]:
    """Sort shards into splits by their names, or else by their folders.

    Names such as `dev` are splits only where another is `train`.

    Returns:
        The shards of each split. The split is empty if no name has one.

    Raises:
        UserError: if only some names have one.
    """
    has_train = any(_split_in_name(shard) == "train" for shard in shards)
    has_train_folder = any(split_of(shard.parent.name) == "train" for shard in shards)
    found: dict[str, list[Path]] = {}
    for shard in shards:
        split = _split_in_name(shard) or SPLITS.get(shard.parent.name.lower(), "")
        if not split and (has_train or has_train_folder):
            split = _split_in_name(shard, _UNCLEAR_SPLIT)
        if not split and has_train_folder:
            split = split_of(shard.parent.name)
        found.setdefault(split, []).append(shard)
    if "" in found and len(found) > 1:
        raise UserError(
            f"{found[''][0].name} is in no split, and other files beside it are in the splits "
            f"{', '.join(sorted(found.keys() - {''}))}. Give the files of one split as SOURCE."
        )
    order = ("", "train", "val", "test")
    return {split: found[split] for split in order if split in found}


def _split_in_name(shard: Path, pattern: re.Pattern[str] = _SPLIT) -> str:
    match = pattern.search(shard.name)
    return SPLIT_FOLDERS[match[1].lower()] if match else ""
