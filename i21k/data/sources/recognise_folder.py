"""Recognise a folder: splits, class folders, tars, or the files of a dataset."""

import itertools
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from i21k.data.sources import kaggle
from i21k.data.sources.base import EXPECTED, ImageSource, counted, is_hidden, may_be_image
from i21k.data.sources.folders import (
    FolderSource,
    NestedFolder,
    folders_with_images,
)
from i21k.data.sources.given import refuse_gaps
from i21k.data.sources.listed import labelled_folder
from i21k.data.sources.recognise_shards import parquet_files, record_files, webdataset_shards
from i21k.data.sources.recognised import (
    Recognised,
    Wanted,
    ask_if_one_class,
    choose_trees,
    of_splits,
    refuse_disjoint,
    refuse_flat,
    refuse_split_without_classes,
    single,
    trees_in,
)
from i21k.data.sources.rules import SYNSET, FolderLevel, Tree, split_of
from i21k.data.sources.tables import Labels
from i21k.data.sources.tar_folders import NUM_TARS, refuse_strange_tars, why_webdataset
from i21k.data.sources.tar_reader import tar_stem
from i21k.errors import UserError


def recognise_folder(path: Path, labels: Labels | None, wanted: Wanted) -> Recognised:
    """Recognise a folder by the files and folders in it."""
    layout = wanted.layout
    if labels is not None:
        tars = _files_in(path, "")
        if layout == "webdataset" or (tars and not any(map(_may_be_image, _some_files(path)))):
            return webdataset_shards(path, tars, wanted, labels)
        return single(labelled_folder(path, labels))
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
        return parquet_files(path, files, wanted)
    if layout in (None, "recordio") and (files := _files_in(path, ".rec")):
        _refuse_images_beside(path, files, "recordio", wanted)
        return record_files(path, files, wanted)
    tars = _files_in(path, "")
    if layout == "webdataset" or (layout is None and tars and why_webdataset(tars[:NUM_TARS])):
        if not tars:
            raise UserError(f"Source {path} holds no tars. Change --as or SOURCE.")
        refuse_gaps(path, tars)
        return webdataset_shards(path, tars, wanted)
    places = {tar.parent for tar in tars}
    if layout in (None, "synset-tars") and len(places) == 1 and path not in places:
        place = places.pop()
        if not split_of(place.name):
            return recognise_folder(place, None, wanted)
    tars = [tar for tar in tars if tar.parent == path]
    if layout is None:
        refuse_strange_tars(path, tars)
    if layout == "synset-tars" or (tars and layout is None):
        return ask_if_one_class(path, single(FolderSource(path)), wanted)
    return _folder_of_images(path, wanted)


def _folder_of_images(path: Path, wanted: Wanted, *, is_split: bool = False) -> Recognised:
    folders = folders_with_images(path)
    trees = trees_in(path, folders, wanted, strip=False)
    if is_split and "" not in trees:  # a class may be named train: train/train/1.jpg
        trees = {"": Tree("", FolderLevel(1))}
    if "" in trees:
        rule = trees[""].rule
        if rule is None:
            refuse_flat(path, "folder", [entry.name for entry in _some_files(path)])
        parts = [PurePosixPath(folder).parts for folder in folders]
        is_deep = any(SYNSET.fullmatch(part) for folder in parts for part in folder[1:])
        is_nested = (
            rule.level > 1
            if isinstance(rule, FolderLevel)
            else is_deep or wanted.layout == "synset-folders"
        )
        source = NestedFolder(path, rule) if rule is not None and is_nested else FolderSource(path)
        recognised = single(source)
        return recognised if is_split else ask_if_one_class(path, recognised, wanted)
    chosen, notes = choose_trees(path, trees, wanted)
    sources: dict[str, ImageSource] = {}
    for split, tree in chosen.items():
        if tree.rule is None and not any(tar_stem(f.name) for f in _some_files(path / tree.root)):
            val = kaggle.labels_of_val(
                [file.name for file in _some_files(path / tree.root)], path / tree.root
            )
            if val is None:
                refuse_split_without_classes(path, path / tree.root, split, chosen)
            sources[split] = labelled_folder(path / tree.root, val)
        else:
            sub = Wanted(class_level=wanted.class_level)
            if tree.rule is None:
                of_split = recognise_folder(path / tree.root, None, sub)
            else:
                of_split = _folder_of_images(path / tree.root, sub, is_split=True)
            sources[split] = next(iter(of_split.sources.values()))
    num_beside = sum(1 for entry in path.iterdir() if entry.is_file() and not is_hidden(entry.name))
    if num_beside:
        notes += (f"{counted(num_beside, 'file')} beside the splits: not read",)
    refuse_disjoint(path, sources, wanted)
    return ask_if_one_class(path, of_splits(sources, notes, "folder"), wanted)


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
    recognised = of_splits(sources, notes, "ImageNet challenge of Kaggle")
    return recognised


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
