"""What can be packed, as a stream of files: a tar of synset tars, a folder of either, or pictures with a table of labels.

A room of its own so that the packer need not know where a picture comes from. A source is read once, front to back, as a disk that
cannot seek wants it, and never extracted: of a tar that is not compressed this process hops from header to header and has the kernel
fetch what lies between, and the worker that recodes a picture reads it right behind, from the page cache. The class of a picture is
the name of the synset tar or class folder that holds it, or what a table of labels says of its file name.

A source is a sequence of entries: synset tars, class folders, or single pictures where a table tells the classes. Where a file stands
is the number of its entry and its own number in there, so that reading can begin again behind any file, or at any entry.
"""

import abc
import bz2
import contextlib
import gzip
import hashlib
import importlib.util
import io
import lzma
import os
import re
import stat
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple, Self

from i21k.errors import UserError

ILSVRC2012_VAL = "ilsvrc2012-val"
MAX_FILE_BYTES = 1 << 27  # chosen here: no larger file is read into memory
MAX_NAME_BYTES = 4096  # of Linux: no longer path can be opened
_MAX_HEADER_BYTES = 1 << 20  # of a header that holds a long name or a table, chosen here
_READ_BYTES = 1 << 20
_TAR_NAME = re.compile(r"(?P<stem>.+?)\.(tar|tgz|tar\.gz|tar\.bz2|tar\.xz)", re.IGNORECASE)
_OPENERS: dict[bytes, Any] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}  # by how a compressed file begins
_LONG_HEADERS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
_EndMark: type[Exception] = tarfile.EOFHeaderError  # type: ignore[attr-defined]
_TOO_LARGE = f"file larger than {MAX_FILE_BYTES >> 20} MiB"
EXPECTED = "expected a tar of synset tars, a folder of synset tars, a folder of class folders, or --labels for pictures without classes"


class Position(NamedTuple):
    """Where a file stands in its source."""

    entry: int
    number: int  # in the entry; -1 stands before the first
    offset: int = 0  # byte of the source at which the entry begins, where one can seek to it

    @property
    def sequence(self) -> int:
        """One number that orders all files of a source, below 2**63."""
        return (self.entry << 32) + self.number


START = Position(0, -1)


class Extent(NamedTuple):
    """Where a picture lies in a file."""

    path: str
    offset: int
    size: int


