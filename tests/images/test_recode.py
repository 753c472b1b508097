"""One image file to one stored JPEG."""

import io

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageCms

from i21k.images import recode
from tests.helpers.packing import encoded, photo


def recoded(data: bytes, short_side_px: int = 32, quality: int = 95) -> np.ndarray:
    jpeg = recode.recode(data, short_side_px, quality)
    header = Image.open(io.BytesIO(jpeg))
    assert (
        (header.format, header.mode) == ("JPEG", "RGB")
        and not header.getexif()
        and "icc_profile" not in header.info
    )
    return simplejpeg.decode_jpeg(jpeg).astype(int)


@pytest.mark.parametrize("file_format", ["PNG", "GIF", "BMP", "WEBP", "PPM"])
def test_other_formats_become_jpeg(file_format: str) -> None:
    expected = np.asarray(photo()).astype(int)
    assert np.abs(recoded(encoded(photo(), file_format), 0) - expected).mean() < 5


def test_cmyk_sixteen_bits_and_transparency_become_rgb() -> None:
    expected = np.asarray(photo()).astype(int)
    assert np.abs(recoded(encoded(photo().convert("CMYK"), quality=95), 0) - expected).mean() < 3
    grey = np.asarray(photo().convert("L"))
    deep = recoded(encoded(Image.fromarray(grey.astype(np.uint16) * 257), "PNG"), 0)
    assert np.abs(deep - grey[..., None]).mean() < 3
    clear = photo().convert("RGBA")
    clear.putalpha(0)
    assert recoded(encoded(clear, "PNG"), 0).min() > 250


def test_ycck_becomes_rgb() -> None:
    """CMYK stored as YCCK, as by Photoshop: Adobe's marker has a 2 where Pillow writes a 0."""
    inverted = np.asarray(Image.fromarray(255 - np.asarray(photo())).convert("YCbCr"))
    channels = np.concatenate([inverted, np.full((32, 48, 1), 255, np.uint8)], axis=2)
    data = bytearray(encoded(Image.fromarray(255 - channels, "CMYK"), quality=95, subsampling=0))
    at = data.index(b"Adobe") + 11
    assert data[at] == 0
    data[at] = 2
    assert np.abs(recoded(bytes(data), 0) - np.asarray(photo())).mean() < 3


def test_small_images_are_skipped_if_told() -> None:
    assert recode.recode(encoded(photo(48, 32)), 0, 90, min_side_px=32)
    for size in ((48, 31), (31, 48)):
        with pytest.raises(recode.Unreadable, match=f"too small: {size[0]} x {size[1]}"):
            recode.recode(encoded(photo(*size)), 0, 90, min_side_px=32)


def test_large_image_is_reduced_to_the_short_side() -> None:
    for width, height, expected in (
        (100, 50, (64, 32)),
        (50, 101, (32, 65)),
        (400, 300, (43, 32)),
        (2000, 33, (1939, 32)),
    ):
        pixels = recoded(encoded(photo(width, height)))
        assert pixels.shape[1::-1] == expected
        reference = np.asarray(
            photo(width, height).resize(expected, Image.Resampling.BICUBIC)
        ).astype(int)
        assert np.abs(pixels - reference).mean() < 3


def test_reduction_is_antialiased() -> None:
    """Stripes that are too fine for the result become grey, not other stripes."""
    stripes = np.zeros((200, 300, 3), np.uint8)
    stripes[:, ::2] = 255
    assert recoded(encoded(Image.fromarray(stripes), "PNG")).std() < 5


def test_bytes_stay_where_nothing_has_to_change() -> None:
    small, grey = encoded(photo(), quality=70), encoded(photo().convert("L"))
    progressive = encoded(photo(), progressive=True)
    for data in (small, grey):
        assert recode.recode(data, 32, 90) == data
        assert recode.recode(data, 31, 90) != data
    assert recode.recode(progressive, 32, 90) != progressive
    assert recode.recode(progressive, 0, 90) == progressive


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("short_side_px", [0, 16])
def test_exif_rotation_is_applied_once(orientation: int, short_side_px: int) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(photo(), quality=95, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if short_side_px:
        expected = expected.resize(
            (24, 16) if expected.width > expected.height else (16, 24), Image.Resampling.BICUBIC
        )
    pixels = simplejpeg.decode_jpeg(recode.recode(data, short_side_px, 95)).astype(int)
    assert pixels.shape == np.asarray(expected).shape
    assert np.abs(pixels - np.asarray(expected)).mean() < 4


def test_colour_profile_is_converted() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = bytearray(
        srgb.replace(b"sRGB", b"GRBs").replace(
            "sRGB".encode("utf-16-be"), "GRBs".encode("utf-16-be")
        )
    )
    red, green = swapped.index(b"rXYZ"), swapped.index(b"gXYZ")
    swapped[red + 4 : red + 12], swapped[green + 4 : green + 12] = (
        swapped[green + 4 : green + 12],
        swapped[red + 4 : red + 12],
    )
    image = Image.new("RGB", (48, 32), (200, 30, 30))
    kept = encoded(image, icc_profile=srgb)
    assert recode.recode(kept, 32, 95) == kept
    converted = recoded(encoded(image, quality=95, icc_profile=bytes(swapped)))
    assert (
        converted[..., 1].mean() > 180 and converted[..., 0].mean() < 60
    )  # the profile calls red what is green
    assert (
        recoded(encoded(image, quality=95, progressive=True, icc_profile=b"no profile"))[
            ..., 0
        ].mean()
        > 190
    )
