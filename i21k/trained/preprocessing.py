"""The contract between packing and prediction: what happens to an image before the network."""

import dataclasses
import io
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from i21k.data.format.manifest import read_manifest
from i21k.data.format.splits import Split
from i21k.errors import UserError
from i21k.files import read_json
from i21k.images.boxes import window_boxes
from i21k.images.decode import crop_into, decode, read_size
from i21k.images.recode import FORMATS, MAX_SIDE_PX, Unreadable, recode
from i21k.models.probabilities import Probability

MAX_IMAGE_SIZE = 4096  # px, our choice: a larger number is damage, not a network's input
MAX_FILE_BYTES = 1 << 27  # our choice, as for the packer: no larger file is read into memory
_ORIGINAL_QUALITY = 95  # our choice: close to the original, and encoded once more afterwards
_DEFAULT_SHORT_SIDE_PX, _DEFAULT_QUALITY = 256, 90  # of the packer when contracts were not saved

AnyImage = str | Path | bytes | Image.Image | np.ndarray


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """What happens to an image before the network."""

    image_size: int  # px, of the square that the network takes
    crop_fraction: float  # side of the central crop over the short side of the image
    short_side_px: int | None = _DEFAULT_SHORT_SIDE_PX  # 0 or None: images keep their size
    quality: int | None = _DEFAULT_QUALITY  # of the JPEG that is stored; None: images are as found
    resampling: str = "bicubic, antialiased"  # from the original to the short side
    normalisation: str = "by the network, which takes RGB values of 0 to 255"

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            UserError: naming the first value that is out of range.
        """
        _check_int("image_size", self.image_size, 1, MAX_IMAGE_SIZE)
        if not is_number(self.crop_fraction) or not 0 < self.crop_fraction <= 1:
            raise UserError(
                f"crop_fraction is {self.crop_fraction!r}. Expected a number above 0, at most 1."
            )
        if self.short_side_px is not None:
            _check_int("short_side_px", self.short_side_px, 0, MAX_SIDE_PX)
        if self.quality is not None:
            _check_int("quality", self.quality, 1, 100)
        if not isinstance(self.resampling, str) or not isinstance(self.normalisation, str):
            raise UserError("resampling and normalisation must be texts.")

    @classmethod
    def from_split(cls, split: Split, image_size: int, crop_fraction: float) -> "Preprocessing":
        """Return the contract of a model that is trained on a split.

        The packing options come from the manifest. A dataset that TFDS made has none: its images
        are as they were found.
        """
        manifest = read_manifest(split.directory)
        if manifest is None or split.split not in manifest.splits:
            return cls(image_size, crop_fraction, None, None, "none")
        options = manifest.splits[split.split].options
        return cls(
            image_size,
            crop_fraction,
            options.get("short_side", _DEFAULT_SHORT_SIDE_PX),
            options.get("quality", _DEFAULT_QUALITY),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the contract as it is saved with a checkpoint."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, saved: Any) -> "Preprocessing":
        """Return the contract that `to_json` gave.

        Raises:
            UserError: if a key is unknown or missing, or a value is out of range.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(saved, dict):
            raise UserError(f"preprocessing is {saved!r}. Expected an object with {sorted(known)}.")
        if unknown := sorted(set(saved) - known):
            raise UserError(f"preprocessing has the unknown key {unknown[0]!r}. Update i21k.")
        if missing := sorted({"image_size", "crop_fraction"} - set(saved)):
            raise UserError(f"preprocessing lacks {missing[0]}. The description is damaged.")
        return cls(**saved)

    def prepare(self, image: AnyImage) -> UInt8[np.ndarray, "S S 3"]:
        """Return the input of a network for an image: recoded as by the packer, then cropped.

        Raises:
            UserError: if it is not an image, or cannot be read.
        """
        jpeg = self.recoded(image)
        height, width = read_size(jpeg)
        prepared = np.empty((self.image_size, self.image_size, 3), np.uint8)
        sizes = np.array([[height, width]])
        (box,) = window_boxes(sizes, self.crop_fraction, 0.5).tolist()
        crop_into(prepared, decode(jpeg, height, width), tuple(box))
        return prepared

    def recoded(self, image: AnyImage) -> bytes:
        """Return an image as the packer would have stored it in the training data.

        Raises:
            UserError: if it is not an image, or cannot be read.
        """
        return _recoded(image, self.short_side_px or 0, self.quality or _DEFAULT_QUALITY)

    def original(self, image: AnyImage) -> bytes:
        """Return an image as an upright sRGB JPEG of its own size.

        Raises:
            UserError: if it is not an image, or cannot be read.
        """
        return _recoded(image, 0, _ORIGINAL_QUALITY)


def _recoded(image: AnyImage, short_side_px: int, quality: int) -> bytes:
    name, content = _encoded(image)
    try:
        return recode(content, short_side_px, quality)
    except Unreadable as error:
        raise UserError(f"{name}: {error}; expected a whole {', '.join(FORMATS)}") from error


def prepare_files(preprocessing: Preprocessing, paths: Sequence[Path]) -> list[np.ndarray | str]:
    """Return the input of a network for each file, or what is wrong with it, for workers."""
    return [prepare_or_fault(preprocessing, path) for path in paths]


def prepare_or_fault(preprocessing: Preprocessing, path: Path) -> np.ndarray | str:
    """Return the input of a network for a file, or what is wrong with the file."""
    try:
        return preprocessing.prepare(path)
    except UserError as error:
        return str(error)


def read_contract(path: Path) -> tuple[Preprocessing, Probability]:
    """Return the contract in a file `preprocessing.json` of an export, and its probability.

    Raises:
        UserError: if it cannot be read, or is damaged.
    """
    saved = read_json(path)
    probability = saved.pop("probability", "softmax")
    try:
        if probability not in ("softmax", "sigmoid"):
            raise UserError(f"probability is {probability!r}.")
        return Preprocessing.from_json(saved), probability
    except UserError as error:
        raise UserError(f"{path} cannot be used: {error}") from error


def _encoded(image: AnyImage) -> tuple[str, bytes]:
    """Return a name for messages, and the image as a file's content."""
    if isinstance(image, bytes):
        return "The image given as bytes", image
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)):
            raise UserError(
                f"An image is given as an array {image.dtype}{list(image.shape)}. "
                "Expected uint8 [height, width, 3], RGB."
            )
        image = Image.fromarray(image)
    if isinstance(image, Image.Image):
        upright = ImageOps.exif_transpose(image)
        if upright.mode not in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
            upright = upright.convert("RGB")
        file = io.BytesIO()
        upright.save(file, "PNG", compress_level=1, icc_profile=upright.info.get("icc_profile"))
        return "The image given", file.getvalue()
    if not isinstance(image, (str, Path)):
        raise UserError(
            f"An image is given as {type(image).__name__}. "
            "Expected a path, bytes, a PIL image or a uint8 array."
        )
    path = Path(image)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device may never end
            raise UserError(f"{path}: not a regular file; expected a whole {', '.join(FORMATS)}")
        if status.st_size > MAX_FILE_BYTES:
            raise UserError(
                f"{path}: file larger than {MAX_FILE_BYTES >> 20} MiB; "
                f"expected a whole {', '.join(FORMATS)}"
            )
        return str(path), path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path}: {error.strerror or error}; expected an image that can be read"
        ) from error


def is_number(value: Any) -> bool:
    """Return whether a value of a JSON file is a finite number, which a float can hold."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    return abs(value) <= sys.float_info.max  # not for NaN


def _check_int(name: str, value: Any, least: int, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise UserError(f"{name} is {value!r}. Expected a whole number from {least} to {most:,}.")