class Member(NamedTuple):
    """One file of a source: its content or where that lies, or the reason why it is left out (a kind, and after a colon the detail)."""

    container: str  # the synset tar or class folder
    name: str  # path inside the container
    data: bytes = b""
    class_id: str = ""
    left_out: str = ""
    position: Position = START
    extent: Extent | None = None  # of the content, if it is not in `data`

    @property
    def num_bytes(self) -> int:
        """Size of the content."""
        return self.extent.size if self.extent else len(self.data)

    def content(self) -> bytes:
        """Return the bytes of the file.

        Raises:
            OSError: if they cannot be read.
        """
        if self.extent is None:
            return self.data
        descriptor = os.open(self.extent.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            content = os.pread(descriptor, self.extent.size, self.extent.offset)
        finally:
            os.close(descriptor)
        if len(content) != self.extent.size:
            raise OSError(f"{len(content)} of {self.extent.size} bytes")
        return content

    @property
    def file_name(self) -> str:
        """The name under which the picture is stored, such as `n01440764/n01440764_10026.JPEG`: the same however the source is laid out."""
        return f"{self.class_id}/{self.name}"


class Source(abc.ABC):
    """A tar or a folder. `num_bytes` counts what lies on the disk, `num_bytes_read` how much of it `members` has passed.

    `fingerprint` tells it from another with as many bytes, by the names and sizes of its entries or files, as far as they are seen at once.
    """

    def __init__(self, path: Path, num_bytes: int) -> None:
        self.path = path
        self.num_bytes = num_bytes
        self.num_bytes_read = 0
        self.fingerprint = ""

    @abc.abstractmethod
    def list_class_ids(self) -> tuple[str, ...] | None:
        """Return the classes, sorted, or None where only a whole pass can tell (a compressed tar)."""

    @abc.abstractmethod
    def entries(self) -> list[Position]:
        """Return where each entry begins, or only the first where a file cannot be entered in the middle (a compressed tar)."""

    def members(self, after: Position = START, stop_entry: int | None = None) -> Iterator[Member]:
        """Yield every file behind `after` once, up to an entry or the end, in an order that depends on the source only.

        Raises:
            ValueError: if the source itself ends early or cannot be read; damage inside a synset tar is a member that is left out.
        """
        try:
            for offset, entry, members in self._entries(after, stop_entry):
                for number, member in enumerate(members):
                    if (position := Position(entry, number, offset)).sequence > after.sequence:
                        yield member._replace(position=position)
        except (_DamagedTar, OSError) as error:
            raise UserError(
                f"source {self.path} ends early or is damaged ({error}); {EXPECTED}; download it again"
            ) from error

    @abc.abstractmethod
    def _entries(
        self, first: Position, stop_entry: int | None
    ) -> Iterator[tuple[int, int, Iterator[Member]]]:
        """Yield byte, number and files of each entry, from that of `first` on."""

    def _look_at(self, files: Iterable[Path]) -> None:
        """Take size and fingerprint from all files of a folder."""
        digest = hashlib.blake2b(digest_size=16)
        for file in files:
            num_bytes = 0
            with contextlib.suppress(OSError):  # then it is left out when its turn comes
                status = file.stat()
                num_bytes = status.st_size if stat.S_ISREG(status.st_mode) else 0
            digest.update(f"{str(file).removeprefix(str(self.path))!a} {num_bytes}\n".encode())
            self.num_bytes += num_bytes
        self.fingerprint = digest.hexdigest()

    def _check_class(self, class_id: str) -> str:
        if class_id != class_id.strip() or not class_id.isprintable() or "/" in class_id:
            raise UserError(
                f"source {self.path} has a class {class_id!r}; expected a printable name without / or spaces around it"
            )
        return class_id


def open_source(path: str | Path, labels: Mapping[str, str] | None = None) -> Source:
    """Find out what `path` is, how large, and (where that is cheap) whether it is whole.

    Args:
        path: a tar or a folder.
        labels: class of each file name; given, the source is a tar or folder of pictures without classes around them.

    Raises:
        ValueError: if it is missing, empty, damaged, or neither a tar nor a folder.
    """
    path = Path(path)
    try:
        if path.is_dir():
            return _FolderSource(path) if labels is None else _LabelledFolder(path, labels)
        if path.is_file():
            return _TarSource(path, labels)
    except OSError as error:
        raise UserError(f"source {path} cannot be read ({error}); {EXPECTED}") from error
    raise UserError(
        f"source {path} {'is not a file or folder' if path.exists() else 'does not exist'}; {EXPECTED}"
    )


class _TarSource(Source):
    """A tar of synset tars, such as `fall11_whole.tar`, or with labels a tar of pictures; compressed or not."""

    def __init__(self, path: Path, labels: Mapping[str, str] | None) -> None:
        super().__init__(path, path.stat().st_size)
        self._labels = labels
        if self.num_bytes == 0:
            raise UserError(f"source {path} is empty; {EXPECTED}")
        self._entry_offsets, self._class_ids = self._scan_headers()

    def list_class_ids(self) -> tuple[str, ...] | None:
        return self._class_ids

    def entries(self) -> list[Position]:
        return (
            [START]
            if self._entry_offsets is None
            else [Position(n, -1, offset) for n, offset in enumerate(self._entry_offsets)]
        )

    def _scan_headers(self) -> tuple[list[int] | None, tuple[str, ...] | None]:
        """Hop from header to header: 21,841 seeks that find an incomplete download in minutes, not at the end of a night."""
        with self.path.open("rb") as file:
            whole, digest = _Window(file, 0, self.num_bytes), hashlib.blake2b(digest_size=16)
            if _opener(whole) is not None:
                return None, None
            offsets, class_ids = [], set()
            try:
                for _, info in _headers(whole):
                    offsets.append(info.offset)
                    digest.update(f"{info.name!a} {info.size} {info.mtime}\n".encode())
                    if class_id := "" if _refuse(info) else self._class_of(info.name):
                        class_ids.add(self._check_class(class_id))
            except _DamagedTar as error:
                raise UserError(
                    f"source {self.path} is no tar or not a whole one ({error}); {EXPECTED}; download it again"
                ) from error
        self.fingerprint = digest.hexdigest()
        return offsets, tuple(sorted(class_ids))

    def _class_of(self, name: str) -> str:
        return _tar_stem(name) if self._labels is None else _label(self._labels, _tidy(name))

    def _entries(
        self, first: Position, stop_entry: int | None
    ) -> Iterator[tuple[int, int, Iterator[Member]]]:
        begin = (
            START if self._entry_offsets is None else first
        )  # a compressed tar is read from its beginning
        with self.path.open("rb") as file:
            for entry, (tar, info) in enumerate(
                _headers(_Window(file, 0, self.num_bytes), begin.offset), begin.entry
            ):
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
        if reason := _refuse(info):
            yield Member(self.path.name, info.name[:MAX_NAME_BYTES], left_out=reason)
        elif not class_id:
            yield Member(
                self.path.name,
                info.name,
                left_out="not in a synset tar" if self._labels is None else "no label",
            )
        elif self._labels is not None:
            yield _read_tar_member(tar, info, self.path.name, self._check_class(class_id))
        else:
            is_readable = isinstance(tar.fileobj, _Window) and not info.issparse()
            synset_tar: Any = (
                _Window(file, info.offset_data, info.size) if is_readable else tar.extractfile(info)
            )
            for member in _read_synset_tar(
                synset_tar, PurePosixPath(info.name).name, self._check_class(class_id)
            ):
                self.num_bytes_read = file.tell()
                yield member
        self.num_bytes_read = file.tell()


class _FolderSource(Source):
    """A folder of class folders or synset tars. What begins with a dot is passed over; links are followed to files."""

    def __init__(self, path: Path) -> None:
        folders = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
        if not folders:
            raise UserError(f"source {path} is empty; {EXPECTED}")
        self._class_of = {e: e.name if e.is_dir() else _tar_stem(e.name) for e in folders}
        super().__init__(path, 0)
        for class_id in self.list_class_ids():
            self._check_class(class_id)
        self._look_at(
            file for entry in folders for file in (_walk(entry) if entry.is_dir() else (entry,))
        )

    def list_class_ids(self) -> tuple[str, ...]:
        return tuple(sorted({class_id for class_id in self._class_of.values() if class_id}))

    def entries(self) -> list[Position]:
        return [Position(number, -1) for number in range(len(self._class_of))]

    def _entries(
        self, first: Position, stop_entry: int | None
    ) -> Iterator[tuple[int, int, Iterator[Member]]]:
        for number, (entry, class_id) in list(enumerate(self._class_of.items()))[
            first.entry : stop_entry
        ]:
            yield 0, number, self._of_entry(entry, class_id)

    def _of_entry(self, entry: Path, class_id: str) -> Iterator[Member]:
        if not class_id:
            yield Member(self.path.name, entry.name, left_out="not in a class folder or synset tar")
            return
        if entry.is_dir():
            for file in _walk(entry):
                member = _read_file(file, entry.name, file.relative_to(entry).as_posix(), class_id)
                self.num_bytes_read += len(member.data)
                yield member
            return
        num_bytes_before = self.num_bytes_read
        try:
            with entry.open("rb") as opened:
                for member in _read_synset_tar(
                    _Window(opened, 0, entry.stat().st_size), entry.name, class_id
                ):
                    self.num_bytes_read = num_bytes_before + opened.tell()
                    yield member
        except OSError as error:
            yield Member(
                entry.name, "", class_id=class_id, left_out=f"unreadable file: {error.strerror}"
            )


class _LabelledFolder(Source):
    """A folder of pictures, at any depth, whose classes a table of labels tells."""

    def __init__(self, path: Path, labels: Mapping[str, str]) -> None:
        self._files = list(_walk(path))
        if not self._files:
            raise UserError(f"source {path} is empty; expected pictures; {EXPECTED}")
        super().__init__(path, 0)
        self._class_ids = [
            _label(labels, file.relative_to(path).as_posix()) for file in self._files
        ]
        for class_id in self.list_class_ids():
            self._check_class(class_id)
        self._look_at(self._files)

    def list_class_ids(self) -> tuple[str, ...]:
        return tuple(sorted({*self._class_ids} - {""}))

    def entries(self) -> list[Position]:
        return [Position(number, -1) for number in range(len(self._files))]

    def _entries(
        self, first: Position, stop_entry: int | None
    ) -> Iterator[tuple[int, int, Iterator[Member]]]:
        for number, of_file in list(enumerate(zip(self._files, self._class_ids, strict=True)))[
            first.entry : stop_entry
        ]:
            yield 0, number, self._of_file(*of_file)

    def _of_file(self, file: Path, class_id: str) -> Iterator[Member]:
        name = file.relative_to(self.path).as_posix()
        member = (
            _read_file(file, self.path.name, name, class_id)
            if class_id
            else Member(self.path.name, name, left_out="no label")
        )
        self.num_bytes_read += len(member.data)
        yield member


def read_labels(table: str | Path) -> dict[str, str]:
    """Return the class id of each file, named with or without the folders that it lies in.

    Args:
        table: lines of `file<TAB>class id`, or "ilsvrc2012-val" for the 50,000 validation pictures of ILSVRC 2012, whose labels the
            package tensorflow-datasets ships in the order of their numbers.

    Raises:
        ValueError: if the table cannot be read, or a line is not such a pair.
    """
    if table == ILSVRC2012_VAL:
        spec = importlib.util.find_spec("tensorflow_datasets")  # found, not imported
        assert spec is not None and spec.origin is not None
        ids = (
            (Path(spec.origin).parent / "datasets" / "imagenet2012" / "validation_labels.txt")
            .read_text("utf-8")
            .split()
        )
        return {
            f"ILSVRC2012_val_{number:08d}.JPEG": class_id for number, class_id in enumerate(ids, 1)
        }
    try:
        lines = Path(table).read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"table of labels {table} cannot be read ({error}); expected {ILSVRC2012_VAL} or a file of FILE<TAB>CLASS; change --labels"
        ) from error
    labels = {}
    for number, line in enumerate(lines, 1):
        name, tab, class_id = line.partition("\t")
        if not (name and tab and class_id.strip()) or "\t" in class_id or name in labels:
            raise UserError(
                f"line {number} of {table} is {line!r}; expected FILE<TAB>CLASS, each file once"
            )
        labels[name] = class_id.strip()
    return labels


