"""Read and write MXNet's `.params` files in their four layouts, with NumPy alone.

Such files come from strangers. So every count, shape and length is compared with the bytes that are
left before anything is allocated, and errors name the file and the byte. A file is little-endian:

    uint64 0x112 | uint64 0 | uint64 N | N arrays | uint64 N | N names (uint64 length, UTF-8)

An array is a header, int32 device, int32 device id, int32 dtype, and data in C order. The headers:

    2015  uint32 ndim, ndim x uint32
    V1    uint32 0xF993FAC8, uint32 ndim, ndim x int64
    V2    uint32 0xF993FAC9, int32 storage type (0: dense), int32 ndim, ndim x int64
    V3    uint32 0xF993FACA, as V2

Source: MXNet src/ndarray/ndarray.cc at c39de26131 (2015), 05e07287a7 (V1), 0b1363116c (V2),
e8a20fbb15 (V3).
"""

import math
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

import numpy as np

from i21k import files
from i21k.errors import UserError

Layout = Literal["2015", "V1", "V2", "V3"]

_FILE_MAGIC = 0x112
_LAYOUTS: dict[int, Layout] = {0xF993FAC8: "V1", 0xF993FAC9: "V2", 0xF993FACA: "V3"}
_MAGICS = {layout: magic for magic, layout in _LAYOUTS.items()}
_DTYPES: dict[int, np.dtype[Any]] = {
    0: np.dtype("<f4"),
    1: np.dtype("<f8"),
    2: np.dtype("<f2"),
}  # by MXNet's type flag
_DEVICES = (1, 2, 3, 5)  # where it was saved from: CPU, GPU, pinned, shared memory
_MAX_NDIM = 8  # our choice; the network has 4
_MAX_ARRAYS = 10_000  # our choice; the network has 416
_MAX_NAME_BYTES = 1024  # our choice; the longest name has 35
_MIN_ARRAY_BYTES = 4 + 4 + 12 + 2  # ndim, one dimension, device and dtype, one float16
_MIN_NAME_BYTES = 8 + 1


class _Stream:
    """A file that is read from its beginning, with the number of bytes that remain."""

    def __init__(self, path: Path, file: BinaryIO):
        self.path, self.file, self.offset = path, file, 0
        self.size = os.fstat(file.fileno()).st_size

    @property
    def left(self) -> int:
        return self.size - self.offset

    def error(self, problem: str, at: int | None = None) -> UserError:
        return UserError(f"{self.path}, byte {self.offset if at is None else at}: {problem}")

    def bytes(self, count: int, what: str) -> bytes:
        if count > self.left:
            raise self.error(
                f"{what} needs {count:,} bytes, the file has {self.left:,} left. "
                "It is truncated or damaged."
            )
        data = self.file.read(count)
        if len(data) != count:
            raise self.error(f"{what} cannot be read: the file became shorter while it was read")
        self.offset += count
        return data

    def numbers(self, layout: str, what: str) -> tuple[int, ...]:
        return struct.unpack(f"<{layout}", self.bytes(struct.calcsize(f"<{layout}"), what))

    def count(self, what: str, smallest_bytes: int) -> int:
        (count,) = self.numbers("Q", f"the number of {what}")
        if count > _MAX_ARRAYS:
            raise self.error(f"{count:,} {what}; expected at most {_MAX_ARRAYS:,}", self.offset - 8)
        if count * smallest_bytes > self.left:
            raise self.error(
                f"{count:,} {what} do not fit in the {self.left:,} bytes left", self.offset - 8
            )
        return count


def read_params(path: str | Path) -> dict[str, np.ndarray]:
    """Read the arrays of a `.params` file by name, such as `arg:conv_conv1_weight`.

    They keep their types: float16, float32 or float64.

    Raises:
        UserError: naming file and byte, if the file has anything but named, dense, finite arrays.
    """
    path = Path(path)
    try:
        with files.open_regular(path) as file:
            return _read_list(_Stream(path, file))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error}); expected MXNet's .params") from error


def _read_list(stream: _Stream) -> dict[str, np.ndarray]:
    magic, reserved = stream.numbers("QQ", "the file's header")
    if magic != _FILE_MAGIC or reserved != 0:
        raise stream.error(
            f"the file begins with {magic:#x} and {reserved:#x}; "
            "expected 0x112 and 0x0 of MXNet's .params",
            0,
        )
    num_arrays = stream.count("arrays", _MIN_ARRAY_BYTES)
    arrays, starts = [], []
    for k in range(num_arrays):
        starts.append(stream.offset)
        arrays.append(_read_array(stream, f"array {k} of {num_arrays}"))
    at = stream.offset
    num_names = stream.count("names", _MIN_NAME_BYTES)
    if num_names != num_arrays:
        raise stream.error(f"{num_names:,} names for {num_arrays:,} arrays; expected one each", at)
    named: dict[str, np.ndarray] = {}
    for k, array in enumerate(arrays):
        at = stream.offset
        name = _read_name(stream, f"name {k} of {num_names}")
        if name in named:
            raise stream.error(f"name {name!r} occurs twice; expected distinct names", at)
        if not np.isfinite(array).all():
            raise stream.error(
                f"array {name!r} holds {_first_not_finite(array)}; expected finite values",
                starts[k],
            )
        named[name] = array
    if stream.left:
        raise stream.error(f"{stream.left:,} bytes are left over after the last name")
    return named


