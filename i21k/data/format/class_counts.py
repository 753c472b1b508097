"""How many images of each class a split has."""

import numpy as np
from jaxtyping import Int64

from i21k.data.format.manifest import read_manifest
from i21k.data.format.readers import all_records
from i21k.data.format.records import labels_of
from i21k.data.format.splits import Split


def stored_counts(split: Split) -> Int64[np.ndarray, " K"] | None:
    """Return the number of images of each class if the manifest has it, else None."""
    manifest = read_manifest(split.directory)
    if manifest is None or split.split not in manifest.splits:
        return None
    stored = manifest.splits[split.split].class_counts
    return None if stored is None else np.array(stored, np.int64)


def class_counts(split: Split) -> Int64[np.ndarray, " K"]:
    """Return the number of images of each class. An image of several classes counts for each.

    The manifest has the numbers. For datasets that were packed by an earlier version or by TFDS,
    this reads every record.

    Raises:
        UserError: if a record is damaged.
    """
    stored = stored_counts(split)
    if stored is not None:
        return stored
    counts = np.zeros(len(split.classes), np.int64)
    for record in all_records(split):
        counts[list(set(labels_of(record)))] += 1
    return counts
