"""The list of shards beside a WebDataset: `_info.json` or `info.json`, as timm writes it.

It names the files of each split and how many samples each file has, so that a download that is not
complete can be recognised.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from i21k.data.sources.rules import SPLITS
from i21k.errors import UserError
from i21k.files import parse_json, read_given

NAMES = ("_info.json", "info.json")


class ShardList(NamedTuple):
    """The content of the list; without a list everything is empty."""

    file: Path
    splits: dict[str, tuple[str, ...]]  # names of files, by our name of the split
    lengths: dict[str, int]  # samples, by the name of the file

    def split_of(self, shard: Path) -> str | None:
        """Return the split of a shard; None if the list does not name it."""
        return next((split for split, names in self.splits.items() if shard.name in names), None)

    def refuse_missing(self, source: Path, shards: Mapping[str, Sequence[Path]]) -> None:
        """Refuse a folder that lacks a file of a split.

        Raises:
            UserError: naming the first one.
        """
        for split, of_split in shards.items():
            there = {shard.name for shard in of_split}
            listed = self.splits.get(split, ())
            if missing := [name for name in listed if name not in there]:
                raise UserError(
                    f"Source {source} has {len(listed) - len(missing):,} of the {len(listed):,}"
                    f" shards that {self.file.name} lists for split {split!r}; {missing[0]} is"
                    " missing. Download it, or give the shards that are there, such as"
                    f" '{source}/*.tar'."
                )


def read_shard_list(folder: Path) -> ShardList:
    """Return the list in a folder. Files of the name that are of something else are ignored."""
    for name in NAMES:
        file = folder / name
        if file.is_file():
            try:
                splits = parse_json(read_given(file))["splits"]
                return _read(file, splits)
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                continue
    return ShardList(folder, {}, {})


def _read(file: Path, splits: Any) -> ShardList:
    names: dict[str, tuple[str, ...]] = {}
    lengths: dict[str, int] = {}
    for split, about in splits.items():
        if (known := SPLITS.get(split.lower())) is None:
            continue
        of_split = tuple(str(name).rpartition("/")[2] for name in about["filenames"])
        names[known] = names.get(known, ()) + of_split
        counts = about.get("shard_lengths") or ()
        if len(counts) == len(of_split) and all(type(n) is int and n >= 0 for n in counts):
            lengths |= dict(zip(of_split, counts, strict=True))
    return ShardList(file, names, lengths)
