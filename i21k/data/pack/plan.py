"""Phase 2: decide which image goes where, when all are known and before a shard is written.

It uses 17 bytes of memory per image (8 of its digest, twice while they are sorted, and 1 for the
verdict), and about 350 more for each that has duplicates: 1.5 GB for 14.2 million images if a
tenth are duplicates of another tenth.
"""

import collections
import dataclasses
import io
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64

from i21k.data.pack import spill
from i21k.data.pack.duplicates import (
    DROPPED,
    TO_SPLIT,
    TO_VAL,
    Duplicates,
    choose_val,
    choose_val_by_content,
    fates,
    find_duplicates,
    judge_duplicates,
    judge_val_duplicates,
    merged_labels,
)
from i21k.data.pack.options import VAL_SPLIT, PlanOptions
from i21k.data.pack.report import Progress
from i21k.data.pack.spill import SpillFile
from i21k.data.pack.work_directory import WorkDirectory
from i21k.errors import UserError
from i21k.files import replaced
from i21k.text import printable

SLICE_BYTES = 256 << 20  # of records in memory while a shard is written; our choice


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is to be written. Beside it on disk are the verdicts and the cuts, as arrays."""

    options: PlanOptions
    num_shards: dict[str, int]  # of each split
    num_records: dict[str, int]
    num_read: int
    num_bytes: int  # of all records in all spill files
    slices_per_shard: int
    skipped: dict[str, int]  # by reason
    dropped: dict[str, int]  # by reason
    class_ids: tuple[str, ...]  # that the source has, sorted
    odd: dict[str, int] = dataclasses.field(default_factory=dict)  # images, by oddity
    # Images of each class id, of each split. A plan of an earlier version has none.
    class_counts: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)

    def counts_of(self, split: str, class_ids: Sequence[str]) -> tuple[int, ...] | None:
        """Return the images of each class of a split, in the order of a class list."""
        counts = self.class_counts.get(split)
        return None if counts is None else tuple(counts.get(id, 0) for id in class_ids)


def make(
    work: WorkDirectory,
    options: PlanOptions,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Plan:
    """Decide from the spill files, and write plan, verdicts, cuts and tables; the plan last.

    Args:
        work: working directory.
        options: what to decide by.
        on_progress: called several times per spill file; 14.2 million images take a minute.

    Raises:
        UserError: if no class is large enough to give images to the validation split, or no image
            remains for the other.
    """
    files = work.spill_files()
    looked_at = _Looks(files, 4 if options.has_val else 3, on_progress)
    verdicts = [np.full(file.num_records, TO_SPLIT, np.uint8) for file in files]
    duplicates = find_duplicates(files, looked_at)
    judge_duplicates(duplicates, verdicts, options.duplicates)
    if options.has_val:
        choose = choose_val if options.val_per_class else choose_val_by_content
        choose(looked_at(files), verdicts, options)
        if not options.keep_val_duplicates:
            judge_val_duplicates(duplicates, verdicts)
    joined = np.concatenate(verdicts)
    counts = np.bincount(joined, minlength=4).tolist()
    num_dropped = sum(counts[verdict] for verdict in DROPPED)
    if not counts[TO_SPLIT]:
        raise UserError(
            f"No image remains for split {options.split!r}: of {len(joined)}, {counts[TO_VAL]} go "
            f"to {VAL_SPLIT!r}, and {num_dropped} are dropped as duplicates. "
            "Change --duplicates, --val or --val-per-class."
        )
    skipped_table, duplicates_table = work.tables(options.split)
    skipped_rows = (row for file in files for row in file.skipped())
    _write_table(skipped_table, ("source", "member", "reason"), skipped_rows)
    fate_rows = fates(duplicates, verdicts, options.split)
    _write_table(duplicates_table, ("sha256", "file_name", "fate"), fate_rows)
    num_bytes = sum(file.about.num_record_bytes for file in files)
    slices_per_shard = max(1, math.ceil(num_bytes / options.num_shards / SLICE_BYTES))
    bounds = slice_places(options.num_shards * slices_per_shard)
    _save(work.verdicts, joined)
    merged = merged_labels(duplicates) if options.duplicates == "merge" else {}
    if options.duplicates == "merge":
        spill.write_whole(work.merged, json.dumps(merged).encode())
    _save(work.cuts, np.stack([_cuts(file, bounds) for file in looked_at(files)]))
    skipped = collections.Counter(
        reason.partition(":")[0] for file in files for _, _, reason in file.skipped()
    )
    odd = collections.Counter[str]()
    for file in files:
        odd.update(file.about.odd)
    num_shards, num_records = _sizes(options, counts[TO_SPLIT], counts[TO_VAL])
    plan = Plan(
        options=options,
        num_shards=num_shards,
        num_records=num_records,
        num_read=sum(file.about.num_read for file in files),
        num_bytes=num_bytes,
        slices_per_shard=slices_per_shard,
        skipped=dict(sorted(skipped.items())),
        dropped={reason: counts[verdict] for verdict, reason in DROPPED.items() if counts[verdict]},
        class_ids=tuple(sorted(set[str]().union(*(file.about.class_ids for file in files)))),
        odd=dict(sorted(odd.items())),
        class_counts=_class_counts(files, verdicts, options, merged, duplicates),
    )
    assert plan.num_read == sum(num_records.values()) + skipped.total() + num_dropped
    spill.write_whole(work.plan, json.dumps(dataclasses.asdict(plan)).encode())
    looked_at.done()
    return plan


def read(work: WorkDirectory) -> Plan | None:
    """Return the plan that was made, if there is one."""
    if not work.plan.exists():
        return None
    content = json.loads(work.plan.read_bytes())
    options, class_ids = PlanOptions(**content["options"]), tuple(content["class_ids"])
    return Plan(**content | {"options": options, "class_ids": class_ids})


def read_merged(work: WorkDirectory) -> dict[int, list[str]]:
    """Return the class ids of the images that have several, by sequence."""
    return {int(key): ids for key, ids in json.loads(work.merged.read_bytes()).items()}


def slice_places(num_slices: int) -> list[int]:
    """Return the place where each of `num_slices` equal parts of [0, 2**64) begins, and 2**64."""
    return [-(-(index << 64) // num_slices) for index in range(num_slices + 1)]


class Piece(NamedTuple):
    """Where the records of a slice are in a spill file, and what becomes of each."""

    path: Path
    start: int  # byte
    stop: int
    to_val: Bool[np.ndarray, " n"]
    to_split: Bool[np.ndarray, " n"]


def pieces(work: WorkDirectory, index: int) -> Iterator[Piece]:
    """Yield the pieces of one slice, one of each spill file."""
    verdicts, cuts = np.load(work.verdicts, mmap_mode="r"), np.load(work.cuts, mmap_mode="r")
    first = 0
    paths = sorted(work.path.glob("spill-*.records"))
    for path, cut in zip(paths, cuts, strict=True):
        (start_record, stop_record), (start, stop) = cut[:, index : index + 2].tolist()
        of_piece = verdicts[first + start_record : first + stop_record]
        yield Piece(path, start, stop, of_piece == TO_VAL, of_piece == TO_SPLIT)
        first += int(cut[0, -1])


class _Looks:
    """Iterates over the spill files, several times, and reports the share that is done."""

    def __init__(
        self, files: Sequence[SpillFile], times: int, on_progress: Callable[[Progress], None]
    ) -> None:
        self._num_looks, self._num_done = len(files) * times, 0
        self._num_bytes = sum(file.about.num_record_bytes for file in files)
        self._num_images = sum(file.num_records for file in files)
        self._on_progress = on_progress

    def __call__(self, files: Iterable[SpillFile]) -> Iterator[SpillFile]:
        for file in files:
            yield file
            self._num_done += 1
            self._report(self._num_done / self._num_looks)

    def done(self) -> None:
        self._report(1.0)

    def _report(self, share: float) -> None:
        num_bytes, num_images = round(share * self._num_bytes), round(share * self._num_images)
        self._on_progress(Progress("planning", num_bytes, self._num_bytes, num_images))


def _class_counts(
    files: Sequence[SpillFile],
    verdicts: Sequence[np.ndarray],
    options: PlanOptions,
    merged: Mapping[int, Sequence[str]],
    duplicates: Duplicates,
) -> dict[str, dict[str, int]]:
    """Count the images of each class in each split. An image of several classes counts for each."""
    splits = {TO_SPLIT: options.split} | ({TO_VAL: VAL_SPLIT} if options.has_val else {})
    found = {split: collections.Counter[str]() for split in splits.values()}
    for file, verdict in zip(files, verdicts, strict=True):
        class_ids, classes = sorted(file.about.class_ids), file.classes()
        for value, split in splits.items():
            counts = np.bincount(classes[verdict == value], minlength=len(class_ids))
            found[split].update(dict(zip(class_ids, counts.tolist(), strict=True)))
    for first, *_ in duplicates.values():
        kept_in = splits.get(int(verdicts[first.file][first.record]))
        if kept_in is not None and first.sequence in merged:
            found[kept_in].update(merged[first.sequence][1:])
    return {split: dict(counts) for split, counts in found.items()}


def _sizes(
    options: PlanOptions, num_split: int, num_val: int
) -> tuple[dict[str, int], dict[str, int]]:
    """Return the number of shards and of records of each split."""
    num_shards, num_records = {options.split: options.num_shards}, {options.split: num_split}
    if options.has_val:
        num_records[VAL_SPLIT] = num_val
        num_shards[VAL_SPLIT] = math.ceil(options.num_shards * num_val / (num_split + num_val))
    return num_shards, num_records


def _cuts(file: SpillFile, bounds: list[int]) -> Int64[np.ndarray, "2 m"]:
    """Return the records and the bytes of a spill file before each bound.

    The last bound is 2**64, which is no uint64; everything is before it.
    """
    records, num_bytes = file.cut(np.array(bounds[:-1], np.uint64))
    return np.stack(
        [np.append(records, file.num_records), np.append(num_bytes, file.about.num_record_bytes)]
    )


def _write_table(path: Path, header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    with (
        replaced(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace") as table,
    ):
        for row in itertools.chain([header], rows):
            table.write("\t".join(printable(text.replace("\t", " ")) for text in row) + "\n")


def _save(path: Path, array: np.ndarray) -> None:
    content = io.BytesIO()
    np.save(content, array)
    spill.write_whole(path, content.getvalue())
