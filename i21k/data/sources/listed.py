"""Images whose classes are given beside: by a table of labels, or by lines of standard input."""

import hashlib
import itertools
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from i21k.data.sources.base import (
    NO_LABEL,
    ImageSource,
    Member,
    Position,
    check_class_ids,
    counted,
    is_ignored,
    why_no_class,
)
from i21k.data.sources.file_reader import read_file, size_and_fingerprint, walk
from i21k.data.sources.label_values import class_of_text, label_kind, label_text
from i21k.data.sources.rules import SPLITS, SYNSET, split_of
from i21k.data.sources.tables import (
    Labels,
    parse_labels,
    read_lines,
    splits_of_table,
)
from i21k.data.sources.tar_reader import tidy
from i21k.errors import UserError
from i21k.labels import ClassList

STANDARD_INPUT = "-"


class ListedFiles(ImageSource):
    """Images below a folder whose classes are given beside, by a table or a list of files.

    Args:
        path: the folder, or the table or list itself.
        root: the folder that names are relative to.
        files: each name with its class id; no class id if it has none.
        layout: what it is, as a noun phrase.
    """

    def __init__(
        self, path: Path, root: Path, files: Sequence[tuple[str, str]], layout: str
    ) -> None:
        self._root, self._files = root, files
        check_class_ids(path, self.list_class_ids() or ())
        layout = f"{layout}, {counted(len(self.list_class_ids() or ()), 'class', 'classes')}"
        paths = (root / name for name, _ in files)
        super().__init__(path, layout, *size_and_fingerprint(root, paths))
        self.num_files = len(files)

    def list_class_ids(self) -> tuple[str, ...] | None:
        return tuple(sorted({class_id for _, class_id in self._files} - {""}))

    def entries(self) -> list[Position]:
        return [Position(number, -1) for number in range(len(self._files))]

    def _entries(
        self, first: Position, stop_entry: int | None
    ) -> Iterator[tuple[int, int, Iterator[Member]]]:
        numbered = list(enumerate(self._files))
        for number, (name, class_id) in numbered[first.entry : stop_entry]:
            yield 0, number, self._of_file(name, class_id)

    def _of_file(self, name: str, class_id: str) -> Iterator[Member]:
        container = self._root.name
        if class_id or is_ignored(name):
            inside = _inside_class(tidy(name), class_id, self._root)
            member = read_file(self._root / name, container, inside, class_id, None)
        else:
            member = Member(container, name, skipped=why_no_class(Path(name).name, NO_LABEL))
        self.num_bytes_read += len(member.data)
        yield member


def _inside_class(name: str, class_id: str, root: Path) -> str:
    """Return the name of a file in its class: what is below a folder of this name, if there is one.

    So it is the same name as in a folder of class folders.
    """
    if name.startswith("/"):
        absolute = root.absolute().as_posix()
        name = name.removeprefix(f"{absolute}/").lstrip("/")
    *folders, file = name.split("/")
    if class_id in folders:
        at = len(folders) - folders[::-1].index(class_id)
        return "/".join([*folders[at:], file])
    return name


def labelled_folder(path: Path, labels: Labels) -> ListedFiles:
    """Return a folder of images, at any depth, whose classes are given by a table of labels.

    Files that the table does not name have no class; the source may have no classes at all.

    Raises:
        UserError: if the folder is empty, or a class id is no printable name.
    """
    names = [file.relative_to(path).as_posix() for file in walk(path)]
    if not names:
        raise UserError(f"Source {path} is empty. Give a folder of images.")
    layout = f"folder of {counted(len(names), 'file')} with labels from {labels.table}"
    source = ListedFiles(path, path, [(name, labels.of(name)) for name in names], layout)
    source.described = {"labels": labels.hash}
    return source


def table_sources(path: Path, names: ClassList | None) -> dict[str, ListedFiles]:
    """Return the images that a table names, by split; paths are relative to the table's folder.

    The split is empty if no column names it.

    Raises:
        UserError: if the table cannot be read, or names no file that is there.
    """
    lines, root = read_lines(path), path.parent
    found = {
        split: Labels(str(path), parse_labels(str(path), lines, names, split))
        for split in splits_of_table(str(path), lines)
    }
    files = {split: list(labels.class_id_of.items()) for split, labels in found.items()}
    all_files = [name for of_split in files.values() for name, _ in of_split]
    if not all_files:
        raise UserError(f"Table {path} names no files. Give lines of FILE<TAB>CLASS.")
    if not any((root / name).exists() for name in all_files):
        raise UserError(
            f"Table {path} names {all_files[0]}, which is not in the folder {root.resolve()}. Put "
            "the table into the folder of the images, or give the folder as SOURCE and --labels "
            f"{path}."
        )
    sources = {}
    for split, labels in found.items():
        layout = f"table of {counted(len(files[split]), 'image')}"
        sources[split] = ListedFiles(path, root, files[split], layout)
        sources[split].described = {"labels": labels.hash}
    return sources


