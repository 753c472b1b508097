"""JPEG bytes to uint8 crops: pure functions of bytes, boxes and numbers drawn elsewhere.

A room of its own so that what a picture becomes can be read, and tested, without shards, threads or random state.
A box is `(top, left, height, width)` in pixels of the stored picture; EXIF rotation is ignored, since packing has applied it.
"""

import io
import itertools
import re
import threading
from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg
from jaxtyping import Float, Int, UInt8
from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 64 * 2**20  # chosen here: a picture that promises more is refused before any decoder runs
NUM_TRIES = 10  # of drawing a region that lies inside the picture, as torchvision and MXNet do
NUM_DRAWS = 4 * NUM_TRIES  # uniform numbers a picture: area, aspect, top, left for each try
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_RESTARTS = [bytes((0xFF, 0xD0 + k)) for k in range(8)]  # in the order in which they follow each other in a JPEG
_END_OF_IMAGE = b"\xff\xd9"
_INDEX, _INDEX_AT = b"i21k rows ", 20  # what begins the comment with the index, which follows the JFIF header

cv2.setNumThreads(1)  # parallelism is over pictures; OpenCV's own threads only get in the way
_scratch = threading.local()  # one decode buffer a thread: fresh memory costs more in page faults than decoding does


def size(encoded: bytes) -> tuple[int, int]:
    """Read height and width in pixels from the header.

    Raises:
        ValueError: if it is no picture, or one of more than `MAX_PIXELS`.
    """
    try:
        if encoded[:2] == b"\xff\xd8":
            height, width = simplejpeg.decode_jpeg_header(encoded)[:2]
        else:
            with Image.open(io.BytesIO(encoded), formats=_FORMATS) as picture:
                width, height = picture.size
    except UnidentifiedImageError as error:  # whose text is an address in memory
        raise ValueError(f"{len(encoded)} bytes that are no picture; expected one of {', '.join(_FORMATS)}") from error
    except (ValueError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{len(encoded)} bytes that are no picture ({error}); expected one of {', '.join(_FORMATS)}") from error
    if height * width > MAX_PIXELS:
        raise ValueError(f"a picture of {width} x {height} px; expected at most {MAX_PIXELS} pixels")
    return height, width


def decode(encoded: bytes, height: int, width: int) -> UInt8[np.ndarray, "h w 3"]:
    """Decode to RGB, into memory that the next call in the same thread reuses.

    Args:
        encoded: a picture.
        height: in pixels, as `size` gives it.
        width: in pixels.

    Raises:
        ValueError: if it does not decode completely.
    """
    if encoded[:2] == b"\xff\xd8":
        if getattr(_scratch, "buffer", None) is None or _scratch.buffer.size < height * width * 3:
            _scratch.buffer = np.empty(height * width * 3, np.uint8)
        return simplejpeg.decode_jpeg(encoded, "RGB", buffer=_scratch.buffer)
    picture = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    if picture is None:
        raise ValueError(f"{len(encoded)} bytes that do not decode; expected a whole picture")
    return picture


def cut_into(
    out: UInt8[np.ndarray, "s s 3"], encoded: bytes, size: tuple[int, int], box: tuple[int, int, int, int], *, mirror: bool = False
) -> None:
    """Decode what the box needs of a picture of `size` (height and width), and write it, resized, into `out`, as `crop_into` does.

    Raises:
        ValueError: if that does not decode completely.
    """
    top, left, height, width = box
    rows, first, num_rows = band(encoded, size[0], top, top + height)
    crop_into(out, decode(rows, num_rows, size[1]), (top - first, left, height, width))
    if mirror:
        cv2.flip(out, 1, dst=out)


def band(encoded: bytes, height: int, top: int, bottom: int) -> tuple[bytes, int, int]:
    """Cut rows of pixels out of a JPEG without decoding it, as far as restart markers allow; the packer writes one for every row of blocks.

    Four fifths of the time to decode a photograph are Huffman codes, to be read from the first to the last; after a marker they start
    afresh. What the band decodes to is bit for bit those rows of the whole picture: smoothed colour needs a row more on each side.

    Args:
        encoded: a picture of any kind.
        height: in pixels.
        top: first row that is needed.
        bottom: row after the last that is needed.

    Returns:
        A JPEG, the place of its first row in the picture and its number of rows; the picture itself if it cannot be cut.
    """
    rows = _rows(encoded) if top > 1 or bottom < height - 1 else None
    if rows is None or len(rows.starts) - 1 != -(-height // rows.height_px):
        return encoded, 0, height
    first, last = max(top - 1, 0) // rows.height_px, min(bottom // rows.height_px + 1, len(rows.starts) - 1)
    num_rows = min(last * rows.height_px, height) - first * rows.height_px
    header = encoded[: rows.frame + 5] + num_rows.to_bytes(2, "big") + encoded[rows.frame + 7 : rows.starts[0]]
    parts = [encoded[start : end - 2] for start, end in itertools.pairwise(rows.starts[first : last + 1])]
    body = itertools.chain.from_iterable(zip(parts, itertools.cycle(_RESTARTS)))  # their numbers begin with 0
    return b"".join([header, *body][:-1]) + _END_OF_IMAGE, first * rows.height_px, num_rows


def with_index(jpeg: bytes) -> bytes:
    """Note in a comment of a JPEG where its rows of blocks begin, so that `band` need not search: 1 us instead of 18, for 60 bytes.

    A JPEG without restart markers after whole rows, or with none of Pillow's headers, stays as it is.
    """
    rows = _searched_rows(jpeg)
    if rows is None or jpeg[2:6] != b"\xff\xe0\x00\x10":
        return jpeg
    lengths = np.diff(rows.starts)
    comment_bytes = 4 + len(_INDEX) + 2 * (3 + len(lengths))
    if max(lengths.max(), comment_bytes + rows.starts[0]) >= 1 << 16:
        return jpeg
    numbers = np.array([rows.frame + comment_bytes, rows.starts[0] + comment_bytes, rows.height_px, *lengths], "<u2")
    comment = b"\xff\xfe" + (comment_bytes - 2).to_bytes(2, "big") + _INDEX + numbers.tobytes()
    return jpeg[:_INDEX_AT] + comment + jpeg[_INDEX_AT:]


class _Rows(NamedTuple):
    """How a JPEG is cut by its restart markers."""

    frame: int  # where its frame header begins
    height_px: int
    starts: list[int]  # of each row's codes, after its marker; and of one more behind the last


def _rows(encoded: bytes) -> _Rows | None:
    if encoded[_INDEX_AT + 4 : _INDEX_AT + 4 + len(_INDEX)] != _INDEX:
        return _searched_rows(encoded)
    count = (int.from_bytes(encoded[_INDEX_AT + 2 : _INDEX_AT + 4], "big") - 2 - len(_INDEX)) // 2
    frame, scan, height_px, *lengths = np.frombuffer(encoded, "<u2", count, _INDEX_AT + 4 + len(_INDEX)).tolist()
    starts = [*itertools.accumulate(lengths, initial=scan)]
    if starts[-1] != len(encoded) + 2 or any(encoded[start - 2] != 0xFF for start in starts[1:-1]):
        return _searched_rows(encoded)  # another program has written the picture anew, and kept the comment
    return _Rows(frame, height_px, starts)


def _searched_rows(encoded: bytes) -> _Rows | None:
    """Find the rows of a baseline JPEG by their markers; None if it has none, or not after whole rows."""
    frame = interval = 0
    at = 2
    while encoded[at : at + 1] == b"\xff" and encoded[:2] == b"\xff\xd8":
        marker, end = encoded[at + 1], at + 2 + int.from_bytes(encoded[at + 2 : at + 4], "big")
        if end > len(encoded):
            return None
        if marker == 0xC0:
            frame = at
        elif marker == 0xDD:
            interval = int.from_bytes(encoded[at + 4 : at + 6], "big")
        elif marker == 0xDA:
            num_components = encoded[at + 4]
            if not frame or not interval or num_components != encoded[frame + 9]:
                return None
            sampling = [(encoded[k] >> 4, encoded[k] & 15) for k in range(frame + 11, frame + 11 + 3 * num_components, 3)]
            across, down = map(max, zip(*sampling, strict=True)) if num_components > 1 else (1, 1)
            width = int.from_bytes(encoded[frame + 7 : frame + 9], "big")
            if across == 0 or interval % -(-width // (8 * across)):
                return None
            height_px = interval // -(-width // (8 * across)) * 8 * down
            return _Rows(frame, height_px, [end, *(m.end() for m in _RESTART.finditer(encoded, end)), len(encoded) + 2])
        at = end
    return None


def crop_into(out: UInt8[np.ndarray, "s s 3"], picture: UInt8[np.ndarray, "h w 3"], box: tuple[int, int, int, int]) -> None:
    """Write the box of the picture, resized to the size of `out`, into `out`.

    Bilinear with half-pixel centres (as tf.data's) while both sides shrink by less than 2, area average from there.
    """
    top, left, height, width = box
    region = picture[top : top + height, left : left + width]
    if region.shape == out.shape:
        out[:] = region
        return
    shrink = max(height / out.shape[0], width / out.shape[1])
    cv2.resize(region, out.shape[1::-1], dst=out, interpolation=cv2.INTER_AREA if shrink >= 2 else cv2.INTER_LINEAR)


def region_boxes(
    sizes: Int[np.ndarray, "n 2"], uniforms: Float[np.ndarray, "n 40"], min_area: float = 0.08, max_aspect: float = 4 / 3
) -> Int[np.ndarray, "n 4"]:
    """Cut random regions of `min_area` to all of the area and an aspect within 1/`max_aspect` .. `max_aspect`.

    Szegedy et al. 2014, section 6. Where no try fits, the largest centred region of allowed aspect.

    Args:
        sizes: height and width of each picture in pixels.
        uniforms: `NUM_DRAWS` numbers in [0, 1) for each picture.
        min_area: as a fraction of the picture.
        max_aspect: width over height, and its inverse the least.
    """
    height, width = sizes[:, :1].astype(np.float64), sizes[:, 1:].astype(np.float64)
    area, aspect, top, left = uniforms.reshape(len(sizes), 4, NUM_TRIES).transpose(1, 0, 2)  # [n, tries] each
    area = height * width * (min_area + (1 - min_area) * area)
    aspect = max_aspect ** (2 * aspect - 1)
    h, w = np.rint(np.sqrt(area / aspect)), np.rint(np.sqrt(area * aspect))
    fits = (h >= 1) & (h <= height) & (w >= 1) & (w <= width)
    first = (np.arange(len(sizes)), fits.argmax(axis=1))
    boxes = np.stack([top[first] * (height[:, 0] - h[first] + 1), left[first] * (width[:, 0] - w[first] + 1), h[first], w[first]], axis=1)
    none = ~fits.any(axis=1)
    if none.any():
        height, width = height[none, 0], width[none, 0]
        h, w = (
            np.maximum(1, np.rint(np.minimum(height, width * max_aspect))),
            np.maximum(1, np.rint(np.minimum(width, height * max_aspect))),
        )
        boxes[none] = np.stack([(height - h) // 2, (width - w) // 2, h, w], axis=1)
    return boxes.astype(np.int64)  # floor


def window_boxes(sizes: Int[np.ndarray, "n 2"], fraction: float, where: Float[np.ndarray, "n 2"] | float) -> Int[np.ndarray, "n 4"]:
    """Cut square windows whose side is `fraction` of the short side: 0.875 is 224 of 256 px.

    Args:
        sizes: height and width of each picture in pixels.
        fraction: in (0, 1].
        where: for each picture, numbers in [0, 1) that choose top and left among all places; 0.5 is the centre.
    """
    side = np.maximum(1, np.rint(sizes.min(axis=1, keepdims=True) * fraction))
    room = sizes - side  # [n, 2]; a centred window of odd room lies half a pixel up and left
    corner = np.floor(room * 0.5) if np.isscalar(where) else np.floor((room + 1) * where)
    return np.concatenate([corner, side, side], axis=1).astype(np.int64)
