"""Recognise what a source is by looking at it, before anything is read."""

import contextlib
import itertools
import re
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeVar

from i21k.data.sources import kaggle, listed, parquet, recordio, webdataset
from i21k.data.sources.archives import ArchiveLook, look_into
from i21k.data.sources.base import (
    EXPECTED,
    ImageSource,
    SourceDamaged,
    counted,
    is_ignored,
)
from i21k.data.sources.folders import (
    FolderSource,
    NestedFolder,
    folders_with_files,
    is_hidden,
    labelled_folder,
)
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
from i21k.data.sources.tar_reader import Window, headers, tar_stem
from i21k.data.sources.tars import TarSource, ZipSource
from i21k.errors import UserError
from i21k.labels import ClassList

T = TypeVar("T")
_NUM_TARS, _NUM_SAMPLES = 3, 32  # that are looked at; our choice: all tars of a source are alike
_TABLES = frozenset({".csv", ".tsv", ".txt"})
_URL = re.compile(r"(\w[\w+.-]+)::?/+")


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
        _refuse_url(str(path))
    if [str(path) for path in paths] == [listed.STANDARD_INPUT]:
        source = listed.standard_input_source(listed.read_standard_input(), wanted.names)
        return Recognised(source.layout, {"": source})
    found = [match for path in paths for match in _expand(path)]
    first = Path(paths[0])
    try:
        if len(found) > 1 or found[0] != first:
            return _shards(first, found, wanted)
        if first.is_dir():
            return _folder(first, labels, wanted)
        if first.is_file():
            return _file(first, labels, wanted)
    except OSError as error:
        raise UserError(f"Source {first} cannot be read ({error}). {EXPECTED}") from error
    state = "is not a file or folder" if first.exists() else "does not exist"
    raise UserError(f"Source {first} {state}. {EXPECTED}")


def _refuse_url(path: str) -> None:
    match = _URL.match(path)
    if not match or Path(path).exists():
        return
    scheme = match.group(1).lower()
    how = {
        "s3": "aws s3 sync",
        "gs": "gcloud storage rsync",
        "hf": "hf download --repo-type dataset",
        "http": "curl -O",
        "https": "curl -O",
    }.get(scheme, "a mount")
    raise UserError(
        f"Source {path} is an address ({scheme}); expected files. Copy it to a disk first, for "
        f"example with `{how}`, or mount it, and give the folder."
    )


def _expand(path: str | Path) -> list[Path]:
    """Return the files that a pattern such as `shard-{0000..0063}.tar` or `*.tar` stands for."""
    text = str(path)
    if Path(text).exists():
        return [Path(text)]
    if match := re.search(r"\{(\d+)\.\.(\d+)\}", text):
        begin, end = match.groups()
        before, after = text[: match.start()], text[match.end() :]
        numbers = range(int(begin), int(end) + 1)
        files = [Path(f"{before}{n:0{len(begin)}d}{after}") for n in numbers]
        if missing := [file for file in files if not file.exists()]:
            raise UserError(
                f"Source {text} stands for {len(files)} files, and {missing[0]} is not there. "
                "Download it, or change the range."
            )
        return files
    if any(character in text for character in "*?["):
        files = sorted(Path(Path(text).anchor).glob(text.removeprefix(Path(text).anchor)))
        if files:
            return files
    return [Path(text)]


def _shards(path: Path, files: list[Path], wanted: Wanted) -> Recognised:
    """Return several files as one source."""
    if all(file.suffix == ".parquet" for file in files):
        return _parquet(path, files, wanted)
    if wanted.layout in (None, "webdataset") and all(tar_stem(file.name) for file in files):
        if wanted.layout is None and not _why_webdataset(files):
            raise UserError(
                f"Source {path} stands for {len(files)} tars that are no WebDataset. Put them into "
                "one folder and give the folder."
            )
        return _webdataset(path, files, wanted)
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
        return _single(listed.table_source(path, wanted.names))
    if labels is not None:
        is_zip = zipfile.is_zipfile(path)
        return _single((ZipSource if is_zip else TarSource)(path, labels))
    if layout == "webdataset":
        return _webdataset(path, [path], wanted)
    look = look_into(path)
    if layout is None and look.kind == "tar" and look.has_tars and (why := _why_inside(path)):
        raise UserError(
            f"Source {path} holds WebDataset tars: {why}. Unpack the outer tar and give the folder."
        )
    if layout is None and look.kind == "tar" and not look.has_tars and _why_webdataset([path]):
        return _webdataset(path, [path], wanted)
    if layout == "synset-tars" or (layout is None and look.kind == "tar" and look.has_tars):
        return _single(TarSource(path, None))
    if not look.folders:  # an empty, damaged or flat archive
        if look.kind == "zip":
            raise UserError(f"Source {path} is a zip without class folders. Give --labels FILE.")
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
            of_split = kaggle.labels_of_val(look.names_in(tree.root))
        if of_split is None:
            raise UserError(
                f"Source {path} has no class folders in {tree.root}. Unpack it, or give "
                "--splits with the others."
            )
        sources[split] = make(path, of_split, tree.root)
    if "" not in sources and look.kind == "tar" and look.is_compressed and len(sources) > 1:
        notes += (f"it is read {len(sources)} times, once for each split",)
    return _of_splits(sources, notes, f"{'compressed ' if look.is_compressed else ''}{look.kind}")


