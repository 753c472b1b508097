"""Compare the page of `i21k serve --static` in Chromium with `i21k predict`, image by image.

    python benchmarks/static_page.py IMAGE... --checkpoint runs/quickstart \\
        --onnxruntime-web node_modules/onnxruntime-web/dist [--precision float16]

Writes the folder, serves it on loopback, and gives the page one image after another. With
--classes, --mean and --std the model is an ONNX file. Prints one JSON line:

    images, top1            how many, and for what fraction the best class is the same
    largest, mean_largest   largest difference of a probability: over all images, and mean over them
    as_written              the same three numbers against the written ONNX file in Python, so that
                            they are of decoding and resizing alone
    folder_mb, model_mb     size of the folder and of the model in it
    load_s                  from the first request until the model is ready
    image_ms                median from a file to its probabilities, with all that the page does
"""

import argparse
import base64
import json
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for tests.helpers

from i21k.cli import arguments

arguments.prepare_jax()

from i21k import trained
from i21k.prediction.predictor import Predictor
from i21k.serve.site import PRECISION, write_site
from i21k.trained import TrainedModel
from tests.helpers import browser, sites

_ANSWER = """async ([text, name]) => {
    const { predict, numbers } = await import("./assets/api.js");
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const startedAt = performance.now();
    const { id } = await predict(new File([bytes], name), {});
    const found = await numbers(`/results/${id}/probabilities`);
    return [performance.now() - startedAt, [...found]];
}"""


def in_browser(folder: Path, files: list[Path]) -> tuple[float, list[float], np.ndarray]:
    """Return the seconds to load, the milliseconds of each image, and the probabilities."""
    with sites.hosted(folder) as address, browser.chromium() as chromium:
        tab = chromium.new_page()
        tab.set_default_timeout(600_000)
        started_at = time.perf_counter()
        tab.goto(address)
        tab.wait_for_function(
            "() => document.querySelector('#loading').textContent.startsWith('The model runs')"
        )
        load_s = time.perf_counter() - started_at
        found = [
            tab.evaluate(_ANSWER, [base64.b64encode(file.read_bytes()).decode(), file.name])
            for file in files
        ]
    return load_s, [ms for ms, _ in found], np.array([row for _, row in found])


def compared(ours: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
    """Return how much probabilities differ."""
    largest = np.abs(ours - theirs).max(axis=1)
    return {
        "top1": float((ours.argmax(1) == theirs.argmax(1)).mean()),
        "largest": float(largest.max()),
        "mean_largest": float(largest.mean()),
    }


def expected(model: TrainedModel, files: list[Path]) -> np.ndarray:
    """Return the probabilities of the views: at the temperature of the calibration."""
    predictor = Predictor(model)
    return predictor.calibrated(predictor.probabilities(files))


def main() -> None:
    """Write, visit, compare."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_model(parser)
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--onnxruntime-web", type=Path, default=sites.RUNTIME)
    parser.add_argument("--precision")
    args = parser.parse_args()
    if browser.LACKING:
        raise SystemExit(browser.LACKING)
    model = arguments.open_model(args)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "page"
        written = write_site(model, folder, args.onnxruntime_web, args.precision)
        load_s, image_ms, found = in_browser(folder, args.images)
        model_before = expected(model, args.images)
        result: dict[str, Any] = {
            "precision": args.precision or PRECISION,
            "images": len(args.images),
            **compared(found, model_before),
        }
        if not trained.is_onnx(args.checkpoint):
            copy = trained.load(folder)
            plain = copy.probabilities(np.stack([copy.prepare(file) for file in args.images]))
            result["as_written"] = compared(found, Predictor(model).calibrated(plain))
        result |= {
            "folder_mb": written.num_bytes / 1e6,
            "model_mb": written.model_bytes / 1e6,
            "load_s": load_s,
            "image_ms": statistics.median(image_ms),
            "machine": platform.processor() or platform.machine(),
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
