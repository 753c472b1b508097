"""Which image files are read, and what a file is that is not read."""

import functools
import importlib
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import PngImagePlugin

from i21k.errors import UserError

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "AVIF", "PPM")
NOT_AN_IMAGE = "not an image"
# Pillow's limit is 1 MB, which real files exceed.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY
_VIDEO_BRANDS = (b"isom", b"iso2", b"mp41", b"mp42", b"avc1", b"qt  ", b"M4V ", b"3gp4", b"3gp5")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_NAMED = {  # by the first bytes; what people have among their images
    b"8BPS": "Photoshop file",
    b"%PDF": "PDF",
    b"\x00\x00\x00\x0cjP  ": "JPEG 2000 image",
    b"\xff\x4f\xff\x51": "JPEG 2000 image",
    b"<svg": "SVG drawing",
    b"<?xml": "SVG drawing or XML",
    b"<!DOCTYPE html": "HTML page",
    b"<!doctype html": "HTML page",
    b"<html": "HTML page",
    b"FUJIFILMCCD-RAW": "camera raw file",
    b"\x1aE\xdf\xa3": "video",
}
_BEGINS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"RIFF", b"II*\0", b"MM\0*")
_END_BYTES = 1024  # of a JPEG, in which its end marker is; our choice
_PLAIN_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive; all with Huffman codes
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PLAIN_SAMPLING = {(1, 1), (2, 1), (1, 2), (2, 2)}  # of luma, with chroma (1, 1)


class Unreadable(UserError):
    """A file that is not a whole image: the one error for whatever a decoder raises.

    Its text is the kind of fault and, after a colon, a detail.
    """


class TooManyPixels(Unreadable):
    """An image that is too large to decode; no decoder has run."""


class Frame(NamedTuple):
    """What the frame header of a JPEG says."""

    kind: int  # the marker, from 0xC0
    precision: int  # bits
    sampling: tuple[tuple[int, int], ...]  # of each component, horizontal and vertical
    height: int  # pixels; 0 if it is given behind the image
    width: int

    @property
    def is_plain(self) -> bool:
        """Whether every reader takes it: 8 bits, and 4:4:4, 4:2:2, 4:4:0, 4:2:0 or grey."""
        if self.kind not in _PLAIN_FRAMES or self.precision != 8:
            return False
        luma, *chroma = self.sampling
        if not chroma:
            return True
        return luma in _PLAIN_SAMPLING and all(factors == (1, 1) for factors in chroma)


def jpeg_frame(data: bytes) -> Frame | None:
    """Return the frame header of a JPEG; None if there is none."""
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:
            at += 2
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in _FRAMES:
            body = data[at + 4 : at + 2 + length]
            if len(body) < 6 or len(body) < 6 + 3 * body[5] or not body[5]:
                return None
            factors = (body[7 + 3 * k] for k in range(body[5]))
            height, width = (int.from_bytes(body[k : k + 2], "big") for k in (1, 3))
            sampling = tuple((f >> 4, f & 15) for f in factors)
            return Frame(marker, body[0], sampling, height, width)
        if marker in (0xD9, 0xDA):
            return None
        at += 2 + length
    return None


def formats_for(data: bytes) -> tuple[str, ...]:
    """Return the formats to try, with those of an extra that this file needs.

    Raises:
        Unreadable: if the extra is not installed, or the file is a known kind that is not read.
    """
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS:
        if b"avif" in data[16 : int.from_bytes(data[:4], "big")]:
            return FORMATS
        if not _registered("pillow_heif", "register_heif_opener"):
            raise Unreadable("HEIC image, needs pip install 'i21k[heif]'")
        return (*FORMATS, "HEIF")
    if data.startswith((b"\xff\x0a", b"\x00\x00\x00\x0cJXL ")):
        if not _registered("pillow_jxl", ""):
            raise Unreadable("JPEG XL image, needs pip install 'i21k[formats]'")
        return (*FORMATS, "JXL")
    if data[4:8] == b"ftyp" and data[8:12] in _VIDEO_BRANDS:
        raise Unreadable("not an image, but a video")
    if (data[8:10] == b"CR" and data[:4] == b"II*\0") or data[4:12] == b"ftypcrx ":
        raise Unreadable("not an image, but a camera raw file")
    for begin, kind in _NAMED.items():
        if data.startswith(begin):
            raise Unreadable(f"not an image, but a {kind}" if "image" not in kind else kind)
    return FORMATS


def looks_like_image(data: bytes) -> bool:
    """Return whether a file that cannot be opened begins as an image does."""
    return data.startswith(_BEGINS) or data[4:12] in (b"ftypavif", b"ftypheic")


def decode_deep_jpeg(data: bytes, precision: int) -> UInt8[np.ndarray, "h w ..."]:
    """Return the pixels of a JPEG with more than 8 bits, reduced to 8.

    Raises:
        Unreadable: if the extra is not installed.
    """
    if not _registered("imagecodecs", ""):
        raise Unreadable(f"{precision}-bit JPEG, needs pip install 'i21k[formats]'")
    if b"\xff\xd9" not in data[-_END_BYTES:]:  # the decoder would fill the rest with grey
        raise Unreadable("damaged image: no end marker")
    deep = importlib.import_module("imagecodecs").jpeg8_decode(data)
    most = (1 << precision) - 1
    return (deep.astype(np.float32) * (255 / most) + 0.5).clip(0, 255).astype(np.uint8)


@functools.cache
def _registered(module: str, function: str) -> bool:
    """Import a plugin of Pillow, if it is installed."""
    try:
        plugin = importlib.import_module(module)
    except ImportError:
        return False
    if function:
        getattr(plugin, function)()
    return True
