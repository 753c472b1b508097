"""Recode an image file to the JPEG that is stored: bytes in, bytes out.

The content decides what a file is, not its name. JPEG, PNG, GIF, BMP, WebP, TIFF, AVIF
and PPM are read (the first frame of several), HEIC with the extra `heif`.

Quality comes before speed. Resampling is bicubic, with a support that grows with the reduction
(antialiased). The decoder reduces in the DCT domain only where a factor of 2 or more remains to be
resampled. Chroma is 4:2:0, as in nearly all originals; 4:4:4 makes files a quarter larger. A JPEG
that is encoded here has a restart marker after every row of blocks and an index of them, so that
the loader decodes only the rows of a crop (`notebooks/LOG.md` has the measurements).
"""

import functools
import io
import math
import re
import warnings
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
from PIL import Image, ImageCms

from i21k.images.decode import MAX_PIXELS
from i21k.images.formats import (
    FORMATS,
    NOT_AN_IMAGE,
    Frame,
    TooManyPixels,
    Unreadable,
    decode_deep_jpeg,
    formats_for,
    jpeg_frame,
    looks_like_image,
)
from i21k.images.jpeg_bands import with_index

__all__ = ["FORMATS", "MAX_SIDE_PX", "TooManyPixels", "Unreadable", "recode", "recode_odd"]
MAX_SIDE_PX = 65_500  # of libjpeg
_MAX_COMMENT = 60_000  # characters; a segment of a JPEG has up to 65,533 bytes
_CHROMA = "4:2:0"
_STRAY = re.compile(r"(\d+) extraneous bytes before marker 0xd9")
_ORIENTATION = 0x0112  # the EXIF tag
_SUBFILE_TYPE, _DNG_VERSION = 254, 50706  # tags of TIFF
_UPRIGHT = {  # what turns an image of each EXIF orientation upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Recoded(NamedTuple):
    """A stored JPEG, and what was odd about the original, if anything."""

    jpeg: bytes
    oddity: str = ""


def recode(data: bytes, short_side_px: int, quality: int, min_side_px: int = 0) -> bytes:
    """Return what `recode_odd` returns without the oddity."""
    return recode_odd(data, short_side_px, quality, min_side_px).jpeg


def recode_odd(
    data: bytes, short_side_px: int, quality: int, min_side_px: int = 0, *, strict: bool = False
) -> Recoded:
    """Return an image as an upright sRGB JPEG without metadata, its short side at most this long.

    Images are never enlarged. The bytes stay as they are where nothing has to change: an upright
    baseline JPEG, grey or sRGB, that is small enough. With a `short_side_px` of 0 they also stay in
    a progressive JPEG and in one with another colour profile; a file that is not a JPEG, is CMYK or
    is rotated by its EXIF tag is encoded again at full size. So is a legal JPEG that some readers
    refuse, such as one with 4:1:1 chroma. Every image is decoded completely anyway.

    Args:
        data: the content of any file.
        short_side_px: 0 keeps the size.
        quality: of the JPEG, 1 to 100.
        min_side_px: that each side of the original must have.
        strict: whether stray bytes and a damaged colour profile count as damage. Otherwise they
            are removed, since nothing is lost.

    Raises:
        Unreadable: if it is not an image, is damaged, is too small or has too many pixels.
    """
    if not data:
        raise Unreadable("empty file")
    with warnings.catch_warnings():
        # Pillow warns of odd EXIF and of large images; the size is checked here.
        warnings.simplefilter("ignore")
        frame = jpeg_frame(data) if data[:2] == b"\xff\xd8" else None
        header = _read_header(data, frame)
        if min(header.size) < min_side_px:
            raise Unreadable(f"too small: {header.width} x {header.height}")
        try:
            return _recode(data, header, frame, short_side_px, quality, strict=strict)
        except Unreadable:
            raise
        # Broad: whatever a decoder raises on hostile bytes is the fault of this one image.
        except Exception as error:
            raise Unreadable(f"damaged image: {error or type(error).__name__}") from error


def _read_header(data: bytes, frame: Frame | None) -> Image.Image:
    """Open without decoding, and refuse too many pixels before any decoder runs."""
    if frame is not None and frame.precision != 8:  # Pillow does not open it
        _refuse_size(frame.width, frame.height)
        return Image.fromarray(decode_deep_jpeg(data, frame.precision))
    try:
        header: Any = Image.open(io.BytesIO(data), formats=formats_for(data))
    except Unreadable:
        raise
    except Image.DecompressionBombError as error:
        raise TooManyPixels("too many pixels") from error
    except Exception as error:
        is_image = looks_like_image(data)
        raise Unreadable("damaged image: no whole header" if is_image else NOT_AN_IMAGE) from error
    _refuse_size(*header.size)
    if header.format == "TIFF" and _is_camera_raw(header):
        raise Unreadable("not an image, but a camera raw file")
    return header


def _refuse_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE_PX:
        raise TooManyPixels(f"too many pixels: {width} x {height}")


def _is_camera_raw(header: Any) -> bool:
    """Return whether a TIFF is a raw file of a camera, whose first image is only a preview."""
    is_reduced = bool(int(header.tag_v2.get(_SUBFILE_TYPE, 0)) & 1)
    return is_reduced or _DNG_VERSION in header.tag_v2


def _recode(
    data: bytes,
    header: Image.Image,
    frame: Frame | None,
    short_side_px: int,
    quality: int,
    *,
    strict: bool,
) -> Recoded:
    size = _target_size(*header.size, short_side_px)
    profile = header.info.get("icc_profile")
    grey_to_srgb = _to_srgb("L", profile) if header.mode == "L" else None
    to_srgb = grey_to_srgb or _to_srgb("RGB", profile)
    to_upright = _UPRIGHT.get(_orientation(header))
    oddity = ""
    if frame is not None and frame.is_plain and header.mode in ("RGB", "L"):
        mode = "L" if grey_to_srgb else "RGB"
        data, image, oddity = _decode_jpeg(data, mode, min(header.size), min(size), strict=strict)
        if (
            size == header.size
            and to_upright is None
            and (short_side_px == 0 or not (to_srgb or header.info.get("progressive")))
        ):
            return Recoded(data, oddity)
    elif grey_to_srgb:
        header.load()
        image = header
    else:
        image = _flatten(header)
        if frame is not None and header.mode in ("RGB", "L"):
            oddity = "JPEG that some readers refuse"
    if image.size != size:
        image = image.resize(size, Image.Resampling.BICUBIC)
    if grey_to_srgb is not None:
        image = ImageCms.applyTransform(image, grey_to_srgb)  # type: ignore[assignment]
    elif to_srgb is not None:
        ImageCms.applyTransform(image, to_srgb, inPlace=True)
    if to_upright is not None:
        image = image.transpose(to_upright)
    if len(image.info.get("comment", "")) > _MAX_COMMENT:  # Pillow would write it, and cannot
        del image.info["comment"]
    stored = io.BytesIO()
    image.save(stored, "JPEG", quality=quality, subsampling=_CHROMA, restart_marker_rows=1)
    return Recoded(with_index(stored.getvalue()), oddity)


def _orientation(header: Image.Image) -> int:
    """Return the EXIF orientation; 1 if there is none that can be read."""
    if header.format == "TIFF":  # Pillow applies it
        return 1
    # Broad: odd metadata are no fault of the image, and Pillow's parser raises what it meets.
    try:
        return int(header.getexif().get(_ORIENTATION, 1))
    except Exception:
        return 1


def _target_size(width: int, height: int, short_side_px: int) -> tuple[int, int]:
    short = min(width, height)
    if short_side_px == 0 or short <= short_side_px:
        return width, height
    return round(width * short_side_px / short), round(height * short_side_px / short)


def _decode_jpeg(
    data: bytes, mode: str, short_px: int, target_px: int, *, strict: bool
) -> tuple[bytes, Image.Image, str]:
    """Decode to RGB or grey, at 1/2, 1/4 or 1/8 of the size where twice the target remains.

    Warnings of libjpeg are errors, except for two faults that lose nothing unless `strict`. Then
    the returned bytes are without the fault, which is named.
    """
    reduction = next(r for r in (8, 4, 2, 1) if r == 1 or short_px >= 2 * r * target_px)
    least = math.ceil(short_px / reduction)

    def decode(content: bytes) -> Image.Image:
        pixels = simplejpeg.decode_jpeg(
            content,
            "GRAY" if mode == "L" else "RGB",
            min_height=least,
            min_width=least,
            min_factor=reduction,
        )
        return Image.fromarray(pixels[..., 0] if mode == "L" else pixels)

    try:
        return data, decode(data), ""
    except ValueError as error:
        if strict or not (found := _repaired(data, str(error))):
            raise
        repaired, oddity = found
        return repaired, decode(repaired), oddity


def _repaired(data: bytes, error: str) -> tuple[bytes, str] | None:
    """Return a JPEG without stray bytes before its end or without a damaged colour profile."""
    if match := _STRAY.search(error):
        end = data.rfind(b"\xff\xd9")
        return data[: end - int(match.group(1))] + data[end:], "stray bytes before the end marker"
    if "ICC" in error:
        return _without_profile(data), "damaged colour profile"
    return None


def _without_profile(data: bytes) -> bytes:
    kept, at = data[:2], 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at + 1] != 0xE2 or not data[at + 4 :].startswith(b"ICC_PROFILE\0"):
            kept += data[at:end]
        at = end
    return kept + data[at:]


