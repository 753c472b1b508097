"""Recognise what a source is by looking at it, before anything is read."""

import contextlib
import itertools
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeVar

from i21k.data.sources import kaggle, listed, parquet, recordio, webdataset
from i21k.data.sources.archives import ArchiveLook, look_into, refuse_unread
from i21k.data.sources.base import EXPECTED, ImageSource, counted, may_be_image
from i21k.data.sources.folders import (
    FolderSource,
    NestedFolder,
    folders_with_images,
    is_hidden,
    labelled_folder,
)
from i21k.data.sources.given import advice_if_missing, expand, refuse_address, refuse_gaps
from i21k.data.sources.rules import (
    SYNSET,
    FolderLevel,
    Rule,
    SynsetFolders,
    Tree,
    find_trees,
    split_of,
)
from i21k.data.sources.tables import Labels
from i21k.data.sources.tar_folders import (
    NUM_TARS,
    refuse_strange_tars,
    why_inside,
    why_webdataset,
)
from i21k.data.sources.tar_reader import tar_stem
from i21k.data.sources.tars import TarSource, ZipSource
from i21k.errors import UserError
from i21k.labels import ClassList

T = TypeVar("T")
_TABLES = frozenset({".csv", ".tsv", ".txt"})


class Wanted(NamedTuple):
    """What the user says about the layout."""

    layout: str | None = None  # one of layouts.LAYOUTS
    class_level: int | None = None
    splits: tuple[str, ...] | None = None  # to pack; None means all with labels
    names: ClassList | None = None  # class ids by label, for sources with integers


_NOTHING = Wanted()


class Recognised(NamedTuple):
    """A source as it was recognised.

    Attributes:
        layout: a noun phrase.
        sources: one for each split. The split is empty if the source has none.
        notes: sentences about what is not packed.
    """

    layout: str
    sources: dict[str, ImageSource]
    notes: tuple[str, ...] = ()


def open_source(path: str | Path, labels: Labels | None = None) -> ImageSource:
    """Recognise a source that has no splits.

    Raises:
        UserError: as `recognise` does, or if it has several splits.
    """
    sources = recognise([path], labels).sources
    if len(sources) != 1:
        raise UserError(
            f"Source {path} has the splits {', '.join(sources)}; expected one. Give one of its "
            "folders."
        )
    return next(iter(sources.values()))


def recognise(
    paths: Sequence[str | Path], labels: Labels | None = None, wanted: Wanted = _NOTHING
) -> Recognised:
    """Recognise the layout of a source, and find its size and (where that is cheap) its classes.

    Args:
        paths: a file, a folder or `-` for a list of files on standard input; or the shards of a
            WebDataset or of a Parquet dataset, of which each may be a pattern.
        labels: of the files, for a tar or folder of images without class folders.
        wanted: what the user says about the layout.

    Raises:
        UserError: if it does not exist, is empty or damaged, or its layout is ambiguous.
    """
    for path in paths:
        refuse_address(str(path))
    if [str(path) for path in paths] == [listed.STANDARD_INPUT]:
        lists = listed.standard_input_sources(listed.read_standard_input(), wanted.names)
        chosen, notes = _choose_splits(Path("-"), lists, wanted, lambda split: True)
        return _of_splits(dict(chosen), notes, "list on standard input")
    found = [match for path in paths for match in expand(path)]
    first = Path(paths[0])
    try:
        if len(found) > 1 or found[0] != first:
            return _shards(first, found, labels, wanted)
        if first.is_dir():
            return _folder(first, labels, wanted)
        if first.is_file():
            return _file(first, labels, wanted)
    except OSError as error:
        raise UserError(f"Source {first} cannot be read ({error}). {EXPECTED}") from error
    state = "is not a file or folder" if first.exists() else "does not exist"
    raise UserError(f"Source {first} {state}. {advice_if_missing(first) or EXPECTED}")


