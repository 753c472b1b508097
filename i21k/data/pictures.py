"""JPEG bytes to uint8 crops: pure functions of bytes, boxes and numbers drawn elsewhere.

A room of its own so that what a picture becomes can be read, and tested, without shards, threads or random state.
A box is `(top, left, height, width)` in pixels of the stored picture; EXIF rotation is ignored, since packing has applied it.
"""

import io
import threading

import cv2
import numpy as np
import simplejpeg
from jaxtyping import Float, Int, UInt8
from PIL import Image

MAX_PIXELS = 64 * 2**20  # chosen here: a picture that promises more is refused before any decoder runs
NUM_TRIES = 10  # of drawing a region that lies inside the picture, as torchvision and MXNet do
NUM_DRAWS = 4 * NUM_TRIES  # uniform numbers a picture: area, aspect, top, left for each try
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")

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


def crop_into(
    out: UInt8[np.ndarray, "s s 3"], picture: UInt8[np.ndarray, "h w 3"], box: tuple[int, int, int, int] | Int[np.ndarray, " 4"]
) -> None:
    """Write the box of the picture, resized to the size of `out`, into `out`.

    Bilinear with half-pixel centres (as tf.data's) while both sides shrink by less than 2, area average from there.
    """
    top, left, height, width = (int(n) for n in box)
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
