"""A folder as a source: class folders, synset tars, or images whose labels are given beside."""

import contextlib
import hashlib
import os
import shlex
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from i21k.data.sources.base import (
    EXPECTED,
    IGNORED,
    MAX_FILE_BYTES,
    NO_CLASS,
    NO_LABEL,
    TOO_LARGE,
    ImageSource,
    Member,
    Position,
    check_class_ids,
    counted,
    is_hidden,
    is_ignored,
    may_be_image,
    why_no_class,
)
from i21k.data.sources.rules import SYNSET, Rule
from i21k.data.sources.tables import Labels
from i21k.data.sources.tar_reader import Window, read_synset_tar, tar_stem, tidy
from i21k.errors import UserError

LINK_OUTSIDE = "symbolic link out of the source"


class FolderSource(ImageSource):
    """A folder of class folders or synset tars, or both.

    Entries whose names begin with a dot are ignored, and their files are counted as skipped. Links
    to files inside the source are followed. Other links are skipped: links out of the source, and
    links to a folder inside a class folder. A class folder without images is no class.
    """

    def __init__(self, path: Path) -> None:
        entries = sorted(path.iterdir())
        if all(entry.name.startswith(".") for entry in entries):
            raise UserError(f"Source {path} is empty. {EXPECTED}")
        self._class_of = {entry: _class_of(entry) for entry in entries}
        self._outside = {entry for entry in entries if _is_link_outside(entry, path)}
        self._has_images: dict[Path, bool] = dict.fromkeys(entries, False)
        self._num_files = 0
        files = (file for entry in entries for file in self._files_to_hash(entry))
        num_bytes, fingerprint = _size_and_fingerprint(path, files)
        check_class_ids(path, self.list_class_ids() or ())
        of_class = [e for e, class_id in self._class_of.items() if class_id and self._has_images[e]]
        num_folders = sum(entry.is_dir() for entry in of_class)
        num_empty = sum(map(bool, self._class_of.values())) - len(of_class)
        parts = [
            counted(number, noun, plural)
            for number, noun, plural in (
                (num_folders, "class folder", ""),
                (len(of_class) - num_folders, "synset tar", ""),
                (num_empty, "class folder without images", "class folders without images"),
            )
            if number
        ]
        layout = f"folder of {' and '.join(parts)}" if parts else "folder without classes"
        if not of_class:
            _refuse_links(path, sorted(e for e in self._outside if not is_hidden(e.name)))
        super().__init__(path, layout, num_bytes, fingerprint)
        self.num_files = self._num_files if num_folders == len(of_class) else None

    def _files_to_hash(self, entry: Path) -> Iterator[Path]:
        if entry in self._outside:
            self._num_files += 1
            return
        for file in _files_of(entry):
            if not entry.is_dir() or may_be_image(file.relative_to(entry.parent).as_posix()):
                self._has_images[entry] = True
            self._num_files += 1
            yield file

    def list_class_ids(self) -> tuple[str, ...] | None:
        found = {c for entry, c in self._class_of.items() if c and self._has_images[entry]}
        return tuple(sorted(found))

    def advice(self, kinds: Mapping[str, int]) -> str:
        if _are_mostly_links(kinds):
            return _follow_links(self.path, _is_deep(self._class_of))
        return super().advice(kinds)

    def entries(self) -> list[Position]:
        return [Position(number, -1) for number in range(len(self._class_of))]

    def _entries(
        self, first: Position, stop_entry: int | None
    ) -> Iterator[tuple[int, int, Iterator[Member]]]:
        numbered = list(enumerate(self._class_of.items()))
        for number, (entry, class_id) in numbered[first.entry : stop_entry]:
            yield 0, number, self._of_entry(entry, class_id)

    def _of_entry(self, entry: Path, class_id: str) -> Iterator[Member]:
        if entry in self._outside:
            yield Member(self.path.name, entry.name, skipped=LINK_OUTSIDE)
        elif not class_id or not self._has_images[entry]:
            for file in _files_of(entry):
                is_system_file = is_hidden(file.relative_to(self.path).as_posix())
                reason = IGNORED if is_system_file else why_no_class(file.name, NO_CLASS)
                yield Member(self.path.name, file.relative_to(self.path).as_posix(), skipped=reason)
        elif entry.is_dir():
            for file in _walk(entry):
                name = file.relative_to(entry).as_posix()
                if is_hidden(name):
                    member = Member(entry.name, name, class_id=class_id, skipped=IGNORED)
                else:
                    member = _read_file(file, entry.name, name, class_id, self.path)
                self.num_bytes_read += len(member.data)
                yield member
        else:
            yield from self._of_tar(entry, class_id)

    def _of_tar(self, path: Path, class_id: str) -> Iterator[Member]:
        num_bytes_before = self.num_bytes_read
        try:
            with path.open("rb") as file:
                tar = Window(file, 0, path.stat().st_size)
                for member in read_synset_tar(tar, path.name, class_id):
                    self.num_bytes_read = num_bytes_before + file.tell()
                    yield member
        except OSError as error:
            reason = f"unreadable file: {error.strerror}"
            yield Member(path.name, "", class_id=class_id, skipped=reason)


