"""Read the classes and the preprocessing of an ONNX model from the files beside it."""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from i21k.errors import UserError
from i21k.files import read_json
from i21k.labels import ClassList
from i21k.trained.preprocessing import Preprocessing


@dataclasses.dataclass(frozen=True)
class Normalisation:
    """What happens to RGB values of 0 to 255 before a model: (x / 255 - mean) / std, per
    channel."""

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)  # of ImageNet, as timm and others have
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        numbers = (*self.mean, *self.std)
        if len(numbers) != 6 or not all(math.isfinite(x) for x in numbers) or min(self.std) <= 0:
            raise UserError(
                f"mean is {self.mean} and std is {self.std}. Give three finite numbers each, with"
                " std above 0."
            )


@dataclasses.dataclass(frozen=True)
class Beside:
    """timm's `config.json` or Hugging Face's `preprocessor_config.json` beside a model."""

    config: dict[str, Any]
    processor: dict[str, Any]

    def preprocessing(self, size: int | None) -> Preprocessing:
        """Return the contract; 224 px and a crop of 0.875 by default."""
        timm = self.config.get("pretrained_cfg", {})
        crop = timm.get("crop_pct", 0.875)
        found = timm.get("input_size", [3, size or 224, size or 224])[-1]
        if self.processor:
            cropped = self.processor.get("crop_size", self.processor.get("size", {}))
            cropped = cropped if isinstance(cropped, int) else _side(cropped)
            resized = self.processor.get("size", {})
            resized = resized if isinstance(resized, int) else _side(resized)
            found = cropped or found
            if resized and found <= resized:
                crop = found / resized
        found = size or found
        return Preprocessing(found, crop, round(found / crop), 95)

    def normalisation(self) -> Normalisation:
        timm = self.config.get("pretrained_cfg", {})
        mean = self.processor.get("image_mean", timm.get("mean"))
        std = self.processor.get("image_std", timm.get("std"))
        if mean is None or std is None:
            return Normalisation()
        return Normalisation(tuple(map(float, mean)), tuple(map(float, std)))  # type: ignore[arg-type]

    def classes(self) -> ClassList | None:
        names = self.config.get("label_names", self.config.get("id2label"))
        if isinstance(names, dict):
            names = [names[key] for key in sorted(names, key=int)]
        if not isinstance(names, list) or all(str(n).startswith("LABEL_") for n in names):
            return None
        return ClassList(tuple(map(str, names)))


def _side(size: Mapping[str, int]) -> int:
    return size.get("shortest_edge", size.get("height", 0))


def read_beside(path: Path) -> Beside:
    files = (path.with_name("config.json"), path.with_name("preprocessor_config.json"))
    try:
        config, processor = (read_json(file) if file.is_file() else {} for file in files)
        found = Beside(config, processor)
        found.preprocessing(None), found.normalisation(), found.classes()
    except (TypeError, ValueError, AttributeError, IndexError, ZeroDivisionError) as error:
        raise UserError(
            f"{files[0]} or {files[1].name} beside the model cannot be used ({error}). Correct it,"
            " or move it away and give --size, --mean, --std, --crop and --classes."
        ) from error
    return found


def own_contract(path: Path, about: Mapping[str, str]) -> Preprocessing:
    try:
        saved = json.loads(about["preprocessing"])
        saved.pop("probability", None)
        return Preprocessing.from_json(saved)
    except (ValueError, AttributeError) as error:
        raise UserError(
            f"The preprocessing in {path} is damaged ({error}). Export it again."
        ) from error
