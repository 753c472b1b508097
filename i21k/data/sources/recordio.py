"""MXNet's RecordIO as a source: a `.rec`, with the `.lst` and `.idx` beside it if they are there.

A record is the magic number, kind and length, a header `IfQQ` of flag, label, id and id2, the
labels if the flag is their number, and the image. A record with several labels is skipped: they may
be classes or boxes. The writer cuts a record where its content holds the magic number.
"""

import hashlib
import itertools
import struct
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from i21k.data.sources.base import (
    MAX_FILE_BYTES,
    NO_LABEL,
    START,
    TOO_LARGE,
    Extent,
    ImageSource,
    Member,
    Position,
    SourceDamaged,
    check_class_ids,
    counted,
)
from i21k.data.sources.label_values import (
    class_of_number,
    is_number,
    label_number,
    label_text,
)
from i21k.data.sources.rules import SYNSET
from i21k.data.sources.tables import slashed
from i21k.errors import UserError
from i21k.labels import ClassList

MAGIC = struct.pack("<I", 0xCED7230A)
_HEADER = struct.Struct("<IfQQ")
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)  # kinds of a piece of a record
_ENTRY_RECORDS = 1024  # between two places to begin at; our choice


class RecordSource(ImageSource):
    """A RecordIO file of images.

    Args:
        path: the `.rec`. Its `.lst` gives file names and classes, its `.idx` places to begin at.
        names: class ids by label; needed where the `.lst` has no folders.
    """

    def __init__(self, path: Path, names: ClassList | None) -> None:
        index, listing = path.with_suffix(".idx"), path.with_suffix(".lst")
        self._list = listing if listing.exists() else None
        self._offsets = _read_index(index) if index.exists() else [0]
        self._has_index = index.exists()
        digest = hashlib.blake2b(repr(self._offsets).encode(), digest_size=16)
        with path.open("rb") as file:
            digest.update(file.read(1 << 16))
            file.seek(0)
            first = next(_records(file, 0), None)
        if first is None:
            raise UserError(f"Source {path} is empty. Give a RecordIO file of images.")
        from_list = _classes_of_list(self._list) if self._list else {}
        self._class_of = from_list
        self._names = names
        if not from_list:
            class_of_number(0, names, str(path))
            assert names is not None
            digest.update(names.hash.encode())
            classes = names.ids
        else:
            classes = tuple(sorted(set(from_list.values())))
        check_class_ids(path, classes)
        self._class_ids = classes
        what = f"folders in {listing.name}" if from_list else "numbers and the given list"
        layout = f"RecordIO file, {counted(len(classes), 'class', 'classes')} by {what}"
        num_bytes = path.stat().st_size
        digest.update(f"{num_bytes}".encode())
        super().__init__(path, layout, num_bytes, digest.hexdigest())
        list_hash = hashlib.sha256(repr(sorted(from_list.items())).encode()).hexdigest()
        self.described = {"classes_by": names.hash if names else list_hash}

    def list_class_ids(self) -> tuple[str, ...] | None:
        return tuple(sorted(self._class_ids))

    def entries(self) -> list[Position]:
        if not self._has_index:
            return [START]
        return [Position(number, -1, offset) for number, offset in enumerate(self._offsets)]

    def _entries(
        self, first: Position, stop_entry: int | None
    ) -> Iterator[tuple[int, int, Iterator[Member]]]:
        offsets = list(enumerate(self._offsets))[first.entry : stop_entry]
        with self.path.open("rb") as file:
            for entry, offset in offsets:
                stop = self._offsets[entry + 1] if entry + 1 < len(self._offsets) else None
                yield offset, entry, self._of_entry(file, offset, stop, entry * _ENTRY_RECORDS)

    def _of_entry(
        self, file: IO[bytes], offset: int, stop: int | None, first_record: int
    ) -> Iterator[Member]:
        names: Iterator[tuple[int, str]] = iter(())
        if self._list is not None:
            names = itertools.islice(_lines_of_list(self._list), first_record, None)
        for piece in _records(file, offset, stop):
            yield self._member(piece, next(names, (-1, "")))
            self.num_bytes_read = file.tell()

    def _member(self, piece: "_Piece", listed: tuple[int, str]) -> Member:
        flag, value, number = _flag_label_and_id(piece)
        name = listed[1] if listed[0] == number else f"{number:08d}.jpg"
        container = self.path.name
        if flag > 1:  # boxes, or an image of several classes
            return Member(container, name, skipped=f"several labels: {flag}")
        label = label_number(label_text(value))
        if label is None:
            return Member(container, name, skipped=f"{NO_LABEL}: {value}")
        class_id = self._class_of.get(label, "")
        if not class_id:
            class_id = class_of_number(label, self._names, f"{container}, record {number}")
        folder, _, inside = name.rpartition(f"{class_id}/")
        name = inside if folder or name.startswith(f"{class_id}/") else name
        begin = _HEADER.size + 4 * flag
        if piece.num_bytes - begin > MAX_FILE_BYTES:
            return Member(container, name, class_id=class_id, skipped=TOO_LARGE)
        if piece.data is not None:
            return Member(container, name, piece.data[begin:], class_id)
        extent = Extent(str(self.path), piece.offset + begin, piece.num_bytes - begin)
        return Member(container, name, class_id=class_id, extent=extent)