def _read_array(stream: _Stream, what: str) -> np.ndarray:
    start = stream.offset
    (word,) = stream.numbers("I", what)
    layout = _LAYOUTS.get(word, "2015")
    ndim = word
    if layout in ("V2", "V3"):
        (storage,) = stream.numbers("i", f"the storage type of {what}")
        if storage != 0:
            raise stream.error(
                f"{what} has storage type {storage}; expected 0, a dense array", stream.offset - 4
            )
    if layout != "2015":
        (ndim,) = stream.numbers("i", f"the number of dimensions of {what}")
    if not 1 <= ndim <= _MAX_NDIM:
        raise stream.error(f"{what} has {ndim:,} dimensions; expected 1 to {_MAX_NDIM}", start)
    shape = stream.numbers(f"{ndim}{'I' if layout == '2015' else 'q'}", f"the shape of {what}")
    if min(shape) <= 0:
        raise stream.error(f"{what} has shape {shape}; expected positive dimensions", start)
    device, _, flag = stream.numbers("3i", f"device and dtype of {what}")
    if device not in _DEVICES:
        raise stream.error(
            f"{what} has device type {device}; expected one of {', '.join(map(str, _DEVICES))}",
            stream.offset - 12,
        )
    if flag not in _DTYPES:
        raise stream.error(
            f"{what} has type flag {flag}; expected 0, 1 or 2 (float32, float64 or float16)",
            stream.offset - 4,
        )
    num_bytes = math.prod(shape) * _DTYPES[flag].itemsize  # Python's integers: no shape overflows
    if num_bytes > stream.left:
        raise stream.error(
            f"{what} of shape {shape} needs {num_bytes:,} bytes, the file has {stream.left:,} left",
            start,
        )
    return np.frombuffer(stream.bytes(num_bytes, what), _DTYPES[flag]).reshape(shape)


def _read_name(stream: _Stream, what: str) -> str:
    start = stream.offset
    (length,) = stream.numbers("Q", f"the length of {what}")
    if not 1 <= length <= _MAX_NAME_BYTES:
        raise stream.error(f"{what} has {length:,} bytes; expected 1 to {_MAX_NAME_BYTES:,}", start)
    try:
        return stream.bytes(length, what).decode("utf-8")
    except UnicodeDecodeError as error:
        raise stream.error(f"{what} is not UTF-8 ({error})", start) from error


def _first_not_finite(array: np.ndarray) -> str:
    at = np.unravel_index(np.argmin(np.isfinite(array)), array.shape)
    return f"{array[at]} at {[int(k) for k in at]}"


def write_params(path: str | Path, arrays: Mapping[str, np.ndarray], layout: Layout = "V2") -> None:
    """Write named arrays as a `.params` file. `read_params` reads every file that this writes.

    Args:
        path: of the file.
        arrays: by name. MXNet's `load_checkpoint` needs `arg:` or `aux:` in front.
        layout: `2015` for the oldest readers, `V2` for MXNet 1.x.

    Raises:
        UserError: naming the array, if it is of another dtype, not finite, or not of 1 to 8
            positive dimensions.
    """
    path = Path(path)
    if layout not in get_args(Layout):
        raise UserError(
            f"layout {layout!r} is unknown; expected one of {', '.join(get_args(Layout))}"
        )
    encoded = {name: name.encode("utf-8") for name in arrays}
    for name, array in arrays.items():
        if np.dtype(array.dtype).newbyteorder("<") not in _DTYPES.values():
            raise UserError(
                f"{path}: array {name!r} is {array.dtype}; expected float16, float32 or float64"
            )
        if not 1 <= array.ndim <= _MAX_NDIM or array.size == 0:
            raise UserError(
                f"{path}: array {name!r} has shape {array.shape}; "
                f"expected 1 to {_MAX_NDIM} positive dimensions"
            )
        if layout == "2015" and max(array.shape) >= 2**32:
            raise UserError(
                f"{path}: array {name!r} has shape {array.shape}; "
                "layout 2015 stores dimensions below 2**32"
            )
        if not np.isfinite(array).all():
            raise UserError(
                f"{path}: array {name!r} holds {_first_not_finite(np.asarray(array))}; "
                "expected finite values"
            )
        if not 1 <= len(encoded[name]) <= _MAX_NAME_BYTES:
            raise UserError(
                f"{path}: a name has {len(encoded[name]):,} bytes; "
                f"expected 1 to {_MAX_NAME_BYTES:,}"
            )
    # Renamed when complete: a full disk or a signal leaves no part of it under the final name.
    unfinished = path.with_name(f"{path.name}.unfinished")
    try:
        with unfinished.open("wb") as file:
            file.write(struct.pack("<3Q", _FILE_MAGIC, 0, len(arrays)))
            for array in arrays.values():
                ordered = np.ascontiguousarray(array, np.dtype(array.dtype).newbyteorder("<"))
                file.write(_array_header(ordered, layout))
                file.write(ordered.data)
            file.write(struct.pack("<Q", len(arrays)))
            for data in encoded.values():
                file.write(struct.pack("<Q", len(data)) + data)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _array_header(array: np.ndarray, layout: Layout) -> bytes:
    flag = next(flag for flag, dtype in _DTYPES.items() if dtype == array.dtype)
    context = struct.pack("<3i", 1, 0, flag)
    if layout == "2015":
        return struct.pack(f"<I{array.ndim}I", array.ndim, *array.shape) + context
    storage = b"" if layout == "V1" else struct.pack("<i", 0)
    return (
        struct.pack("<I", _MAGICS[layout])
        + storage
        + struct.pack(f"<i{array.ndim}q", array.ndim, *array.shape)
        + context
    )
