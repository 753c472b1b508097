"""JPEG bytes to uint8 crops: pure functions of bytes, boxes and numbers drawn elsewhere.

A room of its own so that what a picture becomes can be read, and tested, without shards, threads or random state.
A box is `(top, left, height, width)` in pixels of the stored picture; EXIF rotation is ignored, since packing has applied it.
"""

import io
import threading

import cv2
import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from i21k.errors import UserError
from i21k.images.jpeg_bands import band

MAX_PIXELS = (
    64 * 2**20
)  # chosen here: a picture that promises more is refused before any decoder runs
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")

cv2.setNumThreads(1)  # parallelism is over pictures; OpenCV's own threads only get in the way
_scratch = (
    threading.local()
)  # one decode buffer a thread: fresh memory costs more in page faults than decoding does


def read_size(encoded: bytes) -> tuple[int, int]:
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
        raise UserError(
            f"{len(encoded)} bytes that are no picture; expected one of {', '.join(_FORMATS)}"
        ) from error
    except (ValueError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(
            f"{len(encoded)} bytes that are no picture ({error}); expected one of {', '.join(_FORMATS)}"
        ) from error
    if height * width > MAX_PIXELS:
        raise UserError(f"a picture of {width} x {height} px; expected at most {MAX_PIXELS} pixels")
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
    picture = cv2.imdecode(
        np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    )
    if picture is None:
        raise UserError(f"{len(encoded)} bytes that do not decode; expected a whole picture")
    return picture


def cut_into(
    out: UInt8[np.ndarray, "s s 3"],
    encoded: bytes,
    size: tuple[int, int],
    box: tuple[int, int, int, int],
    *,
    mirror: bool = False,
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


def crop_into(
    out: UInt8[np.ndarray, "s s 3"],
    picture: UInt8[np.ndarray, "h w 3"],
    box: tuple[int, int, int, int],
) -> None:
    """Write the box of the picture, resized to the size of `out`, into `out`.

    Bilinear with half-pixel centres (as tf.data's) while both sides shrink by less than 2, area average from there.
    """
    top, left, height, width = box
    region = picture[top : top + height, left : left + width]
    if region.shape == out.shape:
        out[:] = region
        return
    shrink = max(height / out.shape[0], width / out.shape[1])
    cv2.resize(
        region,
        out.shape[1::-1],
        dst=out,
        interpolation=cv2.INTER_AREA if shrink >= 2 else cv2.INTER_LINEAR,
    )
