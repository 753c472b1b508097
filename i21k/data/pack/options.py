"""The options of the packer, their checks, and which of them a resumed packing may change."""

import dataclasses
import importlib.metadata
import math
import re
from typing import Any, Literal

from i21k.data.pack import spill
from i21k.data.sources.base import ImageSource
from i21k.data.sources.layouts import LAYOUTS
from i21k.errors import UserError
from i21k.images.recode import MAX_SIDE_PX
from i21k.labels import ClassList

VAL_SPLIT = "val"
SHARD_SOURCE_BYTES = 256 << 20  # of the source per shard, up to MAX_SHARDS
MAX_SHARDS = 1024
DUPLICATES = ("keep", "first", "drop", "merge")


@dataclasses.dataclass(frozen=True)
class PackOptions:
    """What decides the bytes of a split, besides its source and class list.

    Args:
        name: of the dataset; the names of shards begin with it.
        split: of the dataset.
        num_shards: None means one per 256 MiB of source, at most 1,024.
        short_side: in pixels, to which larger images are reduced; 0 keeps the bytes of every JPEG
            that loads as it is.
        quality: of the JPEGs that are encoded again, 1 to 100.
        min_side: in pixels, that both sides of an image must have in the source.
        duplicates: which of several byte-identical files are stored: all of them ("keep"), the one
            with the smallest name ("first"), none ("drop"), or the first with the labels of all
            ("merge").
        val_per_class: the first so many images by name of each large enough class go to the split
            `val`.
        min_class_size: images that a class must have to give some to `val`; by default one more
            than `val_per_class`.
        keep_val_duplicates: whether duplicates of validation images stay in the other split, as in
            2015.
        seed: of the order of the records.
        labels: a table of labels, as `tables.read_labels` takes it, for a source without classes.
        layout: one of `recognise.LAYOUTS`; None recognises it.
        class_level: the folders at this level are the classes; 1 is the top.
        source_splits: which splits of a source that has splits are packed; None means all that
            have labels.
        val_fraction: share of the images that goes to the split `val`, chosen by their content.
        max_skipped: share of the files that may be skipped; more is an error.
        strict: whether JPEGs with stray bytes or a damaged colour profile are skipped, not mended.
    """

    name: str = "imagenet21k"
    split: str = "train"
    num_shards: int | None = None
    short_side: int = 256
    quality: int = 90
    min_side: int = 0
    duplicates: Literal["keep", "first", "drop", "merge"] = "keep"
    val_per_class: int = 0
    min_class_size: int | None = None
    keep_val_duplicates: bool = False
    seed: int = 0
    labels: str | None = None
    layout: str | None = None
    class_level: int | None = None
    source_splits: tuple[str, ...] | None = None
    val_fraction: float = 0.0
    max_skipped: float = 1.0
    strict: bool = False

    def __post_init__(self) -> None:
        for what, text in (("name", self.name), ("split", self.split)):
            if not re.fullmatch(r"[A-Za-z]\w*", text, re.ASCII):
                raise UserError(
                    f"{what} is {text!r}; expected letters, digits and underscores, beginning "
                    f"with a letter. Change --{what}."
                )
        check_number("short_side", self.short_side, 0, MAX_SIDE_PX)
        check_number("quality", self.quality, 1, 100)
        check_number("min_side", self.min_side, 0, MAX_SIDE_PX)
        check_number("val_per_class", self.val_per_class, 0, None)
        if self.num_shards is not None:
            check_number("num_shards", self.num_shards, 1, 99_999)
        if self.min_class_size is not None:
            check_number("min_class_size", self.min_class_size, self.val_per_class + 1, None)
        if self.duplicates not in DUPLICATES:
            raise UserError(
                f"duplicates is {self.duplicates!r}; expected one of {', '.join(DUPLICATES)}. "
                "Change --duplicates."
            )
        if self.class_level is not None:
            check_number("class_level", self.class_level, 1, None)
        for what, share in (("val", self.val_fraction), ("max_skipped", self.max_skipped)):
            if not 0 <= share <= 1 or (what == "val" and share == 1):
                raise UserError(
                    f"{what} is {share:g}; expected a share such as 0.05 or 5%. Change "
                    f"--{what.replace('_', '-')}."
                )
        if self.val_per_class and self.val_fraction:
            raise UserError("--val and --val-per-class are both given. Give one of them.")
        if self.layout is not None and self.layout not in LAYOUTS:
            raise UserError(
                f"layout is {self.layout!r}; expected one of {', '.join(LAYOUTS)}. Change --as."
            )
        if self.has_val and self.split == VAL_SPLIT:
            raise UserError(
                f"val_per_class fills the split {VAL_SPLIT!r}, and split is {self.split!r} too. "
                "Choose another --split."
            )

    @property
    def has_val(self) -> bool:
        """Whether some images go to the split `val`."""
        return self.val_per_class > 0 or self.val_fraction > 0

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that are written together."""
        return (self.split, VAL_SPLIT) if self.has_val else (self.split,)


def check_number(what: str, value: int, least: int, most: int | None) -> None:
    """Refuse a number outside `least` to `most`."""
    if value < least or (most is not None and value > most):
        allowed = f"at least {least}" if most is None else f"{least} to {most}"
        raise UserError(
            f"{what} is {value}; expected {allowed}. Change --{what.replace('_', '-')}."
        )


# These are in the manifest where they are not the default, so that older manifests still fit;
# the others of the layout are in what the source describes.
_NEW_OPTIONS = ("val_fraction", "strict")
_NOT_DESCRIBED = ("name", "layout", "class_level", "source_splits", "max_skipped")


def describe(options: PackOptions, source: ImageSource) -> dict[str, Any]:
    """Return what the manifest says about how a split was made; equal ones make equal splits."""
    described = dataclasses.asdict(options)
    for key in _NOT_DESCRIBED:
        del described[key]
    for key in _NEW_OPTIONS:
        if described[key] == getattr(PackOptions, key):
            del described[key]
    described["labels"] = None
    described |= {"source": source.path.name, "source_bytes": source.num_bytes}
    described["source_files"] = source.fingerprint
    if options.num_shards is None:
        num_shards = math.ceil(source.num_bytes / SHARD_SOURCE_BYTES)
        described["num_shards"] = min(max(1, num_shards), MAX_SHARDS)
    if options.min_class_size is None:
        described["min_class_size"] = options.val_per_class + 1
    return described | dict(source.described)


@dataclasses.dataclass(frozen=True)
class PlanOptions:
    """The options that decide only what is made of the images that were read.

    They may change when a packing resumes; nothing is read again then.
    """

    split: str
    num_shards: int
    duplicates: Literal["keep", "first", "drop", "merge"]
    val_per_class: int
    min_class_size: int
    keep_val_duplicates: bool
    val_fraction: float = 0.0

    @property
    def has_val(self) -> bool:
        """Whether some images go to the split `val`."""
        return self.val_per_class > 0 or self.val_fraction > 0

    @classmethod
    def of(cls, described: dict[str, Any]) -> "PlanOptions":
        """Take them from what `describe` returns."""
        of_plan = {field.name for field in dataclasses.fields(cls)}
        return cls(**{key: value for key, value in described.items() if key in of_plan})


def describe_spill(
    described: dict[str, Any],
    source: ImageSource,
    classes: ClassList | None,
    is_given: bool,
    engine: str,
) -> dict[str, Any]:
    """Return what decides the content of the spill files: packing resumes only if it is equal."""
    of_plan = {field.name for field in dataclasses.fields(PlanOptions)}
    made_from: dict[str, Any] = {
        key: value for key, value in described.items() if key not in of_plan
    }
    made_from |= {"source_files": source.fingerprint, "format": spill.FORMAT, "runner": engine}
    where = "given" if is_given else "there"
    made_from["classes"] = f"{classes.hash} {where}" if classes else None
    versions = {name: importlib.metadata.version(name) for name in ("simplejpeg", "pillow")}
    return made_from | versions
