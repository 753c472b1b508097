"""A tar as a source: a tar of synset tars, or a tar of images whose labels are given beside.

The tar is read front to back and never extracted. This process hops from header to header and has
the kernel read ahead; the worker that recodes an image reads it from the page cache.
"""

import hashlib
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from i21k.data.sources.base import (
    EXPECTED,
    MAX_NAME_BYTES,
    START,
    ImageSource,
    Member,
    Position,
    SourceDamaged,
    check_class_ids,
    counted,
)
from i21k.data.sources.tables import Labels
from i21k.data.sources.tar_reader import (
    Window,
    headers,
    opener,
    read_synset_tar,
    read_tar_member,
    refusal,
    tar_stem,
    tidy,
)
from i21k.errors import UserError


class TarSource(ImageSource):
    """A tar of synset tars, such as `fall11_whole.tar`, or with labels a tar of images.

    It may be compressed. Then there is one entry to begin at, and reading resumes from the
    beginning of the file.
    """

    def __init__(self, path: Path, labels: Labels | None) -> None:
        num_bytes = path.stat().st_size
        if num_bytes == 0:
            raise UserError(f"Source {path} is empty. {EXPECTED}")
        self._labels = labels
        self._entry_offsets: list[int] | None = None
        self._class_ids: tuple[str, ...] | None = None
        what = "synset tars" if labels is None else f"images with labels from {labels.table}"
        super().__init__(path, f"compressed tar of {what}", num_bytes, "")
        self._scan_headers()
        if self._entry_offsets is not None and self._class_ids is not None:
            self.layout = (
                f"tar of {counted(len(self._class_ids), 'synset tar')}"
                if labels is None
                else f"tar of images with labels from {labels.table}, "
                + counted(len(self._class_ids), "class", "classes")
            )

    def list_class_ids(self) -> tuple[str, ...] | None:
        return self._class_ids

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
            offsets, class_ids = [], set[str]()
            try:
                for _, info in headers(whole):
                    offsets.append(info.offset)
                    digest.update(f"{info.name!a} {info.size} {info.mtime}\n".encode())
                    if class_id := "" if refusal(info) else self._class_of(info.name):
                        class_ids.add(class_id)
            except SourceDamaged as error:
                raise UserError(
                    f"Source {self.path} is no tar or not a complete one ({error}). "
                    f"Download it again. {EXPECTED}"
                ) from error
        check_class_ids(self.path, sorted(class_ids))
        self.fingerprint = digest.hexdigest()
        self._entry_offsets, self._class_ids = offsets, tuple(sorted(class_ids))

    def _class_of(self, name: str) -> str:
        return tar_stem(name) if self._labels is None else self._labels.of(tidy(name))

    def _entries(
        self, first: Position, stop_entry: int | None
    ) -> Iterator[tuple[int, int, Iterator[Member]]]:
        begin = START if self._entry_offsets is None else first
        with self.path.open("rb") as file:
            whole = Window(file, 0, self.num_bytes)
            for entry, (tar, info) in enumerate(headers(whole, begin.offset), begin.entry):
                if entry == stop_entry:
                    return
                if entry >= first.entry:
                    yield info.offset, entry, self._of_entry(tar, info, file)

    def _of_entry(
        self, tar: tarfile.TarFile, info: tarfile.TarInfo, file: IO[bytes]
    ) -> Iterator[Member]:
        class_id = self._class_of(info.name)
        if info.isdir():
            return
        if reason := refusal(info):
            yield Member(self.path.name, info.name[:MAX_NAME_BYTES], skipped=reason)
        elif not class_id:
            reason = "not in a synset tar" if self._labels is None else "no label"
            yield Member(self.path.name, info.name, skipped=reason)
        elif self._labels is not None:
            check_class_ids(self.path, (class_id,))
            yield read_tar_member(tar, info, self.path.name, class_id)
        else:
            check_class_ids(self.path, (class_id,))
            can_seek = isinstance(tar.fileobj, Window) and not info.issparse()
            synset_tar: Any = (
                Window(file, info.offset_data, info.size) if can_seek else tar.extractfile(info)
            )
            container = PurePosixPath(info.name).name
            for member in read_synset_tar(synset_tar, container, class_id):
                self.num_bytes_read = file.tell()
                yield member
        self.num_bytes_read = file.tell()