def _shards(path: Path, files: list[Path], labels: Labels | None, wanted: Wanted) -> Recognised:
    """Return several files as one source."""
    if all(file.suffix == ".parquet" for file in files):
        return _parquet(path, files, wanted)
    if wanted.layout in (None, "webdataset") and all(tar_stem(file.name) for file in files):
        if wanted.layout is None and labels is None and not why_webdataset(files):
            raise UserError(
                f"Source {path} stands for {len(files)} tars that are no WebDataset. Put them into "
                "one folder and give the folder."
            )
        return _webdataset(path, files, wanted, labels)
    raise UserError(
        f"Source {path} stands for {len(files)} files; expected WebDataset tars or Parquet files. "
        "Give one file or folder."
    )


def _file(path: Path, labels: Labels | None, wanted: Wanted) -> Recognised:
    with path.open("rb") as file:
        magic = file.read(8)
    layout = wanted.layout
    if layout == "recordio" or (layout is None and magic.startswith(recordio.MAGIC)):
        return _single(recordio.RecordSource(path, wanted.names))
    if layout == "parquet" or (layout is None and magic.startswith(parquet.MAGIC)):
        return _parquet(path, [path], wanted)
    if layout == "table" or (layout is None and path.suffix.lower() in _TABLES):
        tables = listed.table_sources(path, wanted.names)
        chosen, notes = _choose_splits(path, tables, wanted, lambda split: True)
        return _of_splits(dict(chosen), notes, "table")
    refuse_unread(path, magic)
    if layout == "webdataset":
        return _webdataset(path, [path], wanted, labels)
    if labels is not None:
        if zipfile.is_zipfile(path):
            return _single(ZipSource(path, labels))
        if layout is None and why_webdataset([path]):
            return _webdataset(path, [path], wanted, labels)
        return _single(TarSource(path, labels))
    look = look_into(path)
    if layout is None and look.kind == "tar" and look.has_tars and (why := why_inside(path)):
        raise UserError(
            f"Source {path} holds WebDataset tars: {why}. Unpack the outer tar and give the folder."
        )
    if layout is None and look.kind == "tar" and not look.has_tars and why_webdataset([path]):
        return _webdataset(path, [path], wanted)
    if layout == "synset-tars" or (layout is None and look.kind == "tar" and look.has_tars):
        return _single(TarSource(path, None))
    if not look.folders:  # an empty, damaged or flat archive
        _refuse_flat(path, look.kind, look.names_in(""))
        return _single(TarSource(path, None))
    return _archive(path, look, wanted)


def _archive(path: Path, look: ArchiveLook, wanted: Wanted) -> Recognised:
    make = ZipSource if look.kind == "zip" else TarSource
    trees = _trees(path, look.folders, wanted, strip=True)
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
    chosen, notes = _choose(path, trees, wanted)
    sources: dict[str, ImageSource] = {}
    for split, tree in chosen.items():
        of_split: Rule | Labels | None = tree.rule
        if of_split is None:
            of_split = kaggle.labels_of_val(look.names_in(tree.root), path)
        if of_split is None:
            raise UserError(
                f"Source {path} has no class folders in {tree.root}. Unpack it, or give "
                "--splits with the others."
            )
        source = make(path, of_split, tree.root)
        if look.is_complete and isinstance(source, TarSource):
            source.expect(look.folders, look.linked)
        sources[split] = source
    if "" not in sources and look.kind == "tar" and look.is_compressed and len(sources) > 1:
        notes += (f"it is read {len(sources)} times, once for each split",)
    return _ask_if_one_class(
        path,
        _of_splits(sources, notes, f"{'compressed ' if look.is_compressed else ''}{look.kind}"),
        wanted,
    )


