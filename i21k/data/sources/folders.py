"""A folder as a source, whose classes follow from its folders or from the names of its tars."""

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from i21k.data.sources.base import (
    EXPECTED,
    IGNORED,
    NO_CLASS,
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
from i21k.data.sources.file_reader import (
    LINK_OUTSIDE,
    files_of,
    is_link_outside,
    read_file,
    size_and_fingerprint,
    walk,
    walk_folders,
)
from i21k.data.sources.links import are_mostly_links, follow_links, have_folders, refuse_links
from i21k.data.sources.rules import SYNSET, Rule
from i21k.data.sources.tar_reader import Window, read_synset_tar, tar_stem
from i21k.errors import UserError


class FolderSource(ImageSource):
    """A folder of class folders or synset tars, or both.

    Entries whose names begin with a dot are ignored, and their files are counted as skipped. Links
    out of the source are skipped, and so are links to folders inside a class folder. Other links
    are followed. A class folder without images is no class.
    """

    def __init__(self, path: Path) -> None:
        entries = sorted(path.iterdir())
        if all(entry.name.startswith(".") for entry in entries):
            raise UserError(f"Source {path} is empty. {EXPECTED}")
        self._class_of = {entry: _class_of(entry) for entry in entries}
        self._outside = {entry for entry in entries if is_link_outside(entry, path)}
        self._has_images: dict[Path, bool] = dict.fromkeys(entries, False)
        self._num_files = 0
        files = (file for entry in entries for file in self._files_to_hash(entry))
        num_bytes, fingerprint = size_and_fingerprint(path, files)
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
            refuse_links(path, sorted(e for e in self._outside if not is_hidden(e.name)))
        super().__init__(path, layout, num_bytes, fingerprint)
        self.num_files = self._num_files if num_folders == len(of_class) else None

    def _files_to_hash(self, entry: Path) -> Iterator[Path]:
        if entry in self._outside:
            self._num_files += 1
            return
        for file in files_of(entry):
            if not entry.is_dir() or may_be_image(file.relative_to(entry.parent).as_posix()):
                self._has_images[entry] = True
            self._num_files += 1
            yield file

    def list_class_ids(self) -> tuple[str, ...] | None:
        found = {c for entry, c in self._class_of.items() if c and self._has_images[entry]}
        return tuple(sorted(found))

    def advice(self, kinds: Mapping[str, int]) -> str:
        if are_mostly_links(kinds):
            return follow_links(self.path, have_folders(self._class_of))
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
            for file in files_of(entry):
                is_system_file = is_hidden(file.relative_to(self.path).as_posix())
                reason = IGNORED if is_system_file else why_no_class(file.name, NO_CLASS)
                yield Member(self.path.name, file.relative_to(self.path).as_posix(), skipped=reason)
        elif entry.is_dir():
            for file in walk(entry):
                name = file.relative_to(entry).as_posix()
                if is_hidden(name):
                    member = Member(entry.name, name, class_id=class_id, skipped=IGNORED)
                else:
                    member = read_file(file, entry.name, name, class_id, self.path)
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


class NestedFolder(ImageSource):
    """A folder of images whose classes follow from their paths by a rule.

    An entry is a folder that directly holds files.
    """

    def __init__(self, path: Path, rule: Rule) -> None:
        self._rule = rule
        self._folders: list[str] = []
        self._class_ids = set[str]()
        self._num_files = 0
        num_bytes, fingerprint = size_and_fingerprint(path, self._files_to_hash(path))
        check_class_ids(path, sorted(self._class_ids))
        layout = f"folder with {counted(len(self._class_ids), 'class', 'classes')} by {rule}"
        super().__init__(path, layout, num_bytes, fingerprint)
        self.num_files = self._num_files
        self.described = {"classes_by": str(rule)}

    def _files_to_hash(self, path: Path) -> Iterator[Path]:
        for file in walk(path):
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
        if are_mostly_links(kinds):
            is_deep = any(
                self._rule.split(f"{folder}/x")[0] != PurePosixPath(folder).name
                for folder in self._folders
                if not SYNSET.search(folder)
            )
            return follow_links(self.path, is_deep)
        return super().advice(kinds)

    def entries(self) -> list[Position]:
        return [Position(number, -1) for number in range(len(self._folders))]

    def _entries(
        self, first: Position, stop_entry: int | None
    ) -> Iterator[tuple[int, int, Iterator[Member]]]:
        for number, folder in list(enumerate(self._folders))[first.entry : stop_entry]:
            yield 0, number, self._of_folder(folder)

    def _of_folder(self, folder: str) -> Iterator[Member]:
        _, _, files = next(walk_folders(self.path / folder))
        for file in files:
            name = file.relative_to(self.path).as_posix()
            class_id, inside = self._rule.split(name)
            if class_id in self._class_ids and not is_hidden(name):
                member = read_file(file, folder, inside, class_id, self.path)
            else:
                reason = IGNORED if is_hidden(name) else why_no_class(name, NO_CLASS)
                member = Member(self.path.name, name, skipped=reason)
            self.num_bytes_read += len(member.data)
            yield member


def folders_with_images(path: Path) -> list[str]:
    """Return the folders at and below `path` that hold images, judged by their names.

    If there are none, return those with any files that are not ignored.
    """
    with_images, with_files = [], []
    for folder, _, files in walk_folders(path):
        relative = folder.relative_to(path).as_posix() if folder != path else ""
        names = [file.relative_to(path).as_posix() for file in files]
        names = [name for name in names if not is_hidden(name)]
        if names:
            with_files.append(relative)
        if any(map(may_be_image, names)):
            with_images.append(relative)
    return with_images or with_files


def _class_of(entry: Path) -> str:
    """Return the class id of a class folder or synset tar; nothing for what is neither."""
    if entry.name.startswith(".") or is_ignored(entry.name):
        return ""
    return entry.name if entry.is_dir() else tar_stem(entry.name)