class _DamagedTar(Exception):
    """A tar that ends early, or holds what no tar should."""


class _StrictTarInfo(tarfile.TarInfo):
    """A header that is not believed blindly.

    `tarfile` takes a damaged or missing header for the end, goes back by a negative size, again and again, and reads a name of any length.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        info = super().frombuf(buf, encoding, errors)
        if info.size < 0 or (info.type in _LONG_HEADERS and info.size > _MAX_HEADER_BYTES):
            raise _DamagedTar(f"a header of type {info.type!r} with a size of {info.size} bytes")
        return info

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> Self:
        try:
            info = super().fromtarfile(tar)
        except tarfile.HeaderError as error:
            if isinstance(error, _EndMark):
                raise
            raise _DamagedTar(f"{error} at byte {tar.fileobj.tell()}") from error
        if info.size < 0:  # by an extended header
            raise _DamagedTar(f"a file with a size of {info.size} bytes")
        return info


def _tar_stem(name: str) -> str:
    match = _TAR_NAME.fullmatch(PurePosixPath(name).name)
    return match["stem"] if match else ""


def _tidy(name: str) -> str:
    """Drop the needless parts of a path."""
    return PurePosixPath(name).as_posix() if "./" in name or "//" in name else name


def _label(labels: Mapping[str, str], name: str) -> str:
    """Return the class of a file that a table names with or without its folders; nothing if it does not."""
    return labels.get(name) or labels.get(PurePosixPath(name).name, "")


def _refuse(info: tarfile.TarInfo) -> str:
    """Say why a member of a tar is left out unread, if it is."""
    if len(info.name.encode("utf-8", "surrogateescape")) > MAX_NAME_BYTES:
        return "name too long"
    if info.name.startswith("/") or ".." in info.name.split("/") or not info.name.strip("./"):
        return "unsafe name"
    return "" if info.isreg() else "not a regular file"


class _Window(io.RawIOBase):
    """A stretch of a file as a file of its own, which knows where its bytes lie; the streams of `tarfile` copy them four times."""

    def __init__(self, file: IO[bytes], start: int, size: int) -> None:
        self._file, self._start, self._size, self._at = file, start, size, 0

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def extent(self, info: tarfile.TarInfo) -> Extent:
        """Return where a member of this member lies in the outermost file."""
        if info.offset_data + info.size > self._size:
            raise _DamagedTar("unexpected end of data")
        start = self._start + info.offset_data
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(
                self._file.fileno(), start, info.size, os.POSIX_FADV_WILLNEED
            )  # the kernel reads on, front to back
        return Extent(self._file.name, start, info.size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if self._at < 0:
            raise _DamagedTar(f"data at byte {self._at}")
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        if self._at >= self._size:
            return b""
        rest = self._size - self._at
        self._file.seek(self._start + self._at)
        content = self._file.read(rest if size is None or size < 0 else min(size, rest))
        self._at += len(content)
        return content


def _opener(file: Any) -> Any:
    """Return what opens a compressed file; None if it is not compressed."""
    if isinstance(file, _Window):
        magic = file.read(6)
        file.seek(0)
    else:
        magic = file.peek(6)
    return next((opener for begin, opener in _OPENERS.items() if magic.startswith(begin)), None)


def _headers(file: Any, offset: int = 0) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """Yield the headers of a tar front to back, each with the tar to read its file from before the next is asked for.

    Args:
        file: a `_Window` or a stream, compressed or not.
        offset: byte at which the first header begins, in a `_Window` that is not compressed.

    Raises:
        _DamagedTar: if it ends early, is damaged, or goes on behind its end mark, as two tars do that were merely joined.
        OSError: if the disk refuses.
    """
    with _hostile():
        opener = _opener(file)
        mode: Any = "r:" if isinstance(file, _Window) and opener is None else "r|"
        if mode == "r:":
            file.seek(offset)
        # Decompressed here, since `tarfile` takes the first of several members for all, and checks no CRC.
        content = opener(file) if opener else file
        with tarfile.open(
            fileobj=content, mode=mode, tarinfo=_StrictTarInfo, bufsize=_READ_BYTES
        ) as opened:
            tar: Any = opened
            while (info := tar.next()) is not None:
                tar.members.clear()  # or it keeps them all, 1 KB each
                yield tar, info
            if tar.fileobj.read(_READ_BYTES).strip(b"\0"):
                raise _DamagedTar("there is more behind its end mark; another tar?")


@contextlib.contextmanager
def _hostile() -> Iterator[None]:
    """Parse in here what cannot be trusted: whatever `tarfile` and the decompressors raise on it is the fault of the tar."""
    try:
        yield
    except (_DamagedTar, MemoryError):
        raise
    except Exception as error:
        if (
            isinstance(error, OSError) and error.errno is not None
        ):  # of the disk; those of the decompressors have no number
            raise
        raise _DamagedTar(str(error) or type(error).__name__) from error


def _read_synset_tar(file: Any, container: str, class_id: str) -> Iterator[Member]:
    try:
        for tar, info in _headers(file):
            if not info.isdir():
                yield _read_tar_member(tar, info, container, class_id)
    except _DamagedTar as error:
        yield Member(container, "", class_id=class_id, left_out=f"damaged tar: {error}")


def _read_tar_member(
    tar: tarfile.TarFile, info: tarfile.TarInfo, container: str, class_id: str
) -> Member:
    if reason := _refuse(info) or (_TOO_LARGE if info.size > MAX_FILE_BYTES else ""):
        return Member(container, info.name[:MAX_NAME_BYTES], class_id=class_id, left_out=reason)
    name, file = _tidy(info.name), tar.fileobj
    if isinstance(file, _Window) and not info.issparse():
        return Member(container, name, class_id=class_id, extent=file.extent(info))
    with _hostile():
        content = tar.extractfile(info)
        assert content is not None  # it is regular
        return Member(container, name, content.read(), class_id)


def _read_file(path: Path, container: str, name: str, class_id: str) -> Member:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return Member(container, name, class_id=class_id, left_out="not a regular file")
        if status.st_size > MAX_FILE_BYTES:
            return Member(container, name, class_id=class_id, left_out=_TOO_LARGE)
        return Member(container, name, path.read_bytes(), class_id)
    except OSError as error:
        return Member(
            container, name, class_id=class_id, left_out=f"unreadable file: {error.strerror}"
        )


def _walk(folder: Path) -> Iterator[Path]:
    """Yield all files below a folder in the order of their names, and links to folders, which are not followed.

    Raises:
        OSError: if a folder cannot be listed.
    """

    def refuse(error: OSError) -> None:
        raise error

    for root, folders, files in os.walk(folder, onerror=refuse):
        folders.sort()
        links = [name for name in folders if Path(root, name).is_symlink()]
        yield from (Path(root, name) for name in sorted(files + links))