def _folder(path: Path, labels: Labels | None, wanted: Wanted) -> Recognised:
    layout = wanted.layout
    if labels is not None:
        tars = _files_in(path, "")
        if layout == "webdataset" or (tars and not any(map(_may_be_image, _some_files(path)))):
            return _webdataset(path, tars, wanted, labels)
        return _single(labelled_folder(path, labels))
    if not any(path.iterdir()):
        raise UserError(f"Source {path} is empty. {EXPECTED}")
    if layout in (None, "kaggle") and (root := kaggle.find_root(path)):
        return _kaggle(path, root, wanted)
    if layout == "kaggle":
        raise UserError(
            f"Source {path} has no ILSVRC/Data/CLS-LOC with train and val. Change --as or SOURCE."
        )
    if layout in (None, "parquet") and (files := _files_in(path, ".parquet")):
        _refuse_images_beside(path, files, "parquet", wanted)
        refuse_gaps(path, files)
        return _parquet(path, files, wanted)
    if layout in (None, "recordio") and (files := _files_in(path, ".rec")):
        _refuse_images_beside(path, files, "recordio", wanted)
        return _records(path, files, wanted)
    tars = _files_in(path, "")
    if layout == "webdataset" or (layout is None and tars and why_webdataset(tars[:NUM_TARS])):
        if not tars:
            raise UserError(f"Source {path} holds no tars. Change --as or SOURCE.")
        refuse_gaps(path, tars)
        return _webdataset(path, tars, wanted)
    places = {tar.parent for tar in tars}
    if layout in (None, "synset-tars") and len(places) == 1 and path not in places:
        place = places.pop()
        if not split_of(place.name):
            return _folder(place, None, wanted)
    tars = [tar for tar in tars if tar.parent == path]
    if layout is None:
        refuse_strange_tars(path, tars)
    if layout == "synset-tars" or (tars and layout is None):
        return _single(FolderSource(path))
    return _folder_of_images(path, wanted)


def _folder_of_images(path: Path, wanted: Wanted, *, is_split: bool = False) -> Recognised:
    folders = folders_with_images(path)
    trees = _trees(path, folders, wanted, strip=False)
    if "" in trees:
        rule = trees[""].rule
        if rule is None:
            _refuse_flat(path, "folder", [entry.name for entry in _some_files(path)])
        parts = [PurePosixPath(folder).parts for folder in folders]
        is_deep = any(SYNSET.fullmatch(part) for folder in parts for part in folder[1:])
        is_nested = (
            rule.level > 1
            if isinstance(rule, FolderLevel)
            else is_deep or wanted.layout == "synset-folders"
        )
        source = NestedFolder(path, rule) if rule is not None and is_nested else FolderSource(path)
        recognised = _single(source)
        return recognised if is_split else _ask_if_one_class(path, recognised, wanted)
    chosen, notes = _choose(path, trees, wanted)
    sources: dict[str, ImageSource] = {}
    for split, tree in chosen.items():
        if tree.rule is None and not any(tar_stem(f.name) for f in _some_files(path / tree.root)):
            val = kaggle.labels_of_val(
                [file.name for file in _some_files(path / tree.root)], path / tree.root
            )
            if val is None:
                raise UserError(
                    f"Source {path} has no class folders in {tree.root}. Pack it by itself with "
                    f"--labels FILE, and the others with --splits "
                    f"{','.join(s for s in chosen if s != split)}."
                )
            sources[split] = labelled_folder(path / tree.root, val)
        else:
            sub = Wanted(class_level=wanted.class_level)
            if tree.rule is None:
                of_split = _folder(path / tree.root, None, sub)
            else:
                of_split = _folder_of_images(path / tree.root, sub, is_split=True)
            sources[split] = next(iter(of_split.sources.values()))
    num_beside = sum(1 for entry in path.iterdir() if entry.is_file() and not is_hidden(entry.name))
    if num_beside:
        notes += (f"{counted(num_beside, 'file')} beside the splits: not read",)
    return _ask_if_one_class(path, _of_splits(sources, notes, "folder"), wanted)


