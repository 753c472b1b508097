"""Decide which of several byte-identical images are stored, and which images are validation."""

import bisect
import collections
import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8, UInt64

from i21k.data.pack.options import VAL_SPLIT, PlanOptions
from i21k.data.pack.spill import SpillFile
from i21k.errors import UserError

TO_SPLIT, TO_VAL, _IS_DUPLICATE, _IS_VAL_DUPLICATE = range(4)
DROPPED = {
    _IS_DUPLICATE: "duplicate of another image",
    _IS_VAL_DUPLICATE: "duplicate of a validation image",
}

Verdicts = UInt8[np.ndarray, "_"]  # of one spill file each, so the lengths differ


class Found(NamedTuple):
    """An image in a spill file; images are ordered by name, then by position in the source."""

    name: bytes
    sequence: int
    file: int
    record: int


Duplicates = dict[bytes, list[Found]]  # by SHA-256 of the original; each group in order


def find_duplicates(
    files: list[SpillFile],
    looked_at: Callable[[Sequence[SpillFile]], Iterator[SpillFile]],
) -> Duplicates:
    """Return all groups of images with equal digests.

    The first 8 bytes show which images can have duplicates, so that few names are read.
    """
    keys = np.sort(np.concatenate([np.zeros(0, np.uint64), *map(_keys, looked_at(files))]))
    repeated = np.unique(keys[1:][keys[1:] == keys[:-1]])
    del keys
    groups = collections.defaultdict(list)
    for number, file in enumerate(looked_at(files) if len(repeated) else ()):
        keys_of_file = _keys(file)
        at = np.searchsorted(repeated, keys_of_file).clip(max=len(repeated) - 1)
        suspects = np.flatnonzero(repeated[at] == keys_of_file).tolist()
        if suspects:
            names, sequences, digests = file.file_names(), file.sequences(), file.digests()
            for record in suspects:
                found = Found(names[record], int(sequences[record]), number, record)
                groups[digests[record].tobytes()].append(found)
    return {digest: sorted(group) for digest, group in sorted(groups.items()) if len(group) > 1}


def _keys(file: SpillFile) -> UInt64[np.ndarray, " n"]:
    return np.ascontiguousarray(file.digests()[:, :8]).view(np.uint64).ravel()


def judge_duplicates(duplicates: Duplicates, verdicts: list[Verdicts], policy: str) -> None:
    """Drop duplicates by the option `duplicates`."""
    num_kept = {"keep": None, "first": 1, "drop": 0}[policy]
    if num_kept is not None:
        for group in duplicates.values():
            for found in group[num_kept:]:
                verdicts[found.file][found.record] = _IS_DUPLICATE


def judge_val_duplicates(duplicates: Duplicates, verdicts: list[Verdicts]) -> None:
    """Drop every image from the other split that is also in the validation split."""
    for group in duplicates.values():
        if any(verdicts[found.file][found.record] == TO_VAL for found in group):
            for found in group:
                if verdicts[found.file][found.record] == TO_SPLIT:
                    verdicts[found.file][found.record] = _IS_VAL_DUPLICATE


def fates(
    duplicates: Duplicates, verdicts: list[Verdicts], split: str
) -> Iterator[tuple[str, str, str]]:
    """Yield digest, name and fate of each image that has duplicates."""
    texts = {TO_SPLIT: split, TO_VAL: VAL_SPLIT}
    texts |= {verdict: f"dropped: {reason}" for verdict, reason in DROPPED.items()}
    for digest, group in duplicates.items():
        for found in group:
            name = found.name.decode("utf-8", "surrogateescape")
            yield digest.hex(), name, texts[int(verdicts[found.file][found.record])]


def choose_val(files: Iterable[SpillFile], verdicts: list[Verdicts], options: PlanOptions) -> None:
    """Give the first images by name of each large enough class to the validation split.

    Raises:
        UserError: if no class is large enough.
    """
    sizes: collections.Counter[str] = collections.Counter()
    first: dict[str, list[Found]] = collections.defaultdict(list)
    for number, (file, verdict) in enumerate(zip(files, verdicts, strict=True)):
        class_ids = sorted(file.about.class_ids)
        columns = zip(
            file.file_names(),
            file.sequences().tolist(),
            file.classes().tolist(),
            (verdict == TO_SPLIT).tolist(),
            strict=True,
        )
        for record, (name, sequence, class_number, is_there) in enumerate(columns):
            if is_there:
                class_id = class_ids[class_number]
                sizes[class_id] += 1
                bisect.insort(first[class_id], Found(name, sequence, number, record))
                del first[class_id][options.val_per_class :]
    if not any(size >= options.min_class_size for size in sizes.values()):
        raise UserError(
            f"val_per_class takes {options.val_per_class} of each class with at least "
            f"{options.min_class_size} images, but the largest class has "
            f"{max(sizes.values(), default=0)}. Reduce --val-per-class or --min-class-size."
        )
    for found in itertools.chain.from_iterable(
        first[class_id] for class_id, size in sizes.items() if size >= options.min_class_size
    ):
        verdicts[found.file][found.record] = TO_VAL


def choose_val_by_content(
    files: Iterable[SpillFile], verdicts: list[Verdicts], options: PlanOptions
) -> None:
    """Give a share of the images of every class to the validation split, by their content.

    An image goes there if a hash of its SHA-256 is below the share, so images that are added later
    move no other, and byte-identical images stay together. The share of each class is as expected
    by chance.

    Raises:
        UserError: if no image is chosen.
    """
    bound = min(round(options.val_fraction * 2**64), 2**64 - 1)
    num_chosen = 0
    for file, verdict in zip(files, verdicts, strict=True):
        for record, digest in enumerate(file.digests()):
            hashed = hashlib.blake2b(digest.tobytes(), digest_size=8, person=b"i21k val").digest()
            if verdict[record] == TO_SPLIT and int.from_bytes(hashed, "little") < bound:
                verdict[record] = TO_VAL
                num_chosen += 1
    if not num_chosen:
        raise UserError(
            f"--val {options.val_fraction:.3%} chooses none of the images. Give a larger share, or "
            "--val-per-class."
        )
