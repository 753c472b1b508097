"""Which image files are read, and what a file is that is not read."""

import functools
import importlib
from typing import NamedTuple

from PIL import PngImagePlugin

from i21k.errors import UserError

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "AVIF")
# Pillow's limit is 1 MB, which real files exceed.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY
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
}
_PLAIN_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive; all with Huffman codes
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PLAIN_SAMPLING = {(1, 1), (2, 1), (1, 2), (2, 2)}  # of luma, with chroma (1, 1)


class Unreadable(UserError):
    """A file that is not a whole image: the one error for whatever a decoder raises.

    Its text is the kind of fault and, after a colon, a detail.
    """


class Frame(NamedTuple):
    """What the frame header of a JPEG says."""

    kind: int  # the marker, from 0xC0
    precision: int  # bits
    sampling: tuple[tuple[int, int], ...]  # of each component, horizontal and vertical

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
            return Frame(marker, body[0], tuple((f >> 4, f & 15) for f in factors))
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
            raise Unreadable("JPEG XL image, needs pip install pillow-jxl-plugin")
        return (*FORMATS, "JXL")
    for begin, kind in _NAMED.items():
        if data.startswith(begin):
            raise Unreadable(f"not an image, but a {kind}" if "image" not in kind else kind)
    if data.startswith(b"\xff\xd8"):
        frame = jpeg_frame(data)
        if frame is not None and frame.precision != 8:
            raise Unreadable(f"{frame.precision}-bit JPEG")
    return FORMATS


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
