import io

import cv2
import numpy as np
import pytest
from PIL import Image

from i21k.images.boxes import NUM_DRAWS, region_boxes, window_boxes
from i21k.images.decode import crop_into, cut_into, decode, decode_head, read_size
from i21k.images.jpeg_bands import band, head, with_index


def smooth(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack(
        [x * 255 / width, y * 255 / height, (x + y) * 255 / (width + height)], axis=-1
    ).astype(np.uint8)


def encoded(image: np.ndarray, kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return file.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP"])
def test_size_and_decode(kind):
    image = smooth(30, 50)
    data = encoded(image, kind)
    assert read_size(data) == (30, 50)
    decoded = decode(data, 30, 50)
    assert decoded.shape == (30, 50, 3)
    assert np.abs(decoded.astype(int) - image).max() <= (8 if kind == "JPEG" else 0)


def test_decoding_a_small_image_after_a_large_one():
    large, small = smooth(60, 80), smooth(20, 30)
    decode(encoded(large, "JPEG"), 60, 80)
    assert np.abs(decode(encoded(small, "JPEG"), 20, 30).astype(int) - small).max() <= 8


def test_exif_rotation_is_ignored():
    image = smooth(30, 50)
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", exif=exif)
    assert decode(file.getvalue(), *read_size(file.getvalue())).shape == (30, 50, 3)


def test_bad_images_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="not an image"):
        read_size(b"<html>not found</html>")
    data = encoded(smooth(30, 50), "JPEG")
    with pytest.raises(ValueError, match=r"(?i)truncated|premature|end of"):
        decode(data[:-40], 30, 50)
    monkeypatch.setattr("i21k.images.decode.MAX_PIXELS", 1000)
    with pytest.raises(ValueError, match="50 x 30 px; expected at most 1000 pixels"):
        read_size(data)


def test_crop_equals_plain_arithmetic():
    image = smooth(64, 64)
    out = np.empty((16, 16, 3), np.uint8)
    crop_into(out, image, (3, 5, 16, 16))
    assert (out == image[3:19, 5:21]).all()
    crop_into(out, image, (0, 0, 64, 64))  # shrinks by 4: the mean of every 4 x 4
    assert np.abs(out - image.reshape(16, 4, 16, 4, 3).mean(axis=(1, 3))).max() <= 0.51


def test_small_shrinking_is_bilinear_as_pillow_without_antialias():
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 256, (40, 30, 3)).astype(np.uint8), (0, 0), 2)
    out = np.empty((24, 24, 3), np.uint8)
    crop_into(out, image, (0, 0, 40, 30))
    y = np.clip((np.arange(24) + 0.5) * 40 / 24 - 0.5, 0, 39)
    x = np.clip((np.arange(24) + 0.5) * 30 / 24 - 0.5, 0, 29)
    y0, x0 = np.minimum(y.astype(int), 38), np.minimum(x.astype(int), 28)
    fy, fx = (y - y0)[:, None, None], (x - x0)[None, :, None]
    p = image.astype(float)
    top = p[y0][:, x0] * (1 - fx) + p[y0][:, x0 + 1] * fx
    bottom = p[y0 + 1][:, x0] * (1 - fx) + p[y0 + 1][:, x0 + 1] * fx
    assert np.abs(out - (top * (1 - fy) + bottom * fy)).max() <= 1


def test_regions_lie_inside_and_cover_what_they_should():
    rng = np.random.default_rng(0)
    sizes = np.tile([[256, 341]], (20000, 1))
    boxes = region_boxes(sizes, rng.random((20000, NUM_DRAWS)))
    top, left, height, width = boxes.T
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + height <= 256).all() and (left + width <= 341).all()
    area, aspect = height * width / (256 * 341), width / height
    assert 0.079 < area.min() < 0.1 and area.max() > 0.9
    assert aspect.min() > 0.74 and aspect.max() < 1.35
    assert abs((top / np.maximum(1, 256 - height)).mean() - 0.5) < 0.02


def test_a_region_of_an_extreme_image_is_its_middle():
    boxes = region_boxes(np.array([[10, 1000]]), np.full((1, NUM_DRAWS), 0.9))
    assert boxes.tolist() == [[0, 493, 10, 13]]


def test_windows():
    sizes = np.array([[256, 341], [341, 256]])
    assert window_boxes(sizes, 0.875, 0.5).tolist() == [[16, 58, 224, 224], [58, 16, 224, 224]]
    rng = np.random.default_rng(0)
    boxes = window_boxes(np.tile([[256, 300]], (5000, 1)), 0.875, rng.random((5000, 2)))
    assert set(boxes[:, 0]) == set(range(33)) and set(boxes[:, 1]) == set(range(77))


JPEGS = {
    "as packed": {"subsampling": "4:2:0", "restart_marker_rows": 1},
    "every second row": {"subsampling": "4:2:0", "restart_marker_rows": 2},
    "full colour": {"subsampling": "4:4:4", "restart_marker_rows": 1},
    "grey": {"restart_marker_rows": 1},
}


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize("kind", JPEGS)
def test_a_band_decodes_to_the_rows_of_the_whole_image(kind, indexed):
    rng = np.random.default_rng(0)
    image = Image.fromarray(
        rng.integers(0, 256, (203, 90, 3)).astype(np.uint8)
    )  # noise, so that a row off is seen
    file = io.BytesIO()
    image.convert("L" if kind == "grey" else "RGB").save(file, "JPEG", **JPEGS[kind])
    data = with_index(file.getvalue()) if indexed else file.getvalue()
    whole = decode(data, 203, 90).copy()
    num_decoded = 0
    edges = [(0, 203), (0, 1), (202, 203), (15, 16), (16, 32), (17, 31)]
    drawn = np.sort(rng.integers(0, 203, (40, 2)))
    for top, bottom in edges + (drawn + np.array([0, 1])).tolist():
        rows, first, num_rows = band(data, 203, top, bottom)
        assert num_rows <= bottom - top + 66 or num_rows == 203
        decoded = decode(rows, num_rows, 90)
        assert (
            np.array_equal(decoded[top - first : bottom - first], whole[top:bottom])
            and len(decoded) == num_rows
        )
        num_decoded += num_rows
    assert num_decoded < 0.75 * 46 * 203


