"""Take an image of an HTML file with Chromium.

    python docs/page_image.py report.html report.png --height 900 --section map

`docs/make.py` calls it. Needs Chromium and the extra `browser`.
"""

import argparse
import sys
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))  # for tests.helpers

from tests.helpers import browser

WIDTH = 1180
NUM_COLOURS = 128  # of a PNG, to keep it small


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("out", type=Path, help="a PNG, or a JPEG")
    parser.add_argument("--width", type=int, default=WIDTH)
    parser.add_argument("--height", type=int, default=900)
    parser.add_argument("--section", help="id of the only section to show; by default the top")
    args = parser.parse_args()
    if browser.LACKING:
        raise SystemExit(browser.LACKING)
    with browser.chromium() as chromium:
        size = {"width": args.width, "height": args.height}
        page = chromium.new_page(viewport=size, reduced_motion="reduce")
        page.goto(args.page.resolve().as_uri())
        page.wait_for_timeout(500)
        taken = args.out.with_suffix(".taken.png")
        if args.section:
            page.locator(f"#{args.section}").screenshot(path=taken)
        else:
            page.screenshot(path=taken)
    with Image.open(taken) as image:
        rgb = image.convert("RGB")
    taken.unlink()
    if args.out.suffix == ".png":
        rgb.quantize(NUM_COLOURS, dither=Image.Dither.NONE).save(args.out, optimize=True)
    else:
        rgb.save(args.out, quality=82, optimize=True)


if __name__ == "__main__":
    main()