class _Piece:
    """A record: where its content is, or the content where it is in several pieces."""

    def __init__(self, offset: int, num_bytes: int, begin: bytes, data: bytes | None) -> None:
        self.offset, self.num_bytes, self.data = offset, num_bytes, data
        self.header, self.labels = begin[: _HEADER.size], begin[_HEADER.size :]


def has_labels(path: Path) -> bool:
    """Return whether one of the first records has a label; in a `test` split it is often -1."""
    with path.open("rb") as file:
        try:
            for piece in itertools.islice(_records(file, 0), _ENTRY_RECORDS):
                flag, value, _ = _flag_label_and_id(piece)
                if flag > 1 or label_number(label_text(value)) is not None:
                    return True
        except SourceDamaged:  # reported when it is read
            return True
    return False


def _flag_label_and_id(piece: _Piece) -> tuple[int, float, int]:
    """Return the fields of a header. The label is behind the header if the flag is not zero."""
    flag, label, number, _ = _HEADER.unpack_from(piece.header)
    if flag:
        label = struct.unpack_from("<f", piece.labels)[0] if len(piece.labels) >= 4 else -1.0
    return flag, label, number


def _records(file: IO[bytes], offset: int, stop: int | None = None) -> Iterator[_Piece]:
    """Yield records from a byte on.

    Raises:
        SourceDamaged: if a record does not begin with the magic number, or the file ends in it.
    """
    size = file.seek(0, 2)
    stop = size if stop is None else stop
    parts: list[bytes] = []
    while offset < stop:
        file.seek(offset)
        start = file.read(8 + _HEADER.size + 4)
        if len(start) < 8 or start[:4] != MAGIC:
            raise SourceDamaged(f"no record at byte {offset}")
        kind, length = divmod(struct.unpack("<I", start[4:8])[0], 1 << 29)
        if offset + 8 + length > size:
            raise SourceDamaged(f"the record at byte {offset} is cut off")
        following = offset + 8 + (length + 3) // 4 * 4
        if kind == _WHOLE:
            if length < _HEADER.size:
                raise SourceDamaged(f"a record of {length} bytes at byte {offset}")
            yield _Piece(offset + 8, length, start[8:], None)
        elif kind in (_FIRST, _MIDDLE, _LAST):
            if (kind == _FIRST) == bool(parts):
                raise SourceDamaged(f"a piece of a record at byte {offset}")
            file.seek(offset + 8)
            parts.append(file.read(length))
            if kind == _LAST:
                content = MAGIC.join(parts)
                parts = []
                if len(content) < _HEADER.size:
                    raise SourceDamaged(f"a record of {len(content)} bytes at byte {offset}")
                yield _Piece(0, len(content), content[: _HEADER.size + 4], content)
        else:
            raise SourceDamaged(f"a record of kind {kind} at byte {offset}")
        offset = following


def _read_index(path: Path) -> list[int]:
    """Return the byte at which every 1,024th record begins.

    Raises:
        UserError: if a line is no pair of numbers, or the first record is not at the beginning.
    """
    offsets = []
    with path.open("r", encoding="utf-8-sig") as lines:
        for number, line in enumerate(line for line in lines if line.strip()):
            cells = line.split()
            if len(cells) != 2 or not cells[1].isdecimal():
                raise UserError(f"Line {number + 1} of {path} is {line!r}; expected two numbers.")
            if number % _ENTRY_RECORDS == 0:
                offsets.append(int(cells[1]))
    if not offsets or offsets[0] != 0 or sorted(offsets) != offsets:
        raise UserError(f"{path} does not list the records in order. Remove it.")
    return offsets


def _lines_of_list(path: Path) -> Iterator[tuple[int, str]]:
    with path.open("r", encoding="utf-8-sig") as lines:
        for line in lines:
            cells = line.rstrip("\r\n").split("\t")
            if len(cells) >= 3 and cells[0].strip().isdecimal():
                yield int(cells[0]), slashed(cells[-1]).removeprefix("./")


def _classes_of_list(path: Path) -> dict[int, str]:
    """Return the class of each label: the folder of its files, if that is the same for all.

    Raises:
        UserError: if files with one label are in different folders.

    Returns:
        Nothing if the folders are no classes.
    """
    found: dict[int, str] = {}
    with path.open("r", encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            cells = line.rstrip("\r\n").split("\t")
            if len(cells) < 3:
                continue
            folders = PurePosixPath(slashed(cells[-1])).parts[:-1]
            synsets = [folder for folder in folders if SYNSET.fullmatch(folder)]
            folder = (synsets or list(folders) or [""])[-1]
            text = label_text(cells[1])
            label = label_number(text)
            if label is None and text and not is_number(text):
                raise UserError(
                    f"Line {number} of {path} is {line.rstrip()!r}; expected a number, a label and "
                    "a file, with tabs between. Correct it, or remove the file."
                )
            if label is None:  # the record is skipped when it is read
                continue
            if folder and found.setdefault(label, folder) != folder:
                raise UserError(
                    f"Line {number} of {path} has label {label} and folder {folder}; an "
                    f"earlier line has folder {found[label]}. Give --classes LIST."
                )
    if len(set(found.values())) < len(found):
        return {}  # images of several labels are in one folder, which is no class
    return found