def test_a_image_without_markers_after_whole_rows_is_decoded_whole():
    for options in (
        {},
        {"restart_marker_blocks": 4},
        {"restart_marker_rows": 1, "progressive": True},
    ):
        file = io.BytesIO()
        Image.fromarray(smooth(64, 90)).save(file, "JPEG", **options)
        data = file.getvalue()
        assert band(data, 64, 20, 30) == (data, 0, 64)
        assert with_index(data) == data
    data = encoded(smooth(64, 90), "PNG")
    assert band(data, 64, 20, 30) == (data, 0, 64)


def test_an_index_that_another_program_kept_is_not_believed():
    first, second = io.BytesIO(), io.BytesIO()
    Image.fromarray(smooth(64, 90)).save(first, "JPEG", restart_marker_rows=1)
    with Image.open(io.BytesIO(with_index(first.getvalue()))) as again:
        again.save(second, "JPEG", quality=50, restart_marker_rows=1)  # Pillow copies the comment
    data = second.getvalue()
    assert b"i21k rows " in data
    rows, start, num_rows = band(data, 64, 20, 30)
    assert (start, num_rows) == (16, 16)
    assert np.array_equal(decode(rows, 16, 90)[4:14].copy(), decode(data, 64, 90)[20:30])


def test_damage_inside_a_band_is_refused():
    file = io.BytesIO()
    Image.fromarray(smooth(64, 90)).save(file, "JPEG", restart_marker_rows=1)
    data = file.getvalue()
    rows, _, num_rows = band(data[: len(data) - 60], 64, 40, 64)
    with pytest.raises(ValueError, match=r"(?i)truncated|premature|end of"):
        decode(rows, num_rows, 90)


def test_a_image_is_cut_as_by_hand_and_mirrored_on_demand():
    data = encoded(smooth(64, 90), "JPEG")
    out, mirrored, expected = (np.empty((24, 24, 3), np.uint8) for _ in range(3))
    box = (20, 30, 36, 40)
    cut_into(out, data, (64, 90), box)
    cut_into(mirrored, data, (64, 90), box, mirror=True)
    crop_into(expected, decode(data, 64, 90), box)
    assert np.array_equal(out, expected) and np.array_equal(mirrored, expected[:, ::-1])


def test_resizing_agrees_with_pillow():
    image = cv2.GaussianBlur(
        np.random.default_rng(0).integers(0, 256, (96, 80, 3)).astype(np.uint8), (0, 0), 2
    )
    out = np.empty((40, 40, 3), np.uint8)
    crop_into(
        out, image, (0, 0, 30, 36)
    )  # enlarged: Pillow's filter is bilinear without more support
    assert (
        np.abs(
            out.astype(int)
            - np.asarray(
                Image.fromarray(image[:30, :36]).resize((40, 40), Image.Resampling.BILINEAR)
            )
        ).max()
        <= 1
    )
    crop_into(out, image, (10, 0, 80, 80))  # reduced by 2: the area average
    assert (
        np.abs(
            out.astype(int)
            - np.asarray(Image.fromarray(image[10:90]).resize((40, 40), Image.Resampling.BOX))
        ).max()
        <= 1
    )


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("size", [(100, 70), (97, 130), (40, 33)])
def test_a_head_decodes_to_the_first_rows_of_the_whole_image(subsampling, size):
    buffer = io.BytesIO()
    Image.fromarray(smooth(*size)).save(buffer, "JPEG", quality=90, subsampling=subsampling)
    data, num_cut = buffer.getvalue(), 0
    whole = decode(data, *size).copy()
    for bottom in range(1, size[0] + 1):
        if (cut := head(data, size[0], bottom)) is None:
            continue
        num_cut += 1
        assert bottom < cut[1] < size[0]
        assert np.array_equal(decode_head(*cut, size[1])[:bottom], whole[:bottom])
    assert num_cut
    out = np.empty((24, 24, 3), np.uint8)
    cut_into(out, data, size, (3, 5, 8, 24))
    expected = np.empty_like(out)
    crop_into(expected, whole, (3, 5, 8, 24))
    assert np.array_equal(out, expected)


def test_only_a_baseline_jpeg_without_restart_markers_gets_a_head():
    image = Image.fromarray(smooth(100, 70))

    def saved(**options):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", **options)
        return buffer.getvalue()

    assert head(saved(), 100, 20)
    for data in (saved(progressive=True), saved(restart_marker_blocks=3), b"\x89PNG", saved()[:99]):
        assert head(data, 100, 20) is None
    # A preview in the metadata, whose header comes first, has another height.
    preview = saved()
    exif = b"\xff\xe1" + (len(preview) + 2).to_bytes(2, "big") + preview
    assert head(saved()[:2] + exif + saved()[2:], 200, 20) is None


def test_a_head_with_missing_rows_is_refused():
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (160, 160, 3), np.uint8)
    Image.fromarray(noise).save(buffer, "JPEG", quality=95)
    data = buffer.getvalue()
    jpeg, height = head(data, 160, 100)
    decode_head(jpeg, height, 160)
    with pytest.raises(ValueError, match="do not decode"):
        decode_head(jpeg[: len(jpeg) // 4], height, 160)
