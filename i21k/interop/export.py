"""Export a trained model into a folder that other programs can use: the work of `i21k export`.

The folder has the model, its classes with names, the preprocessing contract, a model card,
WordNet's licence and SHA-256 sums. It is complete or absent.
"""

import dataclasses
import json
import shutil
import tempfile
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from i21k import files
from i21k.data.format.splits import Split
from i21k.data.load import loader
from i21k.errors import UserError
from i21k.files import hash_file
from i21k.interop import onnx, safetensors, stablehlo
from i21k.interop.card import card
from i21k.interop.mxnet import convert
from i21k.interop.mxnet.params import Layout
from i21k.labels import ClassList
from i21k.models.inception_network import InceptionNetwork
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
NUM_CHECKED, NUM_CALIBRATION, BATCH_SIZE = 8, 128, 16  # images, our choice


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
    order: ClassList | None = None,
    layout: Layout = "V2",
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
        order: of the classes in MXNet's files. None: as in the checkpoint.
        layout: of MXNet's `.params` file.

    Raises:
        UserError: if the directory is not empty, an extra is missing, an option does not fit the
            format or the network, or the exported model does not give the logits of the checkpoint.
    """
    target = Path(directory)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} exists and is not empty. Choose another --out.")
    _check_options(model, format, precision, input_type, images_from, order, layout)
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
            safetensors.write_safetensors(temporary, model.variables, model.checkpoint)
        else:
            assert isinstance(model.network, InceptionNetwork)  # checked above
            convert.write_model(
                temporary,
                model.network.module,
                model.variables,
                model.classes,
                order=order,
                layout=layout,
            )
        _write_beside(model, temporary, order or model.classes)
        text = card(model, format, precision, agreement)
        files.write_text(temporary / CARD, text)
        _write_sums(temporary)
        temporary.chmod(0o755)
        if target.exists():
            target.rmdir()
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    num_bytes = sum(path.stat().st_size for path in target.iterdir())
    return ExportReport(str(target), format, precision, num_bytes, agreement)


def _check_options(
    model: CheckpointModel,
    format: Format,
    precision: onnx.Precision,
    input_type: onnx.Input,
    images_from: Split | None,
    order: ClassList | None,
    layout: Layout,
) -> None:
    if format != "onnx" and (precision, input_type) != ("float32", "uint8"):
        raise UserError(f"Format {format!r} is float32 only. Use --format onnx for {precision}.")
    if format != "mxnet" and (order, layout) != (None, "V2"):
        raise UserError(f"Format {format!r} has no --order and no --layout. Use --format mxnet.")
    if precision == "int8-static" and images_from is None:
        raise UserError(
            "Precision int8-static needs images to calibrate with. Give --data DIR and --split."
        )
    if format in ("onnx", "mxnet") and not isinstance(model.network, InceptionNetwork):
        raise UserError(
            f"{model.network.title} cannot be written as {format}, only Inception-BN can. Use"
            " --format stablehlo or safetensors."
        )


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

    if images_from is None:
        size = model.preprocessing.image_size
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (NUM_CHECKED, size, size, 3), np.uint8)
    else:
        images = np.concatenate(list(real_images(model, images_from, 2 * NUM_CALIBRATION)))
    if precision == "int8-static":
        calibration, others = np.split(images, [min(NUM_CALIBRATION, len(images))])
        full = folder / "float32.onnx"
        write(full, "float32")
        parts = np.array_split(as_input(calibration), -(-len(calibration) // BATCH_SIZE))
        onnx.quantize(full, folder / MODEL, parts)
        full.unlink()
        images = others if len(others) else images  # not those that it was calibrated with
    else:
        write(folder / MODEL, precision)
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


def real_images(model: CheckpointModel, split: Split, num: int) -> Iterator[np.ndarray]:
    """Yield batches of the first images of a split, cropped as in an evaluation."""
    size, crop_fraction = model.preprocessing.image_size, model.preprocessing.crop_fraction
    options = loader.eval_options(BATCH_SIZE, size, crop_fraction)
    num_left = num
    with loader.batches(split, options) as batches:
        for batch in batches:
            images = np.array(batch.images[batch.weights > 0][:num_left])
            num_left -= len(images)
            yield images
            if not num_left:
                return


def _write_beside(model: CheckpointModel, folder: Path, classes: ClassList) -> None:
    """Write classes in the order of the outputs, the contract, and WordNet's licence."""

    def write_json(name: str, content: Any) -> None:
        text = json.dumps(content, indent=1, ensure_ascii=False)
        (folder / name).write_text(text + "\n", encoding="utf-8")

    write_json(CLASSES, [{"id": one, "name": wordnet().name(one)} for one in classes.ids])
    write_json(CONTRACT, model.preprocessing.to_json() | {"probability": model.probability})
    licence = resources.files("i21k.wordnet") / "tables" / WORDNET
    (folder / WORDNET).write_text(licence.read_text("utf-8"), encoding="utf-8")


def _write_sums(folder: Path) -> None:
    sums = "".join(f"{hash_file(path)}  {path.name}\n" for path in sorted(folder.iterdir()))
    (folder / SUMS).write_text(sums, encoding="utf-8")
