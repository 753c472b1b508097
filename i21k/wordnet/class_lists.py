"""The named class lists, and logits converted between lists. Sources: `tables/README.md`."""

import functools
import lzma

import numpy as np
from jaxtyping import Float, Int32

from i21k.errors import UserError
from i21k.labels import ClassList
from i21k.wordnet.taxonomy import TABLES, wordnet

NAMES = {
    "fall11": "the full ImageNet of fall 2011: 21,841 classes, sorted",
    "ilsvrc2012": "the ILSVRC challenge since 2012: 1,000 classes, sorted; fall11 has all of them"
    " but teddy (n04399382)",
    "goog21k": "Google's models: 21,843 classes, sorted: fall11, picture (n03931044) and bleacher"
    " (n09859684)",
    "ms22k": "Microsoft's FocalNet: 21,842 classes: ilsvrc2012, then the other classes of fall11",
    "miil11k": "MIIL's ImageNet-21K-P of fall 2011: 11,221 classes with more than 500 images,"
    " sorted",
    "miil10k": "MIIL's ImageNet-21K-P of winter 2021: 10,450 classes, sorted",
    "in12k": "timm's ImageNet-12k: 11,821 classes, sorted",
    "released2015": "the model that MXNet released in 2015: fall11, by falling number of images",
}
_ALIASES = {  # names of the field
    "imagenet1k": "ilsvrc2012",
    "imagenet-1k": "ilsvrc2012",
    "in1k": "ilsvrc2012",
    "imagenet22k": "fall11",
    "imagenet-22k": "fall11",
    "in22k": "fall11",
    "imagenet12k": "in12k",
    "imagenet-12k": "in12k",
    "imagenet-w21-p": "miil10k",
}
_LETTERS = {
    "fall11": "f",
    "ilsvrc2012": "i",
    "goog21k": "g",
    "miil11k": "m",
    "miil10k": "w",
    "in12k": "t",
}  # in the table


@functools.cache
def _table() -> tuple[tuple[str, str, str], ...]:
    text = lzma.decompress((TABLES / "class_lists.tsv.xz").read_bytes()).decode()
    return tuple(
        (class_id, rank, letters)
        for class_id, rank, letters in (line.split("\t") for line in text.splitlines())
    )


@functools.cache
def named(name: str) -> ClassList:
    """Return the vendored class list `name`, one of `NAMES`.

    Raises:
        UserError: if there is no list with this name.
    """
    name = _ALIASES.get(name.lower(), name)
    if name == "winter21":
        raise UserError(
            "no class list is named 'winter21': the 19,167 ids are not published as a list. Its "
            "archives and WebDataset shards name the synset ids themselves, so omit the list."
        )
    if name not in NAMES:
        raise UserError(
            f"no class list is named {name!r}. Use one of {', '.join(NAMES)}, or the path of a file"
            " with one id on each line."
        )
    if name == "released2015":
        return ClassList(
            tuple(
                class_id
                for _, class_id in sorted(
                    (int(rank), class_id) for class_id, rank, _ in _table() if rank
                )
            )
        )
    if name == "ms22k":
        first = named("ilsvrc2012")
        return ClassList(
            first.ids
            + tuple(class_id for class_id in named("fall11").ids if class_id not in first.label_of)
        )
    return ClassList(
        tuple(class_id for class_id, _, letters in _table() if _LETTERS[name] in letters)
    )


def columns(source: ClassList, target: ClassList) -> Int32[np.ndarray, " T"]:
    """Return the label in `source` of each class of `target`, -1 if `source` lacks the class."""
    return np.array([source.label_of.get(class_id, -1) for class_id in target.ids], np.int32)


def convert(
    logits: Float[np.ndarray, "*B S"], source: ClassList, target: ClassList, lossy: bool = False
) -> Float[np.ndarray, "*B T"]:
    """Return logits over `source` as logits over `target`.

    Args:
        logits: over the classes of `source`.
        source: the S classes they are for.
        target: the T classes wanted.
        lossy: allow the loss of classes. The logits of classes that `target` lacks are dropped.
            Classes that `source` lacks get minus infinity, a probability of zero.

    Raises:
        UserError: if the logits are not floats over `source`, or if classes would be lost without
            `lossy`.
    """
    if logits.shape[-1:] != (len(source),) or not np.issubdtype(logits.dtype, np.floating):
        raise UserError(
            f"logits are {logits.dtype}{list(logits.shape)}, expected floats with the"
            f" {len(source):,} classes on the last axis. Use the class list of the model."
        )
    of = columns(source, target)
    dropped = [class_id for class_id in source.ids if class_id not in target.label_of]
    lacking = [class_id for class_id in target.ids if class_id not in source.label_of]
    if not lossy and (dropped or lacking):
        losses = [f"drops {wordnet().enumerate(dropped)}"] if dropped else []
        losses += [f"has no logit for {wordnet().enumerate(lacking)}"] if lacking else []
        raise UserError(
            f"converting logits of {len(source):,} to {len(target):,} classes"
            f" {' and '.join(losses)}. Use lossy=True to allow it."
        )
    return np.where(of >= 0, logits[..., of], np.array(-np.inf, logits.dtype))