def _folder(path: Path, labels: Labels | None, wanted: Wanted) -> Recognised:
    layout = wanted.layout
    if labels is not None:
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
        return _parquet(path, files, wanted)
    if layout in (None, "recordio") and (files := _files_in(path, ".rec")):
        return _records(path, files, wanted)
    tars = _files_in(path, "")
    if layout == "webdataset" or (layout is None and tars and _why_webdataset(tars[:_NUM_TARS])):
        if not tars:
            raise UserError(f"Source {path} holds no tars. Change --as or SOURCE.")
        return _webdataset(path, tars, wanted)
    if layout is None:
        _refuse_numbered_tars(path, tars)
    if layout == "synset-tars" or (tars and layout is None and tars[0].parent == path):
        return _single(FolderSource(path))
    folders = list(folders_with_files(path))
    trees = _trees(path, folders, wanted, strip=False)
    if "" in trees:
        rule = trees[""].rule
        if isinstance(rule, FolderLevel) and rule.level > 1:
            return _single(NestedFolder(path, rule))
        parts = [PurePosixPath(folder).parts for folder in folders]
        is_deep = any(SYNSET.fullmatch(part) for folder in parts for part in folder[1:])
        if isinstance(rule, SynsetFolders) and (is_deep or layout == "synset-folders"):
            return _single(NestedFolder(path, rule))
        return _single(FolderSource(path))
    chosen, notes = _choose(path, trees, wanted)
    sources: dict[str, ImageSource] = {}
    for split, tree in chosen.items():
        if tree.rule is None:
            val = kaggle.labels_of_val(
                file.name for file in itertools.islice((path / tree.root).iterdir(), 1000)
            )
            if val is None:
                raise UserError(
                    f"Source {path} has no class folders in {tree.root}. Pack it by itself with "
                    f"--labels FILE, and the others with --splits "
                    f"{','.join(s for s in chosen if s != split)}."
                )
            sources[split] = labelled_folder(path / tree.root, val)
        else:
            of_split = _folder(path / tree.root, None, Wanted(class_level=wanted.class_level))
            sources[split] = next(iter(of_split.sources.values()))
    num_beside = sum(1 for entry in path.iterdir() if entry.is_file() and not is_hidden(entry.name))
    if num_beside:
        notes += (f"{counted(num_beside, 'file')} beside the splits: not read",)
    return _of_splits(sources, notes, "folder")


def _trees(path: Path, folders: Sequence[str], wanted: Wanted, *, strip: bool) -> dict[str, Tree]:
    if wanted.class_level is not None:
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


def _webdataset(path: Path, tars: Sequence[Path], wanted: Wanted) -> Recognised:
    shards = webdataset.shards_by_split(tars)
    chosen, notes = _choose_splits(path, shards, wanted, lambda split: True)
    sources: dict[str, ImageSource] = {
        split: webdataset.WebDataset(path, of_split, wanted.names)
        for split, of_split in chosen.items()
    }
    return _of_splits(sources, notes, "WebDataset")


def _parquet(path: Path, files: Sequence[Path], wanted: Wanted) -> Recognised:
    found = {
        split: parquet.ParquetSource(path, of_split, wanted.names)
        for split, of_split in webdataset.shards_by_split(files).items()
    }
    chosen, notes = _choose_splits(path, found, wanted, lambda split: found[split].has_labels())
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


def _files_in(path: Path, suffix: str) -> list[Path]:
    """Return files with a suffix in a folder and in its folders of splits; tars by default."""
    folders = [e for e in path.iterdir() if e.is_dir() and (split_of(e.name) or e.name == "data")]
    files = itertools.chain(path.iterdir(), *(folder.iterdir() for folder in folders))
    return sorted(
        file
        for file in files
        if (file.suffix == suffix if suffix else tar_stem(file.name))
        and file.is_file()
        and not is_hidden(file.name)
    )


def _why_webdataset(tars: Sequence[Path]) -> str:
    for tar in itertools.islice((tar for tar in tars if not is_ignored(tar.name)), _NUM_TARS):
        with tar.open("rb") as file, contextlib.suppress(UserError):
            window = Window(file, 0, tar.stat().st_size)
            if why := webdataset.looks_like_webdataset(window, tar.name, _NUM_SAMPLES):
                return f"{tar.name} has {why}"
    return ""


def _why_inside(path: Path) -> str:
    """Return why the tars in a tar look like a WebDataset."""
    num_tars = 0
    with path.open("rb") as file, contextlib.suppress(SourceDamaged):
        for tar, info in itertools.islice(
            headers(Window(file, 0, path.stat().st_size)), _NUM_SAMPLES
        ):
            if not info.isreg() or info.issparse() or not tar_stem(info.name):
                continue
            inner: Any = tar.extractfile(info)
            if isinstance(tar.fileobj, Window):
                inner = Window(file, info.offset_data, info.size)
            name = PurePosixPath(info.name).name
            if why := webdataset.looks_like_webdataset(inner, name, _NUM_SAMPLES):
                return f"{name} has {why}"
            num_tars += 1
            if num_tars == _NUM_TARS:  # what follows may be many GB behind in a compressed tar
                break
    return ""


def _refuse_numbered_tars(path: Path, tars: Sequence[Path]) -> None:
    """Refuse tars that are numbered and have no labels; each would become one class."""
    numbered = [tar for tar in tars if re.search(r"(^|[-_])\d{3,}$", tar_stem(tar.name))]
    if len(numbered) > 1 and not any(SYNSET.fullmatch(tar_stem(tar.name)) for tar in tars):
        raise UserError(
            f"Source {path} holds numbered tars without labels, such as {numbered[0].name}. Give "
            "--as synset-tars if each is a class."
        )
