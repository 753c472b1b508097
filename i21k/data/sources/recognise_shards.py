"""Recognise datasets by their format: WebDataset, Parquet and RecordIO."""

from collections.abc import Sequence
from pathlib import Path

from i21k.data.sources import parquet, recordio, webdataset
from i21k.data.sources.base import ImageSource
from i21k.data.sources.recognised import Recognised, Wanted, choose_splits, of_splits
from i21k.data.sources.shard_names import shards_by_split
from i21k.data.sources.tables import Labels
from i21k.data.sources.tar_folders import why_webdataset
from i21k.data.sources.tar_reader import tar_stem
from i21k.data.sources.webdataset_info import read_shard_list
from i21k.data.sources.webdataset_samples import has_classes
from i21k.errors import UserError


def recognise_shards(
    path: Path, files: list[Path], labels: Labels | None, wanted: Wanted
) -> Recognised:
    """Return several files as one source."""
    if all(file.suffix == ".parquet" for file in files):
        return parquet_files(path, files, wanted)
    if wanted.layout in (None, "webdataset") and all(tar_stem(file.name) for file in files):
        if wanted.layout is None and labels is None and not why_webdataset(files):
            raise UserError(
                f"Source {path} matches {len(files)} tars that are no WebDataset. Put them into "
                "one folder and give the folder."
            )
        return webdataset_shards(path, files, wanted, labels)
    raise UserError(
        f"Source {path} matches {len(files)} files; expected WebDataset tars or Parquet files. "
        "Give one file or folder."
    )


def webdataset_shards(
    path: Path, tars: Sequence[Path], wanted: Wanted, labels: Labels | None = None
) -> Recognised:
    """Return the shards of a WebDataset, by the splits in a list beside them or in their names."""
    listed = read_shard_list(tars[0].parent)
    by_list: dict[str, list[Path]] = {}
    for tar in tars:
        by_list.setdefault(listed.split_of(tar) or "", []).append(tar)
    shards = shards_by_split(tars) if "" in by_list else by_list

    def is_packed(split: str) -> bool:
        return split != "test" or labels is not None or has_classes(shards[split][0])

    advice = "Give --labels FILE with lines of FILE<TAB>CLASS"
    chosen, notes = choose_splits(path, shards, wanted, is_packed, advice)
    if path.is_dir():
        listed.refuse_missing(path, chosen)
    sources: dict[str, ImageSource] = {
        split: webdataset.WebDataset(
            path, of_split, wanted.names, labels, listed, is_given=wanted.layout == "webdataset"
        )
        for split, of_split in chosen.items()
    }
    return of_splits(sources, notes, "WebDataset")


def parquet_files(path: Path, files: Sequence[Path], wanted: Wanted) -> Recognised:
    """Return Parquet files, by the splits in their names."""
    found: dict[str, parquet.ParquetSource] = {
        split: parquet.ParquetSource(path, of_split, wanted.names)
        for split, of_split in shards_by_split(files).items()
    }
    chosen, notes = choose_splits(path, found, wanted, lambda split: found[split].has_labels())
    sources: dict[str, ImageSource] = dict(chosen)
    return of_splits(sources, notes, "Parquet dataset")


def record_files(path: Path, files: Sequence[Path], wanted: Wanted) -> Recognised:
    """Return RecordIO files, one for each split in their names."""
    by_split = shards_by_split(files)
    if several := next((of for of in by_split.values() if len(of) > 1), None):
        raise UserError(
            f"Source {path} holds {several[0].name} and {several[1].name}. Give one of them."
        )

    def is_packed(split: str) -> bool:
        return split != "test" or recordio.has_labels(by_split[split][0])

    chosen, notes = choose_splits(path, by_split, wanted, is_packed)
    sources: dict[str, ImageSource] = {
        split: recordio.RecordSource(of_split[0], wanted.names)
        for split, of_split in chosen.items()
    }
    return of_splits(sources, notes, "folder of RecordIO files")
