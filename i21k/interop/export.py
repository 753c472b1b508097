"""Export a trained model into a folder that other programs can use: the work of `i21k export`.

The folder has the model, its classes with names, the preprocessing contract, a model card,
WordNet's licence and SHA-256 sums. It is complete or absent.
"""

import dataclasses
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from i21k.checkpoints import Checkpoint
from i21k.data.format.splits import Split
from i21k.data.load import loader
from i21k.errors import UserError
from i21k.files import hash_file
from i21k.interop import onnx, safetensors, stablehlo
from i21k.interop.mxnet import convert
from i21k.trained import CheckpointModel
from i21k.wordnet.taxonomy import wordnet

Format = Literal["onnx", "stablehlo", "safetensors", "mxnet"]
FORMATS: tuple[Format, ...] = ("onnx", "stablehlo", "safetensors", "mxnet")
PRECISIONS: tuple[onnx.Precision, ...] = (
    "float32",
    "float16",
    "int8",
    "int8-head",
    "int8-static",
)
MODEL, CLASSES, CONTRACT, CARD = "model.onnx", "classes.json", "preprocessing.json", "README.md"
SUMS, WORDNET = "SHA256SUMS", "LICENSE.WordNet"
NUM_CHECKED, NUM_CALIBRATION = 8, 128  # images, our choice


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """What was exported, and how much it differs from the checkpoint."""

    directory: str
    format: str
    precision: str
    num_bytes: int  # of the whole folder
    agreement: onnx.Agreement | None  # of ONNX, on the images that it was checked with


def export(
    model: CheckpointModel,
    directory: str | Path,
    format: Format = "onnx",
    precision: onnx.Precision = "float32",
    input_type: onnx.Input = "uint8",
    images_from: Split | None = None,
) -> ExportReport:
    """Write a folder with a trained model.

    An ONNX model is run with onnxruntime and compared with the checkpoint before the folder
    appears.

    Args:
        model: to export.
        directory: missing or empty.
        format: of the model.
        precision: of the weights of an ONNX model; the other formats are float32.
        input_type: of an ONNX model; see `onnx.write_onnx`.
        images_from: split of real images for the check, and to calibrate `int8-static` with. By
            default the check uses noise.

    Raises:
        UserError: if the directory is not empty, an extra is missing, an option does not fit the
            format, or the exported model does not give the logits of the checkpoint.
    """
    target = Path(directory)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} exists and is not empty. Choose another --out.")
    if format != "onnx" and (precision, input_type) != ("float32", "uint8"):
        raise UserError(f"Format {format!r} is float32 only. Use --format onnx for {precision}.")
    if precision == "int8-static" and images_from is None:
        raise UserError(
            "Precision int8-static needs images to calibrate with. Give --data DIR and --split."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".i21k-export-", dir=target.parent))
    try:
        agreement = None
        if format == "onnx":
            agreement = _write_onnx(model, temporary, precision, input_type, images_from)
        elif format == "stablehlo":
            size = model.preprocessing.image_size
            stablehlo.write_stablehlo(temporary, model.network, model.variables, size)
        elif format == "safetensors":
            safetensors.write_safetensors(temporary, model.variables, _config(model))
        else:
            module: Any = model.network.module  # type: ignore[attr-defined]
            convert.write_model(temporary, module, model.variables, model.classes)
        _write_beside(model, temporary, format, precision, agreement)
        temporary.chmod(0o755)
        if target.exists():
            target.rmdir()
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    num_bytes = sum(path.stat().st_size for path in target.iterdir())
    return ExportReport(str(target), format, precision, num_bytes, agreement)


def _write_onnx(
    model: CheckpointModel,
    folder: Path,
    precision: onnx.Precision,
    input_type: onnx.Input,
    images_from: Split | None,
) -> onnx.Agreement:
    _, convert_variables = model.network.for_inference("cpu")
    params = convert_variables(model.variables)["params"]
    names = [wordnet().name(class_id) for class_id in model.classes.ids]
    contract = model.preprocessing.to_json() | {"probability": model.probability}
    metadata = onnx.metadata_of(model.classes, names, contract)
    metadata["normalisation"] = json.dumps(_normalisation(model))

    def as_input(images: np.ndarray) -> np.ndarray:
        if input_type == "uint8":
            return images
        return np.asarray(model.network.prepare(jnp.asarray(images))).transpose(0, 3, 1, 2)

    def write(path: Path, stored: onnx.Precision) -> None:
        described = model.network.describe()
        onnx.write_onnx(path, described, params, metadata, input_type=input_type, precision=stored)

    if precision == "int8-static":
        assert images_from is not None
        full = folder / "float32.onnx"
        write(full, "float32")
        batches = (as_input(batch) for batch in _real_images(model, images_from, NUM_CALIBRATION))
        onnx.quantize(full, folder / MODEL, batches)
        full.unlink()
    else:
        write(folder / MODEL, precision)
    if images_from is None:
        size = model.preprocessing.image_size
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (NUM_CHECKED, size, size, 3), np.uint8)
    else:
        images = np.concatenate(list(_real_images(model, images_from, NUM_CALIBRATION)))
    agreement = onnx.compare(folder / MODEL, as_input(images), model.logits(images))
    if precision == "float32" and not agreement.relative < 1e-4:
        raise UserError(
            f"The exported model differs from the checkpoint by {agreement.relative:.1e}"
            " (relative); expected below 1e-4. Report this with the versions of onnx and"
            " onnxruntime."
        )
    return agreement


def _normalisation(model: CheckpointModel) -> dict[str, list[float]]:
    """Return mean and std with which (x / 255 - mean) / std is what the network prepares."""
    colours = jnp.array([0, 255], jnp.uint8).reshape(2, 1, 1, 1) * jnp.ones((1, 1, 1, 3), jnp.uint8)
    low, high = np.asarray(model.network.prepare(colours), np.float64)[:, 0, 0]
    std = 1 / (high - low)
    return {"mean": (-low * std).tolist(), "std": std.tolist()}


