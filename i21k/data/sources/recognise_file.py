"""Recognise a single file: an archive, a table, or a file of a dataset."""

from pathlib import Path

from i21k.data.sources import kaggle, listed, parquet, recordio
from i21k.data.sources.archives import ArchiveLook, look_into, magic_of, refuse_unread
from i21k.data.sources.base import ImageSource
from i21k.data.sources.recognise_shards import parquet_files, webdataset_shards
from i21k.data.sources.recognised import (
    Recognised,
    Wanted,
    ask_if_one_class,
    choose_splits,
    choose_trees,
    of_splits,
    refuse_disjoint,
    refuse_flat,
    refuse_split_without_classes,
    single,
    trees_in,
)
from i21k.data.sources.rules import FolderLevel, Rule, SynsetFolders, Tree
from i21k.data.sources.tables import Labels
from i21k.data.sources.tar_folders import why_inside, why_webdataset
from i21k.data.sources.tars import TarSource
from i21k.data.sources.zips import ZipSource, is_zip
from i21k.errors import UserError

_TABLES = frozenset({".csv", ".tsv", ".txt"})


def recognise_file(path: Path, labels: Labels | None, wanted: Wanted) -> Recognised:
    """Recognise one file by its first bytes, then by what it holds."""
    magic = magic_of(path)
    layout = wanted.layout
    if layout == "recordio" or (layout is None and magic.startswith(recordio.MAGIC)):
        return single(recordio.RecordSource(path, wanted.names))
    if layout == "parquet" or (layout is None and magic.startswith(parquet.MAGIC)):
        return parquet_files(path, [path], wanted)
    if layout == "table" or (layout is None and path.suffix.lower() in _TABLES):
        tables = listed.table_sources(path, wanted.names)
        # A split without any label, such as Kaggle's test images, has no classes.
        chosen, notes = choose_splits(
            path, tables, wanted, lambda split: bool(tables[split].list_class_ids())
        )
        return of_splits(dict(chosen), notes, "table")
    refuse_unread(path, magic)
    if layout == "webdataset":
        return webdataset_shards(path, [path], wanted, labels)
    if labels is not None:
        if is_zip(path):
            return single(ZipSource(path, labels))
        if layout is None and why_webdataset([path]):
            return webdataset_shards(path, [path], wanted, labels)
        return single(TarSource(path, labels))
    look = look_into(path)
    if layout is None and look.kind == "tar" and look.has_tars and (why := why_inside(path)):
        raise UserError(
            f"Source {path} holds WebDataset tars: {why}. Unpack the outer tar and give the folder."
        )
    if layout is None and look.kind == "tar" and not look.has_tars and why_webdataset([path]):
        return webdataset_shards(path, [path], wanted)
    if layout == "synset-tars" or (layout is None and look.kind == "tar" and look.has_tars):
        return single(TarSource(path, None))
    if not look.folders:  # an empty, damaged or flat archive
        refuse_flat(path, look.kind, look.names_in(""))
        return single(TarSource(path, None))
    return _archive(path, look, wanted)


def _archive(path: Path, look: ArchiveLook, wanted: Wanted) -> Recognised:
    make = ZipSource if look.kind == "zip" else TarSource
    trees = trees_in(path, look.folders, wanted, strip=True)
    if not look.is_complete and "" not in trees and set(trees) != {"train", "val"}:
        if any("imagenet21k_" in tree.root for tree in trees.values()):
            wrapper = next(iter(trees.values())).root.rpartition("imagenet21k_")[0]
            trees |= {
                split: Tree(f"{wrapper}imagenet21k_{split}", SynsetFolders())
                for split in ("train", "val")
            }
            trees.setdefault("small_classes", Tree(f"{wrapper}imagenet21k_small_classes", None))
        elif wanted.splits is None:
            raise UserError(
                f"Source {path} is compressed and begins with the split {next(iter(trees))}. Say "
                "which splits it has: --splits train,val."
            )
        else:
            root, rule = next(iter(trees.values()))
            wrapper = root.rpartition("/")[0]
            for split in wanted.splits:
                trees.setdefault(split, Tree(f"{wrapper}/{split}".lstrip("/"), rule))
    elif (
        not look.is_complete
        and "" in trees
        and isinstance(trees[""].rule, FolderLevel)
        and wanted.class_level is None
        and len(look.top_folders()) == 1
    ):
        raise UserError(
            f"Source {path} is compressed, and its beginning has only the folder "
            f"{look.folders[0]}. Say which folders are the classes: --class-level 1 for top "
            "folders, --class-level 2 for the folders in them."
        )
    chosen, notes = choose_trees(path, trees, wanted)
    sources: dict[str, ImageSource] = {}
    for split, tree in chosen.items():
        of_split: Rule | Labels | None = tree.rule
        if of_split is None:
            of_split = kaggle.labels_of_val(look.names_in(tree.root), path)
        if of_split is None:
            refuse_split_without_classes(path, tree.root, split, chosen)
        source = make(path, of_split, tree.root)
        if look.is_complete and isinstance(source, TarSource):
            source.expect(look.folders, look.linked)
        sources[split] = source
    refuse_disjoint(path, sources, wanted)
    if "" not in sources and look.kind == "tar" and look.is_compressed and len(sources) > 1:
        notes += (f"it is read {len(sources)} times, once for each split",)
    return ask_if_one_class(
        path,
        of_splits(sources, notes, f"{'compressed ' if look.is_compressed else ''}{look.kind}"),
        wanted,
    )
