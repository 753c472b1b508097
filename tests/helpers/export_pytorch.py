"""Export classifiers of timm and transformers with random weights. Runs where PyTorch is.

    python tests/helpers/export_pytorch.py FOLDER

Each folder in FOLDER has a model, the files that its library writes beside it, and `images.npy`
with `logits.npy`: what PyTorch answers to images that are prepared as the library does it.
"""

import sys
import warnings
from pathlib import Path

import numpy as np
import timm
import torch
from timm.models import save_for_hf

SIZE = 64


def export(
    folder: Path, model: torch.nn.Module, mean: tuple, std: tuple, dynamo: bool, dynamic: bool
) -> None:
    """Export a model, and what it answers."""
    folder.mkdir(parents=True, exist_ok=True)
    example = torch.zeros(2, 3, SIZE, SIZE)
    names = {"input_names": ["pixel_values"], "output_names": ["logits"]}
    if dynamic and dynamo:
        names["dynamic_shapes"] = ({0: torch.export.Dim("batch", min=1, max=64)},)
    elif dynamic:
        names["dynamic_axes"] = {"pixel_values": {0: "batch"}, "logits": {0: "batch"}}
    torch.onnx.export(model, (example,), str(folder / "model.onnx"), dynamo=dynamo, **names)
    images = np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE, 3), np.uint8)
    scaled = (torch.tensor(images) / 255 - torch.tensor(mean)) / torch.tensor(std)
    with torch.no_grad():
        found = model(scaled.permute(0, 3, 1, 2).contiguous())
    np.save(folder / "images.npy", images)
    np.save(folder / "logits.npy", found.numpy())


def timm_model(
    folder: Path, name: str, num_classes: int, dynamo: bool, dynamic: bool, **options: object
) -> None:
    model = timm.create_model(name, num_classes=num_classes, **options).eval()
    for parameter in model.get_classifier().parameters():  # zeros in some, which would hide errors
        torch.nn.init.normal_(parameter, std=0.5)
    cfg = model.pretrained_cfg | {"input_size": (3, SIZE, SIZE)}
    save_for_hf(model, folder, {"pretrained_cfg": cfg})  # config.json, as on a hub
    for weights in folder.glob("*.safetensors"):
        weights.unlink()
    export(folder, model, cfg["mean"], cfg["std"], dynamo, dynamic)


def transformers_model(folder: Path, num_classes: int) -> None:
    import transformers

    config = transformers.ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=SIZE,
        num_labels=num_classes,
    )
    model = transformers.ViTForImageClassification(config).eval()
    torch.nn.init.normal_(model.classifier.weight)
    processor = transformers.ViTImageProcessor(size={"height": SIZE, "width": SIZE})
    config.save_pretrained(folder)
    processor.save_pretrained(folder)

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
            return self.model(pixel_values).logits

    half = (0.5, 0.5, 0.5)
    export(folder, Logits().eval(), half, half, dynamo=True, dynamic=False)


class WithSoftmax(torch.nn.Module):
    """Probabilities inside the graph, and features as a second output."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.model.forward_head(self.model.forward_features(images), pre_logits=True)
        return torch.softmax(self.model.get_classifier()(features), -1), features


def with_softmax(folder: Path) -> None:
    model = timm.create_model("resnet10t", num_classes=1000).eval()
    folder.mkdir()
    example, wrapped = torch.zeros(1, 3, SIZE, SIZE), WithSoftmax(model).eval()
    names = {"input_names": ["input"], "output_names": ["probabilities", "pooled"]}
    torch.onnx.export(wrapped, (example,), str(folder / "model.onnx"), dynamo=False, **names)
    cfg = model.pretrained_cfg
    images = np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE, 3), np.uint8)
    scaled = (torch.tensor(images) / 255 - torch.tensor(cfg["mean"])) / torch.tensor(cfg["std"])
    with torch.no_grad():
        probabilities, features = wrapped(scaled.permute(0, 3, 1, 2).contiguous())
    np.save(folder / "images.npy", images)
    np.save(folder / "logits.npy", np.log(probabilities.numpy()))
    np.save(folder / "features.npy", features.numpy())


def main() -> None:
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    folder = Path(sys.argv[1])
    small = {"img_size": SIZE, "embed_dim": 48, "depth": 2, "num_heads": 2}
    timm_model(folder / "vit", "vit_tiny_patch16_224", 21843, dynamo=True, dynamic=True, **small)
    timm_model(folder / "convnext", "convnext_atto", 21841, dynamo=False, dynamic=True)
    timm_model(folder / "mobilenet", "mobilenetv3_small_050", 11221, dynamo=True, dynamic=False)
    transformers_model(folder / "transformers", 21843)
    with_softmax(folder / "softmax")


if __name__ == "__main__":
    main()