def _refuse_links(path: Path, links: Sequence[Path]) -> None:
    """Refuse a folder whose class folders and tars are all linked from elsewhere.

    Args:
        path: of the source.
        links: its entries that are links out of it. Those to other files are no reason to refuse.

    Raises:
        UserError: saying how to pack what is linked.
    """
    tars = [link for link in links if tar_stem(link.name) and link.is_file()]
    folders = [link for link in links if link.is_dir()]
    missing = [link for link in links if not link.exists()]
    if tars:
        raise UserError(
            f"Source {path} has {counted(len(tars), 'link')} to tars outside of it, such as "
            f"{tars[0].name}, and no classes of its own. {_copy_links(path)}"
        )
    if folders:
        raise UserError(
            f"Source {path} has {counted(len(folders), 'link')} to folders outside of it, such as "
            f"{folders[0].name}, and no classes of its own. "
            f"{_follow_links(path, _is_deep(folders))}"
        )
    if missing:
        raise UserError(
            f"Source {path} has {counted(len(missing), 'link')} to files or folders that do not "
            f"exist, such as {missing[0].name}, and no classes of its own. Mount or download what "
            f"is linked: {os.path.realpath(missing[0])}."
        )


def _follow_links(path: Path, is_deep: bool) -> str:
    """Return what to do with a source whose images are linked.

    Args:
        path: of the source.
        is_deep: whether a list of the files would give other classes. In a list the class is the
            folder that the file is in, or one that is named by a synset id.
    """
    if is_deep:
        return _copy_links(path)
    return f"Pack them with `find -L {shlex.quote(str(path))} -type f | i21k pack -`."


def _copy_links(path: Path) -> str:
    return (
        f"Copy what is linked with `cp -rL {shlex.quote(str(path))} NEW`, and give NEW as SOURCE."
    )


def _is_deep(entries: Iterable[Path]) -> bool:
    """Return whether folders of classes hold files in further folders."""
    folders = [e for e in entries if e.is_dir() and not SYNSET.fullmatch(e.name)]
    return any(files and folder != e for e in folders for folder, _, files in _listed(e))


def _are_mostly_links(kinds: Mapping[str, int]) -> bool:
    return kinds.get(LINK_OUTSIDE, 0) > sum(kinds.values()) / 2


class NestedFolder(ImageSource):
    """A folder of images whose classes follow from their paths by a rule.

    An entry is a folder that directly holds files.
    """

    def __init__(self, path: Path, rule: Rule) -> None:
        self._rule = rule
        self._folders: list[str] = []
        self._class_ids = set[str]()
        self._num_files = 0
        num_bytes, fingerprint = _size_and_fingerprint(path, self._files_to_hash(path))
        check_class_ids(path, sorted(self._class_ids))
        layout = f"folder with {counted(len(self._class_ids), 'class', 'classes')} by {rule}"
        super().__init__(path, layout, num_bytes, fingerprint)
        self.num_files = self._num_files
        self.described = {"classes_by": str(rule)}

    def _files_to_hash(self, path: Path) -> Iterator[Path]:
        for file in _walk(path):
            name = file.relative_to(path).as_posix()
            folder = name.rpartition("/")[0]
            if not self._folders or self._folders[-1] != folder:
                self._folders.append(folder)
            class_id, _ = self._rule.split(name)
            if class_id and may_be_image(name) and not is_hidden(name):
                self._class_ids.add(class_id)
            self._num_files += 1
            yield file

    def list_class_ids(self) -> tuple[str, ...] | None:
        return tuple(sorted(self._class_ids))

    def advice(self, kinds: Mapping[str, int]) -> str:
        if _are_mostly_links(kinds):
            is_deep = any(
                self._rule.split(f"{folder}/x")[0] != PurePosixPath(folder).name
                for folder in self._folders
                if not SYNSET.search(folder)
            )
            return _follow_links(self.path, is_deep)
        return super().advice(kinds)

    def entries(self) -> list[Position]:
        return [Position(number, -1) for number in range(len(self._folders))]

    def _entries(
        self, first: Position, stop_entry: int | None
    ) -> Iterator[tuple[int, int, Iterator[Member]]]:
        for number, folder in list(enumerate(self._folders))[first.entry : stop_entry]:
            yield 0, number, self._of_folder(folder)

    def _of_folder(self, folder: str) -> Iterator[Member]:
        _, _, files = next(_listed(self.path / folder))
        for file in files:
            name = file.relative_to(self.path).as_posix()
            class_id, inside = self._rule.split(name)
            if class_id in self._class_ids and not is_hidden(name):
                member = _read_file(file, folder, inside, class_id, self.path)
            else:
                reason = IGNORED if is_hidden(name) else why_no_class(name, NO_CLASS)
                member = Member(self.path.name, name, skipped=reason)
            self.num_bytes_read += len(member.data)
            yield member


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
        super().__init__(path, layout, *_size_and_fingerprint(root, paths))
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
            member = _read_file(self._root / name, container, inside, class_id, None)
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
    names = [file.relative_to(path).as_posix() for file in _walk(path)]
    if not names:
        raise UserError(f"Source {path} is empty. Give a folder of images.")
    layout = f"folder of {counted(len(names), 'file')} with labels from {labels.table}"
    source = ListedFiles(path, path, [(name, labels.of(name)) for name in names], layout)
    source.described = {"labels": labels.hash}
    return source


