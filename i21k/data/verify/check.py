"""Read a dataset and check it, with several processes.

The work is cut into ranges of records, so that one large shard keeps all workers busy. To find
images that are in two splits, 8 bytes of each image are kept: the first of the SHA-256 of its
encoded bytes. They are sorted and intersected at the end. This uses 16 bytes per image at its peak:
230 MB for 14.2 million. The probability that two different images agree is 4e-8.
"""

import collections
import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from i21k import workers
from i21k.data.format.manifest import read_manifest
from i21k.data.format.tfds import list_shards
from i21k.data.pack.pack import Progress
from i21k.data.verify.duplicates import compare_splits
from i21k.data.verify.files import (
    check_classes,
    check_other_files,
    check_presence,
    expected_files,
)
from i21k.data.verify.records import Range, check_range, ranges
from i21k.data.verify.report import Fault, Faults, SplitReport, VerifyReport
from i21k.errors import UserError
from i21k.machine import num_cpus

SAMPLE = 1000  # images per split that are decoded by default: seconds of work; our choice


def verify(
    directory: str | Path,
    split: str | None = None,
    sample: int | None = SAMPLE,
    num_workers: int | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> VerifyReport:
    """Check every record of a dataset against the manifest, the class list and the other splits.

    Args:
        directory: one that `i21k pack` or TFDS made; of the latter less is known that could be
            checked.
        split: the only one to look at; by default all.
        sample: number of images per split to decode strictly, always the same ones; None
            decodes all.
        num_workers: processes; 1 means this one, None one per CPU.
        on_progress: called once per range of some thousand records.

    Raises:
        UserError: if there is no dataset or split, its JSON cannot be read, or an argument is out
            of range.
    """
    started = time.monotonic()
    directory = Path(directory)
    for what, value, least in (("workers", num_workers, 1), ("sample", sample, 0)):
        if value is not None and value < least:
            raise UserError(f"{what} is {value}; expected at least {least}; change --{what}")
    listing, manifest = list_shards(directory), read_manifest(directory)
    found = Faults()
    files = expected_files(listing, manifest, split, directory, found)
    classes, names_tell = check_classes(directory, manifest, found)
    totals = {name: SplitReport() for name in dict.fromkeys(file.split for file in files)}
    check_other_files(directory, manifest, found)
    present = check_presence(directory, files, totals, found)
    digests: dict[str, list[np.ndarray]] = {name: [] for name in totals} if len(totals) > 1 else {}
    places: dict[str, list[Range]] = collections.defaultdict(list)
    total_bytes = sum(total.num_bytes for total in totals.values())
    num_bytes = num_records = 0
    labels: set[int] = set()
    check = functools.partial(
        check_range, classes=classes, names_tell=names_tell, keep_digests=bool(digests)
    )
    of_sha256 = {file.sha256: file.file for file in files}
    answers = workers.ordered_map(
        check, ranges(directory, present, sample, found), num_workers or num_cpus()
    )
    with contextlib.closing(answers):
        for answer in answers:
            part, total = answer.part, totals[answer.part.split]
            found.extend(answer.faults)
            if answer.sha256 is not None and answer.sha256 != part.sha256:
                other = of_sha256.get(answer.sha256)
                what = f"the content of {other}" if other else f"SHA-256 {answer.sha256}"
                found.add(Fault.of_file(part.file, "hash", what, f"SHA-256 {part.sha256}"))
            total.num_records += part.stop - part.start
            total.num_decoded += answer.num_decoded
            total.num_named += answer.num_named
            labels |= answer.labels
            if answer.digests is not None and len(answer.digests):
                digests[part.split].append(answer.digests)
                places[part.split].append(dataclasses.replace(part, sample=()))
            num_bytes += part.num_bytes
            num_records += part.stop - part.start
            on_progress(Progress("reading", num_bytes, total_bytes, num_records))
    compare_splits(directory, digests, places, found)
    empty = [c for label, c in enumerate(classes.ids) if label not in labels] if classes else []
    return VerifyReport(
        directory=str(directory),
        name=manifest.name if manifest else listing.name,
        has_manifest=manifest is not None,
        splits=totals,
        compared=tuple(digests),
        faults=found.sorted(),
        num_faults=found.totals(),
        empty_classes=tuple(empty),
        seconds=time.monotonic() - started,
    )
