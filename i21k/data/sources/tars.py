"""A tar as a source: a tar of synset tars, or a tar of images.

A tar is read front to back and never extracted. Of a tar that is not compressed, this process
hops from header to header and has the kernel read ahead; the worker that recodes an image reads it
from the page cache.
"""

import hashlib
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from i21k.data.sources.archive_split import ArchiveSplit
from i21k.data.sources.base import (
    EXPECTED,
    MAX_FILE_BYTES,
    MAX_NAME_BYTES,
    START,
    ImageSource,
    Member,
    Position,
    SourceDamaged,
    check_class_ids,
    counted,
    may_be_image,
)
from i21k.data.sources.rules import Rule
from i21k.data.sources.tables import Labels
from i21k.data.sources.tar_reader import (
    Window,
    headers,
    link_targets,
    opener,
    read_linked,
    read_synset_tar,
    read_tar_member,
    refusal,
    refusal_of_name,
    tar_stem,
    tidy,
)
from i21k.errors import UserError

_KEPT_BYTES = 256 << 20  # of files that hard links of a compressed tar name; our choice


class TarSource(ImageSource):
    """A tar of synset tars, such as `fall11_whole.tar`, or with a rule a tar of images.

    It may be compressed. Then there is one entry to begin at, and reading resumes from the
    beginning of the file.

    Args:
        path: of the tar.
        rule: gives the class of each image; None for a tar of synset tars.
        root: folder whose files are read.
    """

    def __init__(self, path: Path, rule: Rule | Labels | None, root: str = "") -> None:
        num_bytes = path.stat().st_size
        if num_bytes == 0:
            raise UserError(f"Source {path} is empty. {EXPECTED}")
        self._split = None if rule is None else ArchiveSplit(rule, root)
        self._entry_offsets: list[int] | None = None
        self._class_ids: tuple[str, ...] | None = None
        self._targets: dict[str, tuple[int, int]] = {}  # offset and size of what hard links name
        self._linked: frozenset[str] = frozenset()  # the same in a compressed tar, by name
        what = (
            "compressed tar of synset tars"
            if self._split is None
            else self._split.layout("compressed tar", None)
        )
        super().__init__(path, what, num_bytes, "")
        if self._split is not None:
            self.described = self._split.describe()
        self._scan_headers()
        if self._entry_offsets is not None and self._class_ids is not None:
            number = len(self._class_ids)
            self.layout = (
                f"tar of {counted(number, 'synset tar')}"
                if self._split is None
                else self._split.layout("tar", number)
            )

    def list_class_ids(self) -> tuple[str, ...] | None:
        return self._class_ids

    def expect(self, folders: Iterable[str], linked: frozenset[str]) -> None:
        """Set the classes and hard-link targets, which a first complete read has found.

        Without effect for a tar that is not compressed: its headers are read at the beginning.

        Args:
            folders: all that hold images.
            linked: files that hard links name. They are kept in memory while it is read.
        """
        assert self._split is not None
        if self._class_ids is None:
            self._linked = linked
            found = {self._class_of(f"{folder}/x") for folder in folders} - {""}
            check_class_ids(self.path, sorted(found))
            if not isinstance(self._split.rule, Labels):
                self._class_ids = tuple(sorted(found))

    def entries(self) -> list[Position]:
        if self._entry_offsets is None:
            return [START]
        return [Position(n, -1, offset) for n, offset in enumerate(self._entry_offsets)]

    def _scan_headers(self) -> None:
        """Find entries, classes and fingerprint of a tar that is not compressed.

        fall11 takes 21,841 seeks. They find an incomplete download in minutes, before anything is
        read.
        """
        with self.path.open("rb") as file:
            whole, digest = Window(file, 0, self.num_bytes), hashlib.blake2b(digest_size=16)
            if opener(whole) is not None:
                return
            offsets, class_ids, has_links, num_files = [], set[str](), False, 0
            try:
                for _, info in headers(whole):
                    offsets.append(info.offset)
                    digest.update(f"{info.name!a} {info.size} {info.mtime}\n".encode())
                    has_links |= info.islnk()
                    if info.isdir():
                        continue
                    num_files += self._split is None or self._split.is_inside(info.name)
                    if refusal(info) and not info.islnk():
                        continue
                    has_images = (
                        not _is_empty_tar(file, info)
                        if self._split is None
                        else may_be_image(info.name)
                    )
                    if has_images and (class_id := self._class_of(info.name)):
                        class_ids.add(class_id)
                if has_links:
                    self._targets = link_targets(whole)
            except SourceDamaged as error:
                raise UserError(
                    f"Source {self.path} is no tar or not a complete one ({error}). "
                    f"Download it again. {EXPECTED}"
                ) from error
        check_class_ids(self.path, sorted(class_ids))
        self.fingerprint = digest.hexdigest()
        self.num_files = num_files if self._split is not None else None
        self._entry_offsets, self._class_ids = offsets, tuple(sorted(class_ids))

    def _class_of(self, name: str) -> str:
        if self._split is None:
            return tar_stem(name)
        return self._split.class_and_name(name)[0] if self._split.is_inside(name) else ""

    def _entries(
        self, first: Position, stop_entry: int | None
    ) -> Iterator[tuple[int, int, Iterator[Member]]]:
        begin = START if self._entry_offsets is None else first
        kept: dict[str, Member] = {}
        num_bytes = 0
        with self.path.open("rb") as file:
            whole = Window(file, 0, self.num_bytes)
            for entry, (tar, info) in enumerate(headers(whole, begin.offset), begin.entry):
                if entry == stop_entry:
                    return
                name = tidy(info.name)
                fits = info.size > MAX_FILE_BYTES or num_bytes + info.size <= _KEPT_BYTES
                if name in self._linked and info.isreg() and fits:
                    kept[name] = read_linked(tar, info)
                    num_bytes += len(kept[name].data)
                if entry >= first.entry:
                    yield info.offset, entry, self._of_entry(tar, info, file, kept)

    def _of_entry(
        self, tar: tarfile.TarFile, info: tarfile.TarInfo, file: IO[bytes], kept: dict[str, Member]
    ) -> Iterator[Member]:
        if info.isdir() or (self._split is not None and not self._split.is_inside(info.name)):
            return
        class_id = self._class_of(info.name)
        target = self._targets.get(tidy(info.linkname)) if info.islnk() else None
        if (reason := refusal(info)) and (not info.islnk() or not (self._split or target)):
            yield Member(self.path.name, info.name[:MAX_NAME_BYTES], skipped=reason)
        elif not class_id or (self._split and self._class_ids and class_id not in self._class_ids):
            reason = "not in a synset tar" if self._split is None else self._split.reason(info.name)
            yield Member(self.path.name, info.name, skipped=reason)
        elif self._split is not None:
            check_class_ids(self.path, (class_id,))
            of_name = tidy(info.linkname if info.islnk() else info.name)
            if of_name in kept and not refusal_of_name(info.name):
                member = kept[of_name]._replace(
                    container=self.path.name, name=tidy(info.name), class_id=class_id
                )
            else:
                member = read_tar_member(tar, info, self.path.name, class_id, self._targets)
            name = member.name if member.skipped else self._split.class_and_name(info.name)[1]
            yield member._replace(name=name)
        else:
            check_class_ids(self.path, (class_id,))
            synset_tar: Any
            if isinstance(tar.fileobj, Window) and not info.issparse():
                synset_tar = Window(file, *(target or (info.offset_data, info.size)))
            else:
                synset_tar = tar.extractfile(info)
            container = PurePosixPath(info.name).name
            for member in read_synset_tar(synset_tar, container, class_id):
                self.num_bytes_read = file.tell()
                yield member
        self.num_bytes_read = file.tell()


def _is_empty_tar(file: IO[bytes], info: tarfile.TarInfo) -> bool:
    """Return whether a tar inside a tar begins with its end mark."""
    file.seek(info.offset_data)
    return info.isreg() and file.read(min(info.size, 512)) == bytes(512)
