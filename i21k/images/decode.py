"""JPEG bytes to uint8 crops: pure functions of bytes, boxes and numbers drawn elsewhere.

A box is `(top, left, height, width)` in pixels of the stored image. EXIF rotation is ignored, since
packing has applied it.
"""

import io
import re
import threading

import cv2
import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from i21k.images.formats import Unreadable
from i21k.images.jpeg_bands import band, head

MAX_PIXELS = 64 * 2**20  # our choice: a larger image is refused before any decoder runs
_UNREAD = re.compile(r"\d+ extraneous bytes before marker 0xd9")
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")

cv2.setNumThreads(1)  # several images are decoded in parallel; OpenCV's threads slow that down
# One decode buffer per thread: fresh memory costs more in page faults than decoding does.
_scratch = threading.local()


def read_size(encoded: bytes) -> tuple[int, int]:
    """Read height and width in pixels from the header.

    Raises:
        Unreadable: if it is no image, or one of more than `MAX_PIXELS`.
    """
    try:
        if encoded[:2] == b"\xff\xd8":
            height, width = simplejpeg.decode_jpeg_header(encoded)[:2]
        else:
            with Image.open(io.BytesIO(encoded), formats=_FORMATS) as image:
                width, height = image.size
    except UnidentifiedImageError as error:  # whose text is an address in memory
        raise Unreadable(
            f"{len(encoded)} bytes that are not an image; expected one of {', '.join(_FORMATS)}"
        ) from error
    # Broad: decoders raise whatever they meet in hostile bytes, such as KeyError.
    except Exception as error:
        raise Unreadable(
            f"{len(encoded)} bytes that are not an image ({error!r}); expected one of "
            f"{', '.join(_FORMATS)}"
        ) from error
    if height * width > MAX_PIXELS:
        raise Unreadable(f"an image of {width} x {height} px; expected at most {MAX_PIXELS} pixels")
    return height, width


def decode(encoded: bytes, height: int, width: int) -> UInt8[np.ndarray, "h w 3"]:
    """Decode to RGB, into memory that the next call in the same thread reuses.

    Args:
        encoded: an image.
        height: in pixels, as `size` gives it.
        width: in pixels.

    Raises:
        Unreadable: if it does not decode completely.
    """
    try:
        if encoded[:2] == b"\xff\xd8":
            return simplejpeg.decode_jpeg(encoded, "RGB", buffer=_buffer(height * width * 3))
        image = cv2.imdecode(
            np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
        )
    # Broad: decoders raise whatever they meet in hostile bytes, such as cv2.error.
    except Exception as error:
        raise Unreadable(f"{len(encoded)} bytes that do not decode: {error}") from error
    if image is None:
        raise Unreadable(f"{len(encoded)} bytes that do not decode; expected a whole image")
    return image


def decode_head(encoded: bytes, height: int, width: int) -> UInt8[np.ndarray, "h w 3"]:
    """Decode what `jpeg_bands.head` returns; the arguments are those of `decode`.

    Raises:
        Unreadable: if it does not decode, or has fewer data than rows.
    """
    buffer = _buffer(height * width * 3)
    try:
        return simplejpeg.decode_jpeg(encoded, "RGB", buffer=buffer)
    # Broad: decoders raise whatever they meet in hostile bytes.
    except Exception as error:
        if not isinstance(error, ValueError) or not _UNREAD.search(str(error)):
            raise Unreadable(f"{len(encoded)} bytes that do not decode: {error}") from error
    # The pixels were written before the decoder looked for the end.
    return buffer[: height * width * 3].reshape(height, width, 3)


def _buffer(num_bytes: int) -> UInt8[np.ndarray, " n"]:
    buffer = getattr(_scratch, "buffer", None)
    if buffer is None or buffer.size < num_bytes:
        buffer = _scratch.buffer = np.empty(num_bytes, np.uint8)
    return buffer


def cut_into(
    out: UInt8[np.ndarray, "s s 3"],
    encoded: bytes,
    size: tuple[int, int],
    box: tuple[int, int, int, int],
    *,
    mirror: bool = False,
) -> None:
    """Decode what the box needs of an image of `size` (height and width), and write the crop.

    It is resized and written into `out` as `crop_into` does.

    Raises:
        Unreadable: if that does not decode completely.
    """
    top, left, height, width = box
    rows, first, num_rows = band(encoded, size[0], top, top + height)
    if rows is encoded and (cut := head(encoded, size[0], top + height)) is not None:
        image = decode_head(*cut, size[1])
    else:
        image = decode(rows, num_rows, size[1])
    crop_into(out, image, (top - first, left, height, width))
    if mirror:
        cv2.flip(out, 1, dst=out)


def crop_into(
    out: UInt8[np.ndarray, "s s 3"],
    image: UInt8[np.ndarray, "h w 3"],
    box: tuple[int, int, int, int],
) -> None:
    """Write the box of the image, resized to the size of `out`, into `out`.

    Bilinear with half-pixel centres (as tf.data's) while both sides shrink by less than 2, area
    average from there.
    """
    top, left, height, width = box
    region = image[top : top + height, left : left + width]
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
