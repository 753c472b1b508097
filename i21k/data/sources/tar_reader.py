"""Read tars that may be damaged or hostile, without extracting them.

`tarfile` alone takes a damaged header for the end, loops on negative sizes, keeps every header and
checks no checksum of compressed data. Everything it raises here becomes `SourceDamaged`.
"""

import bz2
import contextlib
import gzip
import io
import lzma
import os
import re
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import IO, Any, Self

from i21k.data.sources.base import (
    IGNORED,
    MAX_FILE_BYTES,
    MAX_NAME_BYTES,
    TOO_LARGE,
    Extent,
    Member,
    SourceDamaged,
    is_hidden,
)

_MAX_HEADER_BYTES = 1 << 20  # of a header that holds a long name or a table; our choice
_READ_BYTES = 1 << 20
_BLOCK_BYTES = 512  # of a header; of tar
_TAR_NAME = re.compile(r"(?P<stem>.+?)\.(tar|tgz|tar\.gz|tar\.bz2|tar\.xz)", re.IGNORECASE)
_OPENERS: dict[bytes, Any] = {  # by the first bytes of a compressed file
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
_LONG_HEADERS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
_EndMark: type[Exception] = tarfile.EOFHeaderError  # type: ignore[attr-defined]


class _StrictTarInfo(tarfile.TarInfo):
    """A header whose sizes are checked, and whose damage is an error rather than the end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        info = super().frombuf(buf, encoding, errors)
        if info.size < 0 or (info.type in _LONG_HEADERS and info.size > _MAX_HEADER_BYTES):
            raise SourceDamaged(f"a header of type {info.type!r} with a size of {info.size} bytes")
        return info

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> Self:
        try:
            info = super().fromtarfile(tar)
        except tarfile.HeaderError as error:
            if isinstance(error, _EndMark):
                raise
            raise SourceDamaged(f"{error} at byte {tar.fileobj.tell()}") from error
        if info.size < 0:  # by an extended header
            raise SourceDamaged(f"a file with a size of {info.size} bytes")
        return info


class Window(io.RawIOBase):
    """A stretch of a file as a file of its own, which knows where its bytes are in the file.

    The streams of `tarfile` copy the bytes four times; this class copies none.
    """

    def __init__(self, file: IO[bytes], start: int, size: int) -> None:
        self.file, self.start, self.size, self._at = file, start, size, 0

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def extent(self, info: tarfile.TarInfo) -> Extent:
        """Return where a member is in the outermost file, and have the kernel read it ahead."""
        if info.offset_data + info.size > self.size:
            raise SourceDamaged("unexpected end of data")
        start = self.start + info.offset_data
        if hasattr(os, "posix_fadvise"):  # the kernel reads front to back, while workers recode
            os.posix_fadvise(self.file.fileno(), start, info.size, os.POSIX_FADV_WILLNEED)
        return Extent(self.file.name, start, info.size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        if self._at < 0:
            raise SourceDamaged(f"data at byte {self._at}")
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        if self._at >= self.size:
            return b""
        rest = self.size - self._at
        self.file.seek(self.start + self._at)
        content = self.file.read(rest if size is None or size < 0 else min(size, rest))
        self._at += len(content)
        return content


def begins_as_tar(block: bytes) -> bool:
    """Return whether the first 512 bytes of a file are a tar header, judged by its checksum.

    The first bytes of a tar are a file name, which may look like the magic number of any other
    format: `BMW/1.jpg` like that of a BMP, `PAR1/1.jpg` like that of a Parquet file. So call this
    function before looking for magic numbers.
    """
    try:
        tarfile.TarInfo.frombuf(block[:_BLOCK_BYTES], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def opener(file: Any) -> Any:
    """Return the function that opens a compressed file; None if the file is not compressed."""
    if isinstance(file, Window):
        begin = file.read(_BLOCK_BYTES)
        file.seek(0)
    else:
        begin = file.peek(_BLOCK_BYTES)
    if begins_as_tar(begin):
        return None
    return next((opener for magic, opener in _OPENERS.items() if begin.startswith(magic)), None)


def headers(file: Any, offset: int = 0) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """Yield the headers of a tar front to back, each with the tar to read its file from.

    Read the file before taking the next header.

    Args:
        file: a `Window` or a stream, compressed or not.
        offset: byte at which the first header begins, in a `Window` that is not compressed.

    Raises:
        SourceDamaged: if the tar ends early, is damaged, or has data behind its end mark, as two
            concatenated tars have.
        OSError: if the disk cannot be read.
    """
    with _hostile():
        opens = opener(file)
        mode: Any = "r:" if isinstance(file, Window) and opens is None else "r|"
        if mode == "r:":
            file.seek(offset)
        # `tarfile` would read only the first of several compressed members, and check no CRC.
        content = opens(file) if opens else file
        with tarfile.open(
            fileobj=content, mode=mode, tarinfo=_StrictTarInfo, bufsize=_READ_BYTES
        ) as opened:
            tar: Any = opened
            while (info := tar.next()) is not None:
                tar.members.clear()  # otherwise `tarfile` keeps them all, 1 KB each
                yield tar, info
            if tar.fileobj.read(_READ_BYTES).strip(b"\0"):
                raise SourceDamaged("there is more behind its end mark; another tar?")


@contextlib.contextmanager
def _hostile() -> Iterator[None]:
    """Take whatever `tarfile` and the decompressors raise in here for damage of the tar."""
    try:
        yield
    except (SourceDamaged, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # a disk error; errors of the decompressors have no number
        raise SourceDamaged(str(error) or type(error).__name__) from error


def read_synset_tar(file: Any, container: str, class_id: str) -> Iterator[Member]:
    """Yield the files of a tar of one class; damage is a skipped member at the end."""
    targets: dict[str, tuple[int, int]] | None = None
    try:
        for tar, info in headers(file):
            if info.islnk() and targets is None:
                can_seek = isinstance(file, Window) and isinstance(tar.fileobj, Window)
                targets = link_targets(file) if can_seek else {}
            if not info.isdir():
                yield read_tar_member(tar, info, container, class_id, targets or {})
    except SourceDamaged as error:
        yield Member(container, "", class_id=class_id, skipped=f"damaged tar: {error}")


def link_targets(file: Window) -> dict[str, tuple[int, int]]:
    """Return byte in the outermost file and size of every file that a hard link of a tar names.

    Raises:
        SourceDamaged: as `headers` does.
    """
    again = Window(file.file, file.start, file.size)
    wanted = {tidy(info.linkname) for _, info in headers(again) if info.islnk()}
    return {
        tidy(info.name): (file.start + info.offset_data, info.size)
        for _, info in headers(Window(file.file, file.start, file.size))
        if info.isreg() and tidy(info.name) in wanted and not info.issparse()
    }


def read_tar_member(
    tar: tarfile.TarFile,
    info: tarfile.TarInfo,
    container: str,
    class_id: str,
    targets: Mapping[str, tuple[int, int]] | None = None,
) -> Member:
    """Return one file of a tar; a hard link is the file that `link_targets` gives for it."""
    if info.islnk() and not (reason := refusal_of_name(info.name)):
        target = (targets or {}).get(tidy(info.linkname))
        if not isinstance(tar.fileobj, Window):
            reason = "hard link in a compressed tar: decompress it first"
        elif target is None:
            reason = "hard link to a file that is not in the tar"
        elif target[1] > MAX_FILE_BYTES:
            reason = TOO_LARGE
        else:
            extent = Extent(tar.fileobj.file.name, *target)
            return Member(container, tidy(info.name), class_id=class_id, extent=extent)
        return Member(container, tidy(info.name), class_id=class_id, skipped=reason)
    if reason := refusal(info) or (TOO_LARGE if info.size > MAX_FILE_BYTES else ""):
        return Member(container, info.name[:MAX_NAME_BYTES], class_id=class_id, skipped=reason)
    name, file = tidy(info.name), tar.fileobj
    if isinstance(file, Window) and not info.issparse():
        return Member(container, name, class_id=class_id, extent=file.extent(info))
    return Member(container, name, _content(tar, info), class_id)


def read_linked(tar: tarfile.TarFile, info: tarfile.TarInfo) -> Member:
    """Return a regular file that hard links name, without a name.

    Its own name does not matter: images may be linked from a hidden folder such as `.store`.
    """
    if info.size > MAX_FILE_BYTES:
        return Member("", "", skipped=TOO_LARGE)
    return Member("", "", _content(tar, info))


def _content(tar: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    with _hostile():
        content = tar.extractfile(info)
        assert content is not None  # it is regular
        return content.read()


def refusal(info: tarfile.TarInfo) -> str:
    """Return why a member of a tar is skipped unread; empty if it is not."""
    if reason := refusal_of_name(info.name):
        return reason
    if info.issym():
        return "symbolic link in a tar"
    return "" if info.isreg() else "not a regular file"


def refusal_of_name(name: str) -> str:
    """Return why a member of an archive is skipped by its name; empty if it is not."""
    if len(name.encode("utf-8", "surrogateescape")) > MAX_NAME_BYTES:
        return "name too long"
    if name.startswith("/") or ".." in name.split("/") or not name.strip("./"):
        return "unsafe name"
    return IGNORED if is_hidden(tidy(name)) else ""


def tar_stem(name: str) -> str:
    """Return `n01440764` for `a/n01440764.tar.gz`, and nothing for a name that is no tar's."""
    match = _TAR_NAME.fullmatch(PurePosixPath(name).name)
    return match["stem"] if match else ""


def tidy(name: str) -> str:
    """Remove `./` and `//` from a path."""
    return PurePosixPath(name).as_posix() if "./" in name or "//" in name else name
