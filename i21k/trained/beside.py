"""Read the classes and the preprocessing of an ONNX model from the files beside it.

They are `config.json` of timm (`pretrained_cfg`) or of Hugging Face (`id2label`), and
`preprocessor_config.json` of Hugging Face.
"""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from i21k import log
from i21k.errors import UserError
from i21k.files import read_json
from i21k.labels import ClassList
from i21k.trained.preprocessing import Preprocessing

SIZE, CROP = 224, 0.875  # the default of timm and of most others
_QUALITY = 95  # our choice: of the JPEG that an image is recoded to
_WARPED_FROM = 384  # px: from this short side on, ConvNeXT's processor of Hugging Face warps


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


def contract(image_size: int, crop_fraction: float) -> Preprocessing:
    """Return the preprocessing of a model of another program: resize, then crop the centre."""
    # A fraction that is no such number is refused there.
    short_side_px = round(image_size / crop_fraction) if crop_fraction > 0 else image_size
    return Preprocessing(image_size, crop_fraction, short_side_px, _QUALITY)


@dataclasses.dataclass(frozen=True)
class Beside:
    """The contents of the files beside a model; without files, the usual values."""

    image_size: int | None
    crop_fraction: float | None
    normalisation: Normalisation | None
    labels: tuple[str, ...] | None
    warps: bool = False  # the image is resized to a square, whatever its shape

    def preprocessing(self, size: int | None, crop: float | None) -> Preprocessing:
        """Return the contract.

        Args:
            size: in px, of the graph or of the user; None: of the files.
            crop: of the user; None: of the files.
        """
        if self.warps:
            log.note(
                "this model was made for images that are resized to a square without cropping;"
                " here the central square of each image is taken"
            )
        size = (self.image_size or SIZE) if size is None else size
        return contract(size, (self.crop_fraction or CROP) if crop is None else crop)

    def classes(self) -> ClassList | None:
        """Return the classes; None if there are none, or numbered ones."""
        if self.labels is None or all(label.startswith("LABEL_") for label in self.labels):
            return None
        return ClassList(self.labels)


def read_beside(path: Path, size: int | None) -> Beside:
    """Read the files beside a model, or in the folder above if the model is in a folder `onnx`.

    Args:
        path: of the model.
        size: of its input in px, where the graph fixes it.

    Raises:
        UserError: if a file is there and cannot be used.
    """
    folders = [path.parent] + [path.parent.parent] * (path.absolute().parent.name == "onnx")
    names = ("config.json", "preprocessor_config.json")
    files = [next((f / n for f in folders if (f / n).is_file()), None) for n in names]
    config, processor = (read_json(file) if file else {} for file in files)
    used = files[1] if processor else files[0]
    try:
        labels = _labels(config)
        timm = config.get("pretrained_cfg") or (config if "input_size" in config else {})
        if processor:
            return dataclasses.replace(_hugging_face(processor, size), labels=labels)
        return dataclasses.replace(_timm(timm, size), labels=labels)
    except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError) as error:
        raise UserError(
            f"{used} beside the model cannot be used ({error}). Correct it, or move it away and"
            " give --size, --mean, --std, --crop and --classes."
        ) from error


def _timm(cfg: Mapping[str, Any], size: int | None) -> Beside:
    """Read `pretrained_cfg`: what timm's `resolve_data_config` does with it."""
    found, crop = cfg.get("input_size"), cfg.get("crop_pct")
    test = cfg.get("test_input_size")
    if test is not None and size == int(test[-1]) != int((found or [0])[-1]):
        found, crop = test, cfg.get("test_crop_pct", crop)
    normalisation = None
    if cfg.get("mean") is not None and cfg.get("std") is not None:
        normalisation = Normalisation(_three(cfg["mean"]), _three(cfg["std"]))
    return Beside(
        None if found is None else int(found[-1]),
        None if crop is None else float(crop),
        normalisation,
        None,
        warps=cfg.get("crop_mode") == "squash",
    )


def _hugging_face(processor: Mapping[str, Any], size: int | None) -> Beside:
    """Read `preprocessor_config.json`: what the image processors of transformers do with it."""
    resized, is_square = _side(processor.get("size"))
    cropped = None
    if processor.get("do_center_crop"):
        cropped, _ = _side(processor.get("crop_size"))
    if not processor.get("do_resize", True):
        resized, is_square = None, False
    crop = None
    warps = is_square and not cropped
    if "crop_pct" in processor and resized and not is_square:  # of ConvNeXT
        warps = resized >= _WARPED_FROM
        crop, cropped = (1.0 if warps else float(processor["crop_pct"])), resized
    elif cropped and resized and cropped <= resized:
        crop = cropped / resized
    elif resized:
        crop = 1.0
    return Beside(cropped or resized or size, crop, _of_processor(processor), None, warps)


def _of_processor(processor: Mapping[str, Any]) -> Normalisation | None:
    """Return (x * factor - mean) / std as (x / 255 - mean) / std."""
    if "image_mean" not in processor and "do_rescale" not in processor:
        return None
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if processor.get("do_normalize", True):
        default = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        mean = _three(processor.get("image_mean", default.mean))
        std = _three(processor.get("image_std", default.std))
    factor = float(processor.get("rescale_factor", 1 / 255))
    scale = 255 * factor if processor.get("do_rescale", True) else 255.0
    if abs(scale - 1) < 1e-6:  # the usual factor, as decimal places
        scale = 1.0
    return Normalisation(_three([m / scale for m in mean]), _three([s / scale for s in std]))


def _three(numbers: Any) -> tuple[float, float, float]:
    values = [numbers] * 3 if isinstance(numbers, (int, float)) else list(numbers)
    red, green, blue = map(float, values)
    return red, green, blue


def _side(size: Any) -> tuple[int | None, bool]:
    """Return the side in px, and whether width and height are both given."""
    if size is None:
        return None, False
    if isinstance(size, int):  # of old files
        return size, True
    if "shortest_edge" in size:
        return int(size["shortest_edge"]), False
    height, width = int(size["height"]), int(size["width"])
    if height != width:
        raise ValueError(f"the size is {height} x {width} px; only squares can be used")
    return height, True


def _labels(config: Mapping[str, Any]) -> tuple[str, ...] | None:
    names = config.get("label_names", config.get("id2label"))
    if isinstance(names, dict):
        names = [names[key] for key in sorted(names, key=int)]
    return None if names is None else tuple(map(str, names))
