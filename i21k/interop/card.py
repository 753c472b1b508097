"""The model card of an export: its `README.md`."""

import json
from collections.abc import Callable
from pathlib import Path

from i21k.checkpoints import Checkpoint
from i21k.interop import onnx, stablehlo
from i21k.text import printable
from i21k.train.metric_files import Row, is_metric, read_metrics
from i21k.trained import CheckpointModel

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


def card(
    model: CheckpointModel, format: str, precision: str, agreement: onnx.Agreement | None
) -> str:
    """Return the text: what the model is, its data, recipe and metrics, how to run it, licences.

    Args:
        model: that was exported.
        format: of the export.
        precision: of its weights.
        agreement: with the checkpoint, where it was measured.

    Raises:
        UserError: if `metrics.csv` of the run is damaged.
    """
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
        f"- Weights: {printable(model.origin)}, digest {model.origin.digest[:16]}",
        f"- Input: RGB, {contract.image_size} x {contract.image_size} px, values of 0 to 255."
        f" The image is reduced to a short side of {contract.short_side_px or 'its own size'} px"
        f" ({contract.resampling}), then the central {contract.crop_fraction:.4g} of the short"
        " side is cut out and resized.",
        f"- Output: logits; probabilities are their {model.probability}. Features are the second"
        " output.",
    ]
    lines += [f"- Data: {line}" for line in _data_lines(model.checkpoint)]
    lines.append(f"- Metrics: {_metrics(model)}")
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


def _metrics(model: CheckpointModel) -> str:
    """Return the evaluations at the step of the checkpoint, from the run's `metrics.csv`."""
    rows: list[Row] = read_metrics(Path(model.origin.path))
    found = [row for row in rows if int(row["step"]) == model.origin.step]
    kinds = ("top1", "top5", "loss")
    shown = [
        f"{name.replace('_', ' ')} {float(value):.4f}"
        for row in found
        for name, value in row.items()
        if value and is_metric(name) and not name.startswith("train_") and name.endswith(kinds)
    ]
    return ", ".join(shown) or "none are recorded for this step"