def standard_input_sources(lines: Iterable[str], names: ClassList | None) -> dict[str, ListedFiles]:
    """Return the images of a list of files, such as `find` prints it, by split.

    A line is a path, or a path and a class with a tab between. Without a tab it is the innermost
    folder that is named by a synset id, or else the folder that the file is in. If every path has
    a folder such as `train` or `val` before its class, that is its split; otherwise the split is
    empty. `_splits_of` says which folders count.

    Raises:
        UserError: if the list is empty, a file is in no folder, or a line is there twice.
    """
    listed: dict[tuple[str, str], tuple[str, ...] | None] = {}  # name, class: folders before it
    lines = list(lines)
    texts = [line.partition("\t")[2] for line in lines if "\t" in line]
    kinds = {label_kind(label_text(text)) for text in texts}
    for number, line in enumerate(lines, 1):
        name, tab, class_text = line.rstrip("\r\n").partition("\t")
        if not name.strip() or is_ignored(name):
            continue
        name = name.removeprefix("./")
        before, class_id = None, class_of_text(label_text(class_text), kinds, names, "The list")
        if not tab:
            before, class_id = _class_of(name)
        if (name, class_id) in listed:
            raise UserError(f"Line {number} of standard input is there twice: {name}. Remove one.")
        listed[name, class_id] = before
    by_split: dict[str, list[tuple[str, str]]] = {}
    for file, split in zip(listed, _splits_of(list(listed.values())), strict=True):
        by_split.setdefault(split, []).append(file)
    found = {class_id for _, class_id in listed}
    if len(found) == 1 and not texts and not SYNSET.fullmatch(one := found.pop()):
        raise UserError(
            f"All files of standard input are in the class {one!r}, by the folder that they are in."
            " Write FILE<TAB>CLASS, also if one class is right."
        )
    if not by_split:
        raise UserError("Standard input names no files. Write one path a line.")
    if "" in by_split:
        by_split = {"": [file for of_split in by_split.values() for file in of_split]}
    sources = {}
    for split in sorted(by_split, key=lambda name: (name != "train", name)):
        files = by_split[split]
        layout = f"list of {counted(len(files), 'file')} on standard input"
        sources[split] = ListedFiles(Path("stdin"), Path(), files, layout)
        digest = hashlib.sha256("".join(f"{n}\t{c}\n" for n, c in files).encode(*_BYTES))
        sources[split].described = {"labels": digest.hexdigest()}
    return sources


def _class_of(name: str) -> tuple[tuple[str, ...], str]:
    """Return the folders before that of the class, and the class."""
    folders = [folder for folder in PurePosixPath(name).parts[:-1] if folder not in ("/", "..")]
    synsets = [at for at, folder in enumerate(folders) if SYNSET.fullmatch(folder)]
    if not folders and Path(name).is_dir():
        raise UserError(
            f"Standard input names the folder {name}; expected files. Add -type f to find."
        )
    if not folders:
        raise UserError(
            f"File {name} of standard input is in no folder that could be its class. Write "
            "FILE<TAB>CLASS."
        )
    at = synsets[-1] if synsets else len(folders) - 1
    return tuple(folders[:at]), folders[at]


def _splits_of(before_class: Sequence[tuple[str, ...] | None]) -> list[str]:
    """Return the split of each file, by the folders before its class; it is empty if none is one.

    Of the folders that all files have in common only the innermost may be the split, as in
    `data/val/cat/1.jpg`. Those around the data do not name splits, such as `/home/test`. Names such
    as `dev` are splits only where another is `train`.
    """
    known = [folders for folders in before_class if folders is not None]
    pairs = zip(min(known, default=()), max(known, default=()), strict=False)
    common = [one for one, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)]
    has_train = any(
        split_of(folder) == "train" for folders in known for folder in folders[len(common) :]
    )
    name_split = split_of if has_train else _plain_split_of
    of_all = _plain_split_of(common[-1]) if common else ""
    splits = []
    for folders in before_class:
        own = () if folders is None else folders[len(common) :][::-1]
        of_all_or_none = "" if folders is None else of_all
        splits.append(next(filter(None, map(name_split, own)), of_all_or_none))
    return splits


def _plain_split_of(folder: str) -> str:
    return SPLITS.get(folder.lower(), "")


_BYTES = ("utf-8", "surrogateescape")


def read_standard_input() -> list[str]:
    """Return the lines of standard input, or what is between zeros, as `find -print0` writes."""
    content = sys.stdin.buffer.read().removeprefix(b"\xef\xbb\xbf").decode(*_BYTES)
    return content.split("\0") if "\0" in content else content.split("\n")