def _flatten(image: Any) -> Image.Image:
    """Return an opened image as 8-bit RGB.

    CMYK is converted by its profile if it has one, 16 bits are scaled to 8, transparent parts
    become white.
    """
    if image.mode == "CMYK" and (to_srgb := _to_srgb("CMYK", image.info.get("icc_profile"))):
        return ImageCms.applyTransform(image, to_srgb)  # type: ignore[return-value]
    if image.mode == "F":  # its range is not known
        raise Unreadable("image of floating-point numbers")
    if image.mode.startswith("I"):  # 16-bit grey; `convert` would clip it to white
        return Image.fromarray(
            (np.asarray(image).clip(0, 65_535) / 257 + 0.5).astype(np.uint8)
        ).convert("RGB")
    if image.format == "BMP" and image.mode == "RGBA" and not np.asarray(image)[..., 3].any():
        return image.convert("RGB")  # its writer meant opaque
    if image.has_transparency_data:
        on_white = Image.new("RGBA", image.size, "white")
        on_white.alpha_composite(image.convert("RGBA"))
        return on_white.convert("RGB")
    return image.convert("RGB")


@functools.lru_cache(maxsize=64)
def _to_srgb(mode: str, profile: bytes | None) -> ImageCms.ImageCmsTransform | None:
    """Return the transform from a colour profile to sRGB.

    None if there is no profile, it is sRGB already, or it does not fit the mode. A quarter of
    ImageNet's photographs carry a profile; of those a quarter are not sRGB.
    """
    if not profile:
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(source).lower():
            return None
        return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