def _trees(path: Path, folders: Sequence[str], wanted: Wanted, *, strip: bool) -> dict[str, Tree]:
    if wanted.class_level is not None:
        with contextlib.suppress(UserError):  # the level decides what is ambiguous
            if "" not in (found := find_trees(path, folders, strip=strip)):
                level = FolderLevel(wanted.class_level)
                return {
                    s: Tree(tree.root, None if tree.rule is None else level)
                    for s, tree in found.items()
                }
        if wanted.layout != "splits" and not any(
            len(PurePosixPath(folder).parts) >= wanted.class_level for folder in folders
        ):
            raise UserError(
                f"Source {path} has no folders at level {wanted.class_level}. Change --class-level."
            )
        return {"": Tree("", FolderLevel(wanted.class_level))}
    if wanted.layout == "class-folders":
        return {"": Tree("", FolderLevel(1))}
    if wanted.layout == "synset-folders":
        return {"": Tree("", SynsetFolders())}
    trees = find_trees(path, folders, strip=strip)
    if wanted.layout == "splits" and "" in trees:
        raise UserError(f"Source {path} has no folders train and val. Change --as or SOURCE.")
    return trees


def _choose(
    path: Path, trees: dict[str, Tree], wanted: Wanted
) -> tuple[dict[str, Tree], tuple[str, ...]]:
    """Return the trees to pack, and notes about the others."""

    def is_packed(split: str) -> bool:
        return split != "small_classes" and (split != "test" or trees[split].rule is not None)

    return _choose_splits(path, trees, wanted, is_packed)


def _choose_splits(
    path: Path, found: dict[str, T], wanted: Wanted, is_packed: Callable[[str], bool]
) -> tuple[dict[str, T], tuple[str, ...]]:
    """Return the splits that the user wants, and notes about the others."""
    if "" in found:
        return found, ()
    if wanted.splits is not None:
        if missing := [split for split in wanted.splits if split not in found]:
            raise UserError(
                f"Source {path} has no split {missing[0]!r}; it has {', '.join(found)}. "
                "Change --splits."
            )
        return {split: found[split] for split in wanted.splits}, ()
    chosen = {split: what for split, what in found.items() if is_packed(split)}
    left = [split for split in found if split not in chosen]
    return chosen, tuple(f"split {split}: not packed" for split in left)


def _kaggle(path: Path, root: Path, wanted: Wanted) -> Recognised:
    if wanted.splits is not None and "test" in wanted.splits:
        raise UserError(f"The test images in {root} have no labels. Give --splits train,val.")
    labels = kaggle.val_labels(root)
    sources: dict[str, ImageSource] = {
        "train": FolderSource(root / "train"),
        "val": labelled_folder(root / "val", labels),
    }
    sources = {s: o for s, o in sources.items() if wanted.splits is None or s in wanted.splits}
    notes = ("split test: not packed, it has no labels",) if (root / "test").is_dir() else ()
    recognised = _of_splits(sources, notes, "ImageNet challenge of Kaggle")
    return recognised


def _webdataset(
    path: Path, tars: Sequence[Path], wanted: Wanted, labels: Labels | None = None
) -> Recognised:
    shards = webdataset.shards_by_split(tars)
    chosen, notes = _choose_splits(path, shards, wanted, lambda split: True)
    sources: dict[str, ImageSource] = {
        split: webdataset.WebDataset(path, of_split, wanted.names, labels)
        for split, of_split in chosen.items()
    }
    return _of_splits(sources, notes, "WebDataset")


def _parquet(path: Path, files: Sequence[Path], wanted: Wanted) -> Recognised:
    found: dict[str, parquet.ParquetSource] = {
        split: parquet.ParquetSource(path, of_split, wanted.names)
        for split, of_split in webdataset.shards_by_split(files).items()
    }
    chosen, notes = _choose_splits(path, found, wanted, lambda split: found[split].has_labels())
    if not chosen:
        raise UserError(f"Source {path} has no rows with a label. Give another one.")
    sources: dict[str, ImageSource] = dict(chosen)
    return _of_splits(sources, notes, "Parquet dataset")


