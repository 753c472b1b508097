"""JPEGs with any frame header, as few writers make them: grey, and legal where the header is."""

import struct


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def grey_jpeg(
    width: int,
    height: int,
    sampling: list[tuple[int, int]],
    precision: int = 8,
    frame: int = 0xC0,
) -> bytes:
    """Every block is two bits: no difference of the mean, and the end of the block."""
    most_h, most_v = (max(factors[axis] for factors in sampling) for axis in (0, 1))
    number = len(sampling)
    components = b"".join(bytes([k + 1, h << 4 | v, 0]) for k, (h, v) in enumerate(sampling))
    header = struct.pack(">BHHB", precision, height, width, number) + components
    one_code = bytes([1] + [0] * 15) + b"\0"
    scan = bytes([number]) + b"".join(bytes([k + 1, 0]) for k in range(number)) + b"\0\x3f\0"
    num_units = -(-width // (8 * most_h)) * -(-height // (8 * most_v))
    num_bits = 2 * num_units * sum(h * v for h, v in sampling)
    data = bytearray(-(-num_bits // 8))
    if num_bits % 8:
        data[-1] |= (1 << (8 - num_bits % 8)) - 1
    tables = segment(0xDB, b"\0" + bytes([16] * 64))
    tables += segment(frame, header)
    tables += segment(0xC4, b"\0" + one_code) + segment(0xC4, b"\x10" + one_code)
    return b"\xff\xd8" + tables + segment(0xDA, scan) + bytes(data) + b"\xff\xd9"