def folders_with_images(path: Path) -> list[str]:
    """Return the folders at and below `path` that hold images, judged by their names.

    If there are none, return those with any files that are not ignored.
    """
    with_images, with_files = [], []
    for folder, _, files in _listed(path):
        relative = folder.relative_to(path).as_posix() if folder != path else ""
        names = [file.relative_to(path).as_posix() for file in files]
        names = [name for name in names if not is_hidden(name)]
        if names:
            with_files.append(relative)
        if any(map(may_be_image, names)):
            with_images.append(relative)
    return with_images or with_files


def _is_link_outside(path: Path, source: Path) -> bool:
    """Return whether a path is a link to something outside of the source."""
    # `Path.resolve` raises an error for a loop of links.
    target = Path(os.path.realpath(path))
    return path.is_symlink() and not target.is_relative_to(os.path.realpath(source))


def _class_of(entry: Path) -> str:
    """Return the class id of a class folder or synset tar; nothing for what is neither."""
    if entry.name.startswith(".") or is_ignored(entry.name):
        return ""
    return entry.name if entry.is_dir() else tar_stem(entry.name)


def _files_of(entry: Path) -> Iterable[Path]:
    return _walk(entry) if entry.is_dir() else (entry,)


def _walk(folder: Path) -> Iterator[Path]:
    """Yield all files below a folder in the order of their names, and links to folders as files.

    Raises:
        OSError: if a folder cannot be listed, which `os.walk` alone hides.
    """
    for _, _, files in _listed(folder):
        yield from files


def _listed(folder: Path) -> Iterator[tuple[Path, list[str], list[Path]]]:
    """Walk as `os.walk` does, sorted; the files include links to folders."""

    def refuse(error: OSError) -> None:
        raise error

    for root, folders, files in os.walk(folder, onerror=refuse):
        folders.sort()
        links = [name for name in folders if Path(root, name).is_symlink()]
        yield Path(root), folders, [Path(root, name) for name in sorted(files + links)]


def _size_and_fingerprint(path: Path, files: Iterable[Path]) -> tuple[int, str]:
    """Return the number of bytes of all files, and a hash of their names and sizes."""
    digest, total = hashlib.blake2b(digest_size=16), 0
    for file in files:
        num_bytes = 0
        with contextlib.suppress(OSError):  # such a file is skipped when it is read
            status = file.stat()
            num_bytes = status.st_size if stat.S_ISREG(status.st_mode) else 0
        digest.update(f"{str(file).removeprefix(str(path))!a} {num_bytes}\n".encode())
        total += num_bytes
    return total, digest.hexdigest()


def _read_file(path: Path, container: str, name: str, class_id: str, source: Path | None) -> Member:
    """Read a file, or give the reason why it is skipped.

    Args:
        path: of the file.
        container: of the member.
        name: of the member.
        class_id: of the member.
        source: folder that links must stay in; None follows every link to a file.
    """
    if is_ignored(name):
        return Member(container, name, class_id=class_id, skipped=IGNORED)
    try:
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            if source is not None and _is_link_outside(path, source):
                return Member(container, name, class_id=class_id, skipped=LINK_OUTSIDE)
            status = path.stat()
            if stat.S_ISDIR(status.st_mode):
                reason = "symbolic link to a folder"
                return Member(container, name, class_id=class_id, skipped=reason)
        if not stat.S_ISREG(status.st_mode):
            return Member(container, name, class_id=class_id, skipped="not a regular file")
        if status.st_size > MAX_FILE_BYTES:
            return Member(container, name, class_id=class_id, skipped=TOO_LARGE)
        return Member(container, name, path.read_bytes(), class_id)
    except OSError as error:
        reason = f"unreadable file: {error.strerror}"
        return Member(container, name, class_id=class_id, skipped=reason)