def _records(path: Path, files: Sequence[Path], wanted: Wanted) -> Recognised:
    found = webdataset.shards_by_split([f.with_name(f"{f.stem}-{f.suffix}") for f in files])
    by_split = {
        split: [f.with_name(f"{f.stem.removesuffix('-')}{f.suffix}") for f in of_split]
        for split, of_split in found.items()
    }
    if several := next((of for of in by_split.values() if len(of) > 1), None):
        raise UserError(
            f"Source {path} holds {several[0].name} and {several[1].name}. Give one of them."
        )
    chosen, notes = _choose_splits(path, by_split, wanted, lambda split: True)
    sources: dict[str, ImageSource] = {
        split: recordio.RecordSource(of_split[0], wanted.names)
        for split, of_split in chosen.items()
    }
    return _of_splits(sources, notes, "folder of RecordIO files")


def _single(source: ImageSource) -> Recognised:
    return Recognised(source.layout, {"": source})


def _of_splits(sources: dict[str, ImageSource], notes: tuple[str, ...], kind: str) -> Recognised:
    for source in sources.values():
        source.splits = tuple(sources)
    if list(sources) == [""]:
        return Recognised(sources[""].layout, sources, notes)
    parts = ", ".join(f"{split} ({source.layout})" for split, source in sources.items())
    plural = "split" if len(sources) == 1 else "splits"
    return Recognised(f"{kind} with the {plural} {parts}", sources, notes)


def _ask_if_one_class(path: Path, recognised: Recognised, wanted: Wanted) -> Recognised:
    """Refuse a source with one class, which is seldom meant, unless the user has decided it.

    Raises:
        UserError: naming the class.
    """
    found = [source.list_class_ids() for source in recognised.sources.values()]
    class_ids = {class_id for ids in found for class_id in ids or ()}
    if (
        len(class_ids) == 1
        and None not in found
        and not SYNSET.fullmatch(next(iter(class_ids)))
        and wanted == Wanted(splits=wanted.splits)
    ):
        raise UserError(
            f"Source {path} has the one class {class_ids.pop()!r}. Give another folder, "
            "--class-level N to make classes of the folders at level N (1 is the top), or "
            "--as class-folders if one class is right."
        )
    return recognised


def _refuse_flat(path: Path, kind: str, names: Sequence[str]) -> None:
    """Refuse images without class folders.

    Raises:
        UserError: saying how to give their labels.
    """
    if not names:
        return
    if names[0].startswith("ILSVRC2012_test_"):
        raise UserError(
            f"Source {path} has the test images of ILSVRC 2012, whose labels are not published. "
            "Give the folder with train and val."
        )
    table = "FILE"
    if kaggle.labels_of_val(names, path) is not None:
        table = "ilsvrc2012-val"
    raise UserError(
        f"Source {path} is a {kind} of images without class folders, such as {names[0]}. Give "
        f"--labels {table}."
    )


def _refuse_images_beside(path: Path, files: Sequence[Path], layout: str, wanted: Wanted) -> None:
    """Refuse a folder that has class folders beside other files with images.

    Raises:
        UserError: naming a folder.
    """
    if wanted.layout is None and any(
        "/" not in folder and folder and not split_of(folder)
        for folder in folders_with_images(path)
        if any(map(_may_be_image, _some_files(path / folder)))
    ):
        raise UserError(
            f"Source {path} holds {files[0].name} and also folders of images. Give --as {layout}, "
            "or --as class-folders."
        )


def _may_be_image(file: Path) -> bool:
    return may_be_image(file.name)


def _some_files(folder: Path) -> list[Path]:
    """Return the first files of a folder in any order, without system files."""
    files = (entry for entry in folder.iterdir() if entry.is_file() and not is_hidden(entry.name))
    return sorted(itertools.islice(files, 1000))


def _files_in(path: Path, suffix: str) -> list[Path]:
    """Return files with a suffix in a folder and in its folders of splits; tars by default."""
    found: list[Path] = []
    entries = [entry for entry in sorted(path.iterdir()) if not is_hidden(entry.name)]
    folders = [entry for entry in entries if entry.is_dir()]
    for entry in entries:
        if entry.is_dir():
            if len(folders) == 1 or split_of(entry.name) or entry.name in ("data", "default"):
                found += _files_in(entry, suffix)
        elif (entry.suffix == suffix if suffix else tar_stem(entry.name)) and entry.is_file():
            found.append(entry)
    return found
