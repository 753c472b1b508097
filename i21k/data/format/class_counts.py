"""How many images of each class a split has."""

import numpy as np
from jaxtyping import Int64

from i21k.data.format.manifest import read_manifest
from i21k.data.format.readers import all_records
from i21k.data.format.records import labels_of
from i21k.data.format.splits import Split


def class_counts(split: Split) -> Int64[np.ndarray, " K"]:
    """Return the number of images of each class. An image of several classes counts for each.

    The manifest has the numbers. For datasets that were packed by an earlier version or by TFDS,
    this reads every record.

    Raises:
        UserError: if a record is damaged.
    """
    manifest = read_manifest(split.directory)
    if manifest is not None and split.split in manifest.splits:
        stored = manifest.splits[split.split].class_counts
        if stored is not None:
            return np.array(stored, np.int64)
    counts = np.zeros(len(split.classes), np.int64)
    for record in all_records(split):
        counts[list(set(labels_of(record)))] += 1
    return counts
