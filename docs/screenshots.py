"""Take screenshots of the page of `i21k serve` with Chromium.

    python docs/screenshots.py --checkpoint runs/quickstart --data data/quickstart --out FOLDER

`docs/make.py` calls it. Needs Chromium and the extra `browser`. The image is the one of the split
whose best class is nearest to a probability of 0.5, so the screenshots show an uncertain model.
"""

import argparse
import signal
import subprocess
import sys
from pathlib import Path

from PIL import Image

from i21k import load_model, open_dataset

sys.path.insert(0, str(Path(__file__).parents[1]))  # for tests.helpers

from tests.helpers import browser

NUM_TRIED = 400
LARGE = {"width": 1180, "height": 1000}
PHONE = {"width": 375, "height": 760}


def hesitant(checkpoint: Path, data: Path) -> Image.Image:
    """Return the image that the model is least sure of, without being lost."""
    model, dataset = load_model(checkpoint), open_dataset(data, "val")
    images = [dataset[number].image for number in range(min(NUM_TRIED, len(dataset)))]
    best = model.probabilities(images).max(axis=1)
    return images[int(abs(best - 0.5).argmin())]


def take(address: str, image: Path, out: Path) -> None:
    """Visit the page as three visitors, and save what they see."""
    with browser.chromium() as chromium:
        for name, view, options in (
            ("serve.png", "top", {"viewport": LARGE}),
            ("serve_dark.png", "subset", {"viewport": LARGE, "color_scheme": "dark"}),
            ("serve_phone.png", "hedge", {"viewport": PHONE}),
        ):
            tab = chromium.new_context(**options, reduced_motion="reduce").new_page()
            tab.goto(address)
            tab.set_input_files("#file", image)
            tab.wait_for_selector(".cell")
            tab.click(f"#tab-{view}")
            if view == "hedge":
                tab.focus("#accuracy")
                tab.keyboard.press("End")
            tab.wait_for_timeout(800)
            tab.evaluate("document.activeElement.blur()")
            tab.screenshot(path=out / name)
            with Image.open(out / name) as taken:
                taken.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(
                    out / name, optimize=True
                )


def main() -> None:
    """Start a server, take the screenshots, stop it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if browser.LACKING:
        raise SystemExit(browser.LACKING)
    image = args.out / "photo.png"
    hesitant(args.checkpoint, args.data).save(image)
    command = [sys.executable, "-m", "i21k", "serve", "--checkpoint", str(args.checkpoint)]
    command += ["--calibrate", str(args.data), "--port", "0", "--batch-size", "1"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        take(server.stdout.readline().split()[1], image, args.out)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()
        image.unlink()


if __name__ == "__main__":
    main()
