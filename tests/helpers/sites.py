"""Folders of static files, a stand-in for onnxruntime-web, and a web server."""

import contextlib
import functools
import http.server
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

from i21k.prediction.calibration import Calibrated, Calibrations
from i21k.serve import runtime
from i21k.trained import TrainedModel
from i21k.wordnet.views import Calibration
from tests.helpers.paths import ROOT

NODE = shutil.which("node")
RUNTIME = Path(os.environ.get("ONNXRUNTIME_WEB", ROOT / runtime.FOLDER))
LACKING = (
    ""
    if (RUNTIME / next(iter(runtime.FILES))).is_file()
    else f"no onnxruntime-web: {runtime.INSTALL}, or set ONNXRUNTIME_WEB to its dist"
)

GENERALITY = {0.5: 0.0, 0.7: 0.05, 0.9: 0.4}  # by accuracy


def calibrate_by_hand(model: TrainedModel, temperature: float = 1.5) -> None:
    """Save calibrations beside a model that were not computed."""
    curve = {wanted: Calibration(g, wanted, 1 - wanted, 100) for wanted, g in GENERALITY.items()}
    found = Calibrated(*curve[0.9], temperature, 0.2, 0.1)
    Calibrations(model.origin).save(0.9, found, "data", "val", "", curve)


def stand_in(folder: Path, version: str = runtime.TESTED) -> Path:
    """Write files with the names of the runtime's, which cannot run."""
    folder.mkdir(parents=True)
    for name in runtime.FILES:
        (folder / name).write_text(f"/*!\n * ONNX Runtime Web v{version}\n */ {name}\n")
    return folder


@contextlib.contextmanager
def hosted(folder: Path, **headers: str) -> Iterator[str]:
    """Serve a folder with these headers as any web server does; yield the address."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def end_headers(self) -> None:
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            super().end_headers()

        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Handler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()
