"""Write a folder of static files: the page, a model and what runs it, for any web server.

The page computes on the visitor's device. The folder is complete or absent.
"""

import html
import json
import shutil
import tempfile
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from i21k.errors import UserError
from i21k.files import TEMPORARY, hash_file
from i21k.interop import export
from i21k.models.inception_network import InceptionNetwork
from i21k.prediction.predictor import Predictor
from i21k.serve import page_files, runtime, site_data
from i21k.serve.models import served
from i21k.serve.runtime import Runtime
from i21k.trained import CheckpointModel, TrainedModel
from i21k.trained.onnx_model import OnnxModel

PRECISIONS = tuple(p for p in export.PRECISIONS if p != "int8-static")  # without images
PRECISION = "float16"  # our choice: half of float32, and answers as the checkpoint's
POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self';"
    " connect-src 'self'; style-src 'self'; img-src 'self' blob:; base-uri 'none';"
    " form-action 'none'"
)
SUMS, ABOUT = "SHA256SUMS", "README.md"


class Written(NamedTuple):
    """A folder that was written."""

    directory: Path
    num_bytes: int
    model_bytes: int
    agreement: float | None  # share of images of noise with the checkpoint's best class


def write_site(
    model: TrainedModel,
    directory: Path,
    runtime_folder: Path | None = None,
    precision: str | None = None,
) -> Written:
    """Write the folder.

    Args:
        model: a checkpoint, or an ONNX model.
        directory: missing or empty.
        runtime_folder: see `runtime.find`.
        precision: one of `PRECISIONS`, of a checkpoint's weights; None: `PRECISION`. An ONNX model
            is copied as it is.

    Raises:
        UserError: if the directory is not empty, onnxruntime-web is not there, or the model cannot
            be written as ONNX or cannot run in a browser.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UserError(f"{directory} exists and is not empty. Choose another folder.")
    found = runtime.find(runtime_folder)
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=directory.parent))
    try:
        site = temporary / "site"
        site.mkdir()
        onnx, agreement = _write_model(model, temporary, site / export.MODEL, precision)
        description = _write_page(model, onnx, site, found)
        runtime.copy(found, site / "runtime")
        _write_beside(site, description, found)
        if directory.exists():
            directory.rmdir()
        site.rename(directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    num_bytes = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    return Written(directory, num_bytes, description["file"]["bytes"], agreement)


def _write_model(
    model: TrainedModel, temporary: Path, file: Path, precision: str | None
) -> tuple[OnnxModel, float | None]:
    """Write the ONNX file, and return it as it will be read with its agreement."""
    if isinstance(model, OnnxModel):
        if precision is not None:
            raise UserError(
                f"{model.origin.path} is an ONNX model, which is copied as it is. Omit --precision."
            )
        _check(model)
        shutil.copyfile(model.origin.path, file)
        return model, None
    assert isinstance(model, CheckpointModel)
    if not isinstance(model.network, InceptionNetwork):
        raise UserError(
            f"{model.network.title} cannot be written as ONNX, only Inception-BN can. Use i21k"
            " serve without --static."
        )
    chosen = next((p for p in PRECISIONS if p == (precision or PRECISION)), None)
    if chosen is None:
        raise UserError(
            f"Precision {precision!r} is not known. Use one of {', '.join(PRECISIONS)}."
        )
    report = export.export(model, temporary / "exported", "onnx", chosen)
    (temporary / "exported" / export.MODEL).rename(file)
    assert report.agreement is not None
    return OnnxModel(file), report.agreement.top1


def _check(model: OnnxModel) -> None:
    """Refuse a file that a browser cannot run.

    Raises:
        UserError: if the input is float16, or weights are in other files.
    """
    path = Path(model.origin.path)
    if model.graph.input.kind == "float16":
        raise UserError(
            f"{path} takes float16, which browsers lack. Export it with an input of float32."
        )
    if model.has_external_data:
        raise UserError(
            f"{path} keeps weights in other files. Save it as one file, with"
            " onnx.save(onnx.load(path), new_path)."
        )


def _write_page(model: TrainedModel, onnx: OnnxModel, site: Path, found: Runtime) -> dict[str, Any]:
    """Write the page and its data; return the description of the model."""
    (shown,) = served([Predictor(model)], batch_size=1).values()
    num_bytes = (site / export.MODEL).stat().st_size
    description = site_data.answering_json(shown)
    description |= site_data.network_json(onnx, export.MODEL, num_bytes)
    _write_json(site / "model.json", description)
    if description["has_wordnet"]:
        _write_json(site / "wordnet.json", site_data.wordnet_json())
        _write_json(site / "meanings.json", site_data.meanings_json())
    assets = site / "assets"
    assets.mkdir()
    for name, text in (page_files.page_files() | page_files.browser_files()).items():
        (assets / name).write_text(text, encoding="utf-8")
    text = page_files.index(
        policy=f'<meta http-equiv="Content-Security-Policy" content="{html.escape(POLICY)}">\n',
        scripts='<script type="module" src="assets/loading.js"></script>\n',
        status='<p id="loading" class="soft" role="status">A web server has to send this page:'
        " a browser does not run it from a file.</p>",
        foot="The model runs in this browser, and images do not leave the device. Licences of its"
        f" parts: ONNX Runtime Web {html.escape(found.version)}"
        f' (<a href="runtime/{runtime.LICENCE_FILE}">MIT</a>),'
        f' WordNet 3.0 (<a href="{export.WORDNET}">licence</a>).',
    )
    (site / "index.html").write_text(text, encoding="utf-8")
    return description


def _write_beside(site: Path, description: dict[str, Any], found: Runtime) -> None:
    """Write what the folder is, licences, and the digests of all files."""
    licence = resources.files("i21k.wordnet") / "tables" / export.WORDNET
    (site / export.WORDNET).write_text(licence.read_text("utf-8"), encoding="utf-8")
    text = _ABOUT.format(
        name=description["name"],
        num_classes=description["num_classes"],
        version=found.version,
        policy=POLICY,
        licence=runtime.LICENCE_FILE,
        wordnet=export.WORDNET,
    )
    (site / ABOUT).write_text(text, encoding="utf-8")
    files = sorted(path for path in site.rglob("*") if path.is_file())
    sums = "".join(f"{hash_file(path)}  {path.relative_to(site)}\n" for path in files)
    (site / SUMS).write_text(sums, encoding="utf-8")
    for path in (site, *(path for path in site.rglob("*") if path.is_dir())):
        path.chmod(0o755)


def _write_json(path: Path, content: Any) -> None:
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    path.write_text(text, encoding="utf-8")


_ABOUT = """# {name}: an image classifier of {num_classes:,} classes that runs in the browser

Put this folder on any web server, or try it here with

    python3 -m http.server --bind 127.0.0.1 8000

and open http://127.0.0.1:8000. Everything is computed on the visitor's device. The page loads
nothing from other sites.

The page has a security policy. A web server can also send it as a header, so that it holds for the
thread that runs the model too:

    Content-Security-Policy: {policy}

With these two headers, and over HTTPS or from localhost, the model uses several threads:

    Cross-Origin-Opener-Policy: same-origin
    Cross-Origin-Embedder-Policy: require-corp

| part | version | licence |
|---|---|---|
| `runtime/`: onnxruntime-web, two files renamed | {version} | MIT, `runtime/{licence}` |
| `wordnet.json`, `meanings.json`: from WordNet | 3.0 | `{wordnet}` |
| `assets/`, `index.html`: i21k | | Apache-2.0 |

The licence of the model is that of the images it was trained on, and of who trained it.
`SHA256SUMS` has the digest of each file (`sha256sum -c SHA256SUMS`).
"""
