"""Make `unifont.hex.xz` from GNU Unifont: 16-pixel glyphs of every script, and of emoji.

    apt-get download unifont fonts-unifont && for d in *.deb; do dpkg -x $d .; done
    python i21k/look/make_unifont.py usr/share/unifont/unifont.hex \\
        usr/share/fonts/opentype/unifont/unifont_upper.otf

The first file has the Basic Multilingual Plane. Of the second one, symbols and emoji are drawn.
Made with version 15.0.01 of Debian 12. It needs fontTools, which comes with Matplotlib.
"""

import lzma
import sys
from pathlib import Path

import numpy as np
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFont

_SYMBOLS = range(0x1F000, 0x1FB00)  # Mahjong tiles to symbols and pictographs, extended A
_SIDE = 16


def main() -> None:
    lines = Path(sys.argv[1]).read_text("ascii").splitlines()
    font = ImageFont.truetype(sys.argv[2], _SIDE)
    for code in sorted(set(TTFont(sys.argv[2]).getBestCmap()) & set(_SYMBOLS)):
        image = Image.new("1", (_SIDE, _SIDE))
        draw = ImageDraw.Draw(image)
        draw.fontmode = "1"
        draw.text((0, 0), chr(code), 1, font)
        lines.append(f"{code:04X}:{np.packbits(np.array(image), axis=1).tobytes().hex().upper()}")
    text = "".join(f"{line}\n" for line in lines).encode("ascii")
    target = Path(__file__).with_name("unifont.hex.xz")
    target.write_bytes(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME))
    print(f"{len(lines):,} glyphs, {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
