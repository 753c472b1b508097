"""Rows of pixels cut out of a JPEG without decoding it, along its restart markers."""

import itertools
import re
from typing import NamedTuple

import numpy as np

_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
# In the order in which they follow each other in a JPEG.
_RESTARTS = [bytes((0xFF, 0xD0 + k)) for k in range(8)]
_END_OF_IMAGE = b"\xff\xd9"
_INDEX = b"i21k rows "  # how the comment with the index begins
_INDEX_AT = 20  # after the JFIF header
_HEADER_BYTES = 4096  # in which the headers of an image must be to be found; our choice
# Baseline with 8 bits and three components, whose scan has all three, with their lengths.
_FRAME, _SCAN = b"\xff\xc0\x00\x11\x08", b"\xff\xda\x00\x0c\x03"
_RESTART_INTERVAL = b"\xff\xdd\x00\x04"


def band(encoded: bytes, height: int, top: int, bottom: int) -> tuple[bytes, int, int]:
    """Cut rows of pixels out of a JPEG without decoding it, as far as restart markers allow.

    Four fifths of the time to decode a photograph are spent on Huffman codes. They can only be read
    from the first to the last, but start again after a restart marker. The packer writes a marker
    after every row of blocks. The decoded band is bit for bit equal to those rows of the decoded
    image. For this it includes one more row of blocks on each side, which smoothed colour needs.

    Args:
        encoded: an image of any kind.
        height: in pixels.
        top: first row that is needed.
        bottom: row after the last that is needed.

    Returns:
        A JPEG, the place of its first row in the image and its number of rows. The image itself if
        it cannot be cut.
    """
    rows = _rows(encoded) if top > 1 or bottom < height - 1 else None
    if rows is None or len(rows.starts) - 1 != -(-height // rows.height_px):
        return encoded, 0, height
    first = max(top - 1, 0) // rows.height_px
    last = min(bottom // rows.height_px + 1, len(rows.starts) - 1)
    num_rows = min(last * rows.height_px, height) - first * rows.height_px
    header = (
        encoded[: rows.frame + 5]
        + num_rows.to_bytes(2, "big")
        + encoded[rows.frame + 7 : rows.starts[0]]
    )
    parts = [
        encoded[start : end - 2] for start, end in itertools.pairwise(rows.starts[first : last + 1])
    ]
    # The numbers of restart markers begin with 0.
    body = itertools.chain.from_iterable(zip(parts, itertools.cycle(_RESTARTS)))
    return b"".join([header, *body][:-1]) + _END_OF_IMAGE, first * rows.height_px, num_rows


def head(encoded: bytes, height: int, bottom: int) -> tuple[bytes, int] | None:
    """Return a JPEG that ends early: its header gives a smaller height, its data are the same.

    A decoder stops behind the last row of that height. It then warns of the data that it has not
    read, which `decode_head` allows. The pixels are bit for bit equal to those rows of the decoded
    image, up to `bottom`; one more row of blocks is included, which smoothed colour needs.

    Args:
        encoded: an image of any kind.
        height: in pixels.
        bottom: row after the last that is needed.

    Returns:
        The JPEG and its height; None if nothing is saved, or if it is not a baseline JPEG with one
        scan and without restart markers.
    """
    if bottom >= height or (frame := _plain_frame(encoded, height)) < 0:
        return None
    row_px = 8 * (encoded[frame + 11] & 15)
    num_rows = (bottom // row_px + 1) * row_px
    if num_rows >= height:
        return None
    at = frame + 5
    return encoded[:at] + num_rows.to_bytes(2, "big") + encoded[at + 2 :], num_rows


def _plain_frame(encoded: bytes, height: int) -> int:
    """Return where the frame header of a baseline JPEG with one scan begins, -1 if it is none.

    The header is searched for and not read segment by segment, which takes five times as long. A
    preview inside the metadata has another height.
    """
    frame = encoded.find(_FRAME, 2, _HEADER_BYTES)
    scan = encoded.find(_SCAN, frame + len(_FRAME) + 14, _HEADER_BYTES) if frame >= 0 else -1
    if (
        scan < 0
        or encoded.find(_RESTART_INTERVAL, 2, scan) >= 0
        or encoded[frame + 5 : frame + 7] != height.to_bytes(2, "big")
        or encoded[frame + 14] != 0x11
        or encoded[frame + 17] != 0x11
        or not 0 < encoded[frame + 11] & 15 <= 2
    ):
        return -1
    return frame


def with_index(jpeg: bytes) -> bytes:
    """Return a JPEG with a comment that contains where its rows of blocks begin.

    With it `band` need not search: it takes 1 us instead of 18, for 60 bytes. A JPEG without
    restart markers after whole rows, or without a header as Pillow writes it, is not changed.
    """
    rows = _searched_rows(jpeg)
    if rows is None or jpeg[2:6] != b"\xff\xe0\x00\x10":
        return jpeg
    lengths = np.diff(rows.starts)
    comment_bytes = 4 + len(_INDEX) + 2 * (3 + len(lengths))
    if max(int(lengths.max()), comment_bytes + rows.starts[0]) >= 1 << 16:
        return jpeg
    numbers = np.array(
        [rows.frame + comment_bytes, rows.starts[0] + comment_bytes, rows.height_px, *lengths],
        "<u2",
    )
    comment = b"\xff\xfe" + (comment_bytes - 2).to_bytes(2, "big") + _INDEX + numbers.tobytes()
    return jpeg[:_INDEX_AT] + comment + jpeg[_INDEX_AT:]


class _Rows(NamedTuple):
    """How a JPEG is cut by its restart markers."""

    frame: int  # where its frame header begins
    height_px: int
    starts: list[int]  # of each row's codes, after its marker; then of the row after the last


def _rows(encoded: bytes) -> _Rows | None:
    if encoded[_INDEX_AT + 4 : _INDEX_AT + 4 + len(_INDEX)] != _INDEX:
        has_restarts = encoded.find(_RESTART_INTERVAL, 2, _HEADER_BYTES) >= 0
        return _searched_rows(encoded) if has_restarts else None
    count = (int.from_bytes(encoded[_INDEX_AT + 2 : _INDEX_AT + 4], "big") - 2 - len(_INDEX)) // 2
    frame, scan, height_px, *lengths = np.frombuffer(
        encoded, "<u2", count, _INDEX_AT + 4 + len(_INDEX)
    ).tolist()
    starts = [*itertools.accumulate(lengths, initial=scan)]
    if starts[-1] != len(encoded) + 2 or any(encoded[start - 2] != 0xFF for start in starts[1:-1]):
        # Another program has written the image again, and kept the comment.
        return _searched_rows(encoded)
    return _Rows(frame, height_px, starts)


def _searched_rows(encoded: bytes) -> _Rows | None:
    """Return the rows of a baseline JPEG, None without restart markers after whole rows."""
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
            sampling = [
                (encoded[k] >> 4, encoded[k] & 15)
                for k in range(frame + 11, frame + 11 + 3 * num_components, 3)
            ]
            across, down = map(max, zip(*sampling, strict=True)) if num_components > 1 else (1, 1)
            width = int.from_bytes(encoded[frame + 7 : frame + 9], "big")
            if across == 0 or interval % -(-width // (8 * across)):
                return None
            height_px = interval // -(-width // (8 * across)) * 8 * down
            return _Rows(
                frame,
                height_px,
                [end, *(m.end() for m in _RESTART.finditer(encoded, end)), len(encoded) + 2],
            )
        at = end
    return None
