"""Files of the field: what is stored can be read by every later reader, and the rest is named."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageCms, PngImagePlugin

from i21k.images import recode
from i21k.images.decode import decode, read_size
from i21k.images.formats import Unreadable, jpeg_frame
from tests.helpers.jpegs import grey_jpeg, segment
from tests.helpers.packing import encoded, photo

UNUSUAL = {
    "4:1:1": [(4, 1), (1, 1), (1, 1)],
    "1x4": [(1, 4), (1, 1), (1, 1)],
    "4x2": [(4, 2), (1, 1), (1, 1)],
    "3x1": [(3, 1), (1, 1), (1, 1)],
    "unequal chroma": [(2, 2), (2, 1), (1, 2)],
    "chroma 2x1": [(2, 2), (1, 1), (2, 1)],
}
USUAL = {
    "4:4:4": [(1, 1)] * 3,
    "4:2:2": [(2, 1), (1, 1), (1, 1)],
    "4:4:0": [(1, 2), (1, 1), (1, 1)],
    "4:2:0": [(2, 2), (1, 1), (1, 1)],
}


@pytest.mark.parametrize("name", UNUSUAL)
@pytest.mark.parametrize("short_side_px", [0, 256, 32])
def test_unusual_sampling_is_transcoded(name: str, short_side_px: int) -> None:
    data = grey_jpeg(70, 50, UNUSUAL[name])
    stored = recode.recode(data, short_side_px, 95)
    frame = jpeg_frame(stored)
    assert stored != data and frame is not None and frame.is_plain
    height, width = read_size(stored)
    assert (height, width) == ((32, 45) if short_side_px == 32 else (50, 70))
    assert np.abs(decode(stored, height, width).astype(int) - 128).max() <= 2


@pytest.mark.parametrize("name", USUAL)
def test_usual_sampling_is_kept(name: str) -> None:
    data = grey_jpeg(70, 50, USUAL[name])
    assert recode.recode(data, 0, 95) == data


def test_any_fault_of_a_decoder_is_one_error() -> None:
    """A header of 1x4 is a KeyError in simplejpeg."""
    with pytest.raises(Unreadable, match=r"not an image \(KeyError\(6\)\)"):
        read_size(grey_jpeg(70, 50, UNUSUAL["1x4"]))
    with pytest.raises(Unreadable, match=r"do not decode"):
        decode(encoded(photo())[:-30], 32, 48)


def test_twelve_bits_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("i21k.images.formats._registered", lambda *_: False)
    with pytest.raises(Unreadable, match=r"^12-bit JPEG, needs pip install 'i21k\[formats\]'$"):
        recode.recode(grey_jpeg(70, 50, USUAL["4:4:4"], precision=12, frame=0xC1), 0, 90)


def test_stray_bytes_before_the_end_are_cut() -> None:
    data = encoded(photo())
    stray = data[:-2] + b"\x12\x34\x56\x78" + data[-2:]
    stored = recode.recode(stray, 0, 90)
    assert np.array_equal(simplejpeg.decode_jpeg(stored), simplejpeg.decode_jpeg(data))
    with pytest.raises(Unreadable, match=r"damaged image"):
        recode.recode(data[:-300] + data[-2:], 0, 90)  # pixels are missing


def test_misnumbered_colour_profile_is_no_damage() -> None:
    bad = segment(0xE2, b"ICC_PROFILE\0\x03\x02" + bytes(200))
    data = encoded(photo())
    stored = recode.recode(data[:2] + bad + data[2:], 0, 90)
    assert np.array_equal(simplejpeg.decode_jpeg(stored), simplejpeg.decode_jpeg(data))


def test_grey_profile_is_converted() -> None:
    """A grey JPEG of gamma 1.8 is 19 levels off without it."""
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(1.8 * 256)) + b"\0\0"
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)
    text = b"grey gamma 1.8\0"
    name = b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + bytes(78)
    tags = [(b"desc", name), (b"wtpt", white), (b"kTRC", curve)]
    at, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for key, content in tags:
        content += bytes(-len(content) % 4)
        table += key + struct.pack(">II", at + len(body), len(content))
        body += content
    head = struct.pack(">I4sI4s4s4s", 0, b"none", 0x02100000, b"mntr", b"GRAY", b"XYZ ")
    head = (head + bytes(12) + b"acsp").ljust(68, b"\0") + struct.pack(">3i", 63190, 65536, 54061)
    profile = head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body
    profile = struct.pack(">I", len(profile)) + profile[4:]
    assert ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile.xcolor_space.strip() == "GRAY"
    grey = Image.new("L", (48, 32), 100)
    expected = 255 * ((100 / 255) ** 1.8 * 1.055 ** (2.4)) ** (1 / 2.4) - 0.055 * 255
    for file_format in ("JPEG", "PNG"):
        stored = recode.recode(encoded(grey, file_format, icc_profile=profile), 256, 95)
        assert abs(float(simplejpeg.decode_jpeg(stored).mean()) - expected) < 2, file_format
    plain = recode.recode(encoded(grey), 256, 95)
    assert abs(float(simplejpeg.decode_jpeg(plain).mean()) - 100) < 1


@pytest.mark.parametrize("file_format", ["TIFF", "AVIF"])
def test_formats_of_the_field(file_format: str) -> None:
    stored = recode.recode(encoded(photo(), file_format), 0, 95)
    assert np.abs(simplejpeg.decode_jpeg(stored).astype(int) - np.asarray(photo())).mean() < 6


def test_rotated_tiff_is_turned_once() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = recode.recode(encoded(photo(), "TIFF", exif=exif), 0, 95)
    expected = np.asarray(photo().transpose(Image.Transpose.ROTATE_270)).astype(int)
    pixels = simplejpeg.decode_jpeg(stored).astype(int)
    assert pixels.shape == expected.shape and np.abs(pixels - expected).mean() < 4


@pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
def test_odd_exif_is_no_damage(file_format: str) -> None:
    stored = recode.recode(encoded(photo(), file_format, exif=b"not a TIFF header"), 0, 95)
    assert simplejpeg.decode_jpeg(stored).shape == (32, 48, 3)


def test_png_with_a_long_text() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "x" * (3 << 20), zip=True)
    assert recode.recode(encoded(photo(), "PNG", pnginfo=info), 0, 95)


def test_bmp_with_an_alpha_mask_of_zeros_is_opaque() -> None:
    header = struct.pack("<IiiHHIIiiII", 108, 2, 2, 1, 32, 3, 16, 2835, 2835, 0, 0)
    header += struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"BGRs" + bytes(48)
    pixels = bytes([10, 20, 200, 0]) * 4
    data = b"BM" + struct.pack("<IHHI", 14 + 108 + 16, 0, 0, 14 + 108) + header + pixels
    assert Image.open(io.BytesIO(data)).mode == "RGBA"
    pixel = simplejpeg.decode_jpeg(recode.recode(data, 0, 100))[0, 0]
    assert np.abs(pixel.astype(int) - [200, 20, 10]).max() < 8


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99), r"HEIC image, needs pip install"),
        (b"\xff\x0a" + bytes(99), "JPEG XL image, needs pip install"),
        (b"%PDF-1.4", "not an image, but a PDF"),
        (b"<!DOCTYPE html><title>404</title>", "not an image, but a HTML page"),
        (b"\0\0\0\x14ftypqt  " + bytes(99), "not an image, but a video"),
        (b"II*\0\x10\0\0\0CR\2\0" + bytes(99), "not an image, but a camera raw file"),
        (b"GIF89a", "damaged image: no whole header"),
        (zlib.compress(b"x"), "^not an image$"),
    ],
)
def test_what_is_not_read_is_named(data: bytes, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("i21k.images.formats._registered", lambda *_: False)
    with pytest.raises(Unreadable, match=kind):
        recode.recode(data, 0, 90)


def test_oddities_are_named_and_can_be_refused() -> None:
    data = encoded(photo())
    stray = data[:-2] + b"\x12\x34\x56\x78" + data[-2:]
    profile = data[:2] + segment(0xE2, b"ICC_PROFILE\0\x03\x02" + bytes(200)) + data[2:]
    unusual = grey_jpeg(70, 50, UNUSUAL[next(iter(UNUSUAL))])
    for content, oddity in (
        (data, ""),
        (stray, "stray bytes before the end marker"),
        (profile, "damaged colour profile"),
        (unusual, "JPEG that some readers refuse"),
    ):
        assert recode.recode_odd(content, 0, 90).oddity == oddity
    for content in (stray, profile):
        with pytest.raises(Unreadable, match=r"damaged image"):
            recode.recode_odd(content, 0, 90, strict=True)


def test_deep_jpegs_are_scaled_to_eight_bits() -> None:
    codecs = pytest.importorskip("imagecodecs")
    pixels = np.asarray(photo(96, 80))
    deep = codecs.jpeg8_encode(pixels.astype(np.uint16) << 4, bitspersample=12, level=98)
    stored = simplejpeg.decode_jpeg(recode.recode(deep, 0, 95)).astype(int)
    assert np.abs(stored - pixels).mean() < 3
    with pytest.raises(Unreadable, match=r"damaged image"):
        recode.recode(deep[: len(deep) // 2], 0, 95)


@pytest.mark.parametrize("tag", [{254: 1}, {50706: b"\1\4\0\0"}])
def test_previews_in_camera_raw_files_are_no_images(tag: dict[int, Any]) -> None:
    assert recode.recode(encoded(photo(), "TIFF"), 0, 90)
    with pytest.raises(Unreadable, match=r"not an image, but a camera raw file"):
        recode.recode(encoded(photo(), "TIFF", tiffinfo=tag), 0, 90)


def test_floating_point_images_are_named() -> None:
    image = Image.fromarray(np.linspace(0, 1, 600, dtype=np.float32).reshape(20, 30))
    with pytest.raises(Unreadable, match=r"^image of floating-point numbers$"):
        recode.recode(encoded(image, "TIFF"), 0, 90)