def _real_images(model: CheckpointModel, split: Split, num: int) -> Iterator[np.ndarray]:
    """Yield batches of the first images of a split, cropped as in an evaluation."""
    options = loader.LoaderOptions(
        batch_size=16,
        image_size=model.preprocessing.image_size,
        crop="centre",
        crop_fraction=model.preprocessing.crop_fraction,
        mirror=False,
        order="stored",
    )
    num_left = num
    with loader.batches(split, options) as batches:
        for batch in batches:
            images = np.array(batch.images[batch.weights > 0][:num_left])
            num_left -= len(images)
            yield images
            if not num_left:
                return


def _config(model: CheckpointModel) -> dict[str, Any]:
    """Return what safetensors cannot store: the network, its classes and its preprocessing."""
    return {
        "network": model.network.describe(),
        "num_classes": len(model.classes),
        "probability": model.probability,
        "preprocessing": model.preprocessing.to_json(),
        "classes": list(model.classes.ids),
        "origin": model.origin._asdict(),
    }


def _write_beside(
    model: CheckpointModel,
    folder: Path,
    format: Format,
    precision: str,
    agreement: onnx.Agreement | None,
) -> None:
    """Write classes, contract, licence, model card and sums."""

    def write_json(name: str, content: Any) -> None:
        text = json.dumps(content, indent=1, ensure_ascii=False)
        (folder / name).write_text(text + "\n", encoding="utf-8")

    ids = model.classes.ids
    write_json(CLASSES, [{"id": class_id, "name": wordnet().name(class_id)} for class_id in ids])
    write_json(CONTRACT, model.preprocessing.to_json() | {"probability": model.probability})
    licence = resources.files("i21k.wordnet") / "tables" / WORDNET
    (folder / WORDNET).write_text(licence.read_text("utf-8"), encoding="utf-8")
    card = _card(model, format, precision, agreement)
    (folder / CARD).write_text(card, encoding="utf-8")
    sums = "".join(f"{hash_file(path)}  {path.name}\n" for path in sorted(folder.iterdir()))
    (folder / SUMS).write_text(sums, encoding="utf-8")


_HOW: dict[str, Callable[[CheckpointModel], str]] = {
    "onnx": lambda model: (
        "import onnxruntime\n\n"
        'session = onnxruntime.InferenceSession("model.onnx")\n'
        'logits, features = session.run(None, {"images": images})\n'
    ),
    "stablehlo": lambda model: stablehlo.HOW_TO_RUN.format(size=model.preprocessing.image_size),
    "safetensors": lambda model: (
        "import json, pathlib, struct\nimport numpy as np\n\n"
        'data = pathlib.Path("model.safetensors").read_bytes()\n'
        'size = struct.unpack("<Q", data[:8])[0]\n'
        "header = json.loads(data[8 : 8 + size])\n"
        f'begin, end = header["params/{"/".join(model.network.head)}/kernel"]["data_offsets"]\n'
        "kernel = np.frombuffer(data[8 + size + begin : 8 + size + end], np.float32)\n"
    ),
    "mxnet": lambda model: (
        "import mxnet\n\n"
        'net = mxnet.gluon.SymbolBlock.imports("Inception-symbol.json", ["data"], '
        '"Inception-0000.params")\n'
    ),
}


def _card(
    model: CheckpointModel, format: Format, precision: str, agreement: onnx.Agreement | None
) -> str:
    """Return the text of the model card."""
    meta, contract = model.checkpoint.meta, model.preprocessing
    lines = [
        "---",
        "library_name: i21k",
        "pipeline_tag: image-classification",
        "license: other",
        "license_name: imagenet-terms",
        "license_link: https://image-net.org/download",
        "---",
        "",
        f"# {model.network.title}",
        "",
        f"An image classifier over {len(model.classes):,} classes, exported by i21k as {format}"
        f" ({precision}).",
        "",
        f"- Weights: {model.origin}, digest {model.origin.digest[:16]}",
        f"- Input: RGB, {contract.image_size} x {contract.image_size} px, values of 0 to 255."
        f" The image is reduced to a short side of {contract.short_side_px or 'its own size'} px"
        f" ({contract.resampling}), then the central {contract.crop_fraction:.4g} of the short"
        " side is cut out and resized.",
        f"- Output: logits; probabilities are their {model.probability}. Features are the second"
        " output.",
    ]
    lines += [f"- Data: {line}" for line in _data_lines(model.checkpoint)]
    if agreement is not None:
        lines.append(
            f"- Checked with onnxruntime against the checkpoint: logits differ by"
            f" {agreement.relative:.1e} (relative L2), the best class agrees for"
            f" {agreement.top1:.1%} of the images."
        )
    lines += ["", "```python", _HOW[format](model).rstrip(), "```", "", "## Recipe", "", "```json"]
    recipe = meta.get("config", meta.get("provenance", {}))
    lines += [json.dumps(recipe, indent=1, default=str), "```", "", "## Licence", ""]
    lines += [
        "Weights that were trained on ImageNet come with ImageNet's terms: non-commercial research",
        "and education. Class names are from WordNet 3.0; see LICENSE.WordNet.",
    ]
    return "\n".join(lines) + "\n"


def _data_lines(checkpoint: Checkpoint) -> list[str]:
    data = checkpoint.meta.get("data")
    if not data:
        return ["not recorded (an imported model)"]
    fingerprint = data["fingerprint"][:16]
    return [f"{data['num_records']:,} images of split {data['split']!r}, fingerprint {fingerprint}"]
