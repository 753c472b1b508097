"""Pictures in, shuffled shards out: the order of a packing run. What it is made of lies in the modules beside it.

    sources   one pass over the tars or folders, front to back
    recode    each picture judged and made a JPEG of the wanted size, in worker processes
    spill     results put in buckets on disk by the hash that places them
    shards    bucket by bucket sorted and written
    output    moved into place when all is complete, or nothing at all

The bytes written depend on source, options and class list only, not on the number of workers.
"""

import bisect
import collections
import contextlib
import dataclasses
import functools
import hashlib
import math
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from i21k.data import shards
from i21k.data.packing import output, recode, sources, workers
from i21k.data.packing.spill import Spill
from i21k.labels import ClassList

SHARD_SOURCE_BYTES = 256 << 20  # a shard for so much of the source, at most MAX_SHARDS
MAX_SHARDS = 1024
VAL_SPLIT = "val"
_BUCKET_SOURCE_BYTES = 1 << 30  # what one bucket may hold at most in memory, were nothing made smaller
_BATCH_BYTES = 1 << 20  # of pictures that travel to a worker together


@dataclasses.dataclass(frozen=True)
class PackOptions:
    """What decides the bytes of a split, beside its source and class list.

    Args:
        name: of the dataset; shards begin with it.
        split: of the dataset.
        num_shards: None means one per 256 MiB of source, at most 1,024.
        short_side: in pixels, to which larger pictures are reduced; 0 keeps the bytes of every JPEG that loads as it is.
        quality: of the JPEGs that are encoded anew, 1 to 100.
        val_per_class: the first so many pictures by name of each class that has more go to the split `val`.
        seed: of the order of the records.
        labels: a table of labels, as `packing.sources.read_labels` takes it, for a source without classes; none by default.
    """

    name: str = "imagenet21k"
    split: str = "train"
    num_shards: int | None = None
    short_side: int = 256
    quality: int = 90
    val_per_class: int = 0
    seed: int = 0
    labels: str | None = None

    def __post_init__(self) -> None:
        for what, text in (("name", self.name), ("split", self.split)):
            if not re.fullmatch(r"[A-Za-z]\w*", text, re.ASCII):
                raise ValueError(f"{what} is {text!r}; expected letters, digits and underscores, beginning with a letter")
        for what, least, most in (("short_side", 0, recode.MAX_SIDE_PX), ("quality", 1, 100), ("val_per_class", 0, None)):
            _check_number(what, getattr(self, what), least, most)
        if self.num_shards is not None:
            _check_number("num_shards", self.num_shards, 1, 99_999)
        if self.val_per_class and self.split == VAL_SPLIT:
            raise ValueError(f"val_per_class fills the split {VAL_SPLIT!r}, and split is {self.split!r} too; choose another --split")


@dataclasses.dataclass(frozen=True)
class SplitReport:
    """What was written of one split; bytes are those of the shards."""

    num_pictures: int
    num_shards: int
    num_bytes: int


@dataclasses.dataclass(frozen=True)
class PackReport:
    """What became of a source: `num_read` = `num_written` + `num_left_out`, the latter counted by reason in `left_out`."""

    directory: str
    name: str
    splits: dict[str, SplitReport]
    num_classes: int
    class_list_hash: str
    num_read: int
    num_written: int
    num_left_out: int
    left_out: dict[str, int]
    source_bytes: int
    seconds: float
    already_complete: bool  # then nothing was done, and the counts are those of the run that made it


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a run is: bytes of source while it reads, bytes of pictures while it writes shards."""

    phase: Literal["reading", "writing"]
    num_bytes: int
    total_bytes: int
    num_pictures: int


def pack(
    source: str | Path,
    out: str | Path,
    options: PackOptions,
    classes: ClassList | None = None,
    num_workers: int | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> PackReport:
    """Pack a source into a split of the dataset in `out`, which may have other splits already.

    Args:
        source: a tar of synset tars, a folder of synset tars, or a folder of class folders; with `options.labels` a tar or folder
            of pictures.
        out: a directory that is missing, empty, or was made by this function.
        options: what to make of the pictures.
        classes: the class list; pictures of other classes are left out, and counted. By default the list that `out` has, then
            another class is an error, or else the sorted classes of the source.
        num_workers: processes that recode; 1 means this one, None one per CPU.
        on_progress: called about once per MiB of source, and once per shard.

    Raises:
        ValueError: if the source, the output directory, an option or the class list does not do, or the disk refuses; nothing of the
            split is left behind then.
    """
    started = time.monotonic()
    if num_workers is None:
        num_workers = os.cpu_count() or 1
    _check_number("workers", num_workers, 1, None)
    labels = sources.read_labels(options.labels) if options.labels is not None else None
    opened = sources.open_source(source, labels)
    directory = Path(out)
    if directory.resolve().is_relative_to(Path(source).resolve()):
        raise ValueError(f"output directory {directory} lies in the source {source}; expected one elsewhere; change --out")
    try:
        with output.claimed(directory):
            manifest = output.read_output(directory, options.name)
            is_given, classes = classes is not None, output.agree_on_classes(directory, manifest, classes)
            _check_classes(opened.list_class_ids() or (), classes, is_given, opened)
            described = _describe(options, opened, labels)
            wanted = (options.split, VAL_SPLIT) if options.val_per_class else (options.split,)
            if classes and manifest and (done := output.find_complete(directory, manifest, wanted, described)):
                return _report(directory, options.name, done, classes, time.monotonic() - started, already_complete=True)
            with output.working_directory(directory) as work:
                batches = _batches(opened, classes, is_given)
                spill, tally = _read(opened, batches, options, described["num_shards"], num_workers, work, on_progress)
                classes = classes or ClassList.sorted(opened.class_ids_seen)
                written = _write_splits(spill, tally, options, classes, described["num_shards"], work, on_progress)
                counts = {"read": tally.num_read, "written": tally.num_written, "left_out": dict(sorted(tally.left_out.items()))}
                new = {split: shards.SplitManifest(files, described, counts) for split, files in written.items()}
                manifest = manifest or shards.Manifest(options.name, classes.hash, {})
                output.commit(work, directory, classes, manifest, new)
    except OSError as error:
        raise ValueError(
            f"packing into {directory} failed: {error}; nothing of it is left behind; make room there or change --out"
        ) from error
    return _report(directory, options.name, new, classes, time.monotonic() - started, already_complete=False)


# ------------------------------------------------------------------------------------------------- before: may this be done?


def _check_number(what: str, value: int, least: int, most: int | None) -> None:
    if value < least or (most is not None and value > most):
        allowed = f"at least {least}" if most is None else f"{least} to {most}"
        raise ValueError(f"{what} is {value}; expected {allowed}; change --{what.replace('_', '-')}")


def _check_classes(class_ids: Iterable[str], classes: ClassList | None, is_given: bool, source: sources.Source) -> None:
    """Refuse classes that are not in the list of the output directory, or a given list that has none of them."""
    unknown = [class_id for class_id in class_ids if classes is not None and class_id not in classes.label_of]
    if unknown and not (is_given and len(unknown) < len(tuple(class_ids))):
        raise ValueError(
            f"source {source.path} has class {unknown[0]!r}, one of {len(unknown)} that are not among the {len(classes or ())} classes of "
            f"the {'given list; expected some that are' if is_given else 'dataset; expected no other'}; change --classes or --out"
        )


def _describe(options: PackOptions, source: sources.Source, labels: Mapping[str, str] | None) -> dict[str, Any]:
    """Return what the manifest says about how a split was made; equal descriptions make equal splits."""
    described = dataclasses.asdict(options) | {"source": source.path.name, "source_bytes": source.num_bytes}
    if options.num_shards is None:
        described["num_shards"] = min(max(1, math.ceil(source.num_bytes / SHARD_SOURCE_BYTES)), MAX_SHARDS)
    if labels is not None:  # a table may lie elsewhere next time, but has to say the same
        described["labels"] = hashlib.sha256("".join(f"{file}\t{label}\n" for file, label in labels.items()).encode()).hexdigest()
    del described["name"]
    return described


# ------------------------------------------------------------------------------------------------------- the run: read, write


@dataclasses.dataclass
class _Tally:
    """What became of the pictures so far."""

    num_read: int = 0
    num_written: int = 0
    num_bytes: int = 0
    left_out: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    num_of_class: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    first_of_class: dict[str, list[tuple[str, int]]] = dataclasses.field(default_factory=lambda: collections.defaultdict(list))

    def count(self, member: sources.Member, sequence: int, num_first: int) -> None:
        """Count a picture that is written, and keep the `num_first` least names of each class."""
        self.num_written += 1
        self.num_bytes += len(member.data)
        self.num_of_class[member.class_id] += 1
        if num_first:
            first = self.first_of_class[member.class_id]
            bisect.insort(first, (member.file_name, sequence))
            del first[num_first:]

    def val_sequences(self, val_per_class: int) -> set[int]:
        """Return which pictures go to the validation split."""
        large = (first for class_id, first in self.first_of_class.items() if self.num_of_class[class_id] > val_per_class)
        return {sequence for first in large for _, sequence in first}


def _read(
    source: sources.Source,
    batches: Iterator[list[sources.Member]],
    options: PackOptions,
    num_shards: int,
    num_workers: int,
    work: Path,
    on_progress: Callable[[Progress], None],
) -> tuple[Spill, _Tally]:
    """Pass over the source once: recode what can be read into buckets, list in a table what is left out."""
    tally = _Tally()
    spill = Spill(work, num_shards * math.ceil(source.num_bytes / (num_shards * _BUCKET_SOURCE_BYTES)), options.seed)
    recode_batch = functools.partial(recode.recode_batch, short_side_px=options.short_side, quality=options.quality)
    recoded = workers.ordered_map(recode_batch, batches, num_workers)
    table_path = work / f"left_out-{options.split}.tsv"
    with contextlib.closing(recoded), table_path.open("w", encoding="utf-8", errors="backslashreplace") as table:
        table.write("source\tmember\treason\n")
        for batch in recoded:
            for member in batch:
                if member.left_out:
                    tally.left_out[member.left_out.partition(":")[0]] += 1
                    table.write("\t".join(map(_one_line, (member.container, member.name, member.left_out))) + "\n")
                else:
                    spill.add(tally.num_read, member.file_name, member.data)
                    tally.count(member, tally.num_read, options.val_per_class)
                tally.num_read += 1
            on_progress(Progress("reading", source.num_bytes_read, source.num_bytes, tally.num_read))
    spill.flush()
    assert tally.num_read == tally.num_written + tally.left_out.total()
    if not tally.num_written:
        why = ", ".join(f"{count} {kind}" for kind, count in tally.left_out.most_common()) or "it has no files"
        raise ValueError(f"source {source.path} holds no pictures that can be packed ({why}); {sources.EXPECTED}")
    return spill, tally


def _batches(source: sources.Source, classes: ClassList | None, is_given: bool) -> Iterator[list[sources.Member]]:
    """Gather members until they are worth a trip to a worker."""
    batch: list[sources.Member] = []
    num_bytes = 0
    for member in source.members():
        if classes is not None and member.class_id and member.class_id not in classes.label_of:
            if not is_given:
                _check_classes((member.class_id,), classes, is_given, source)
            member = dataclasses.replace(member, data=b"", left_out=f"class not in the list: {member.class_id}")
        batch.append(member)
        num_bytes += len(member.data) + 1_000
        if num_bytes >= _BATCH_BYTES:
            yield batch
            batch, num_bytes = [], 0
    if batch:
        yield batch


def _one_line(text: str) -> str:
    return " ".join(text.split("\t")).replace("\r", "\\r").replace("\n", "\\n")


def _write_splits(
    spill: Spill,
    tally: _Tally,
    options: PackOptions,
    classes: ClassList,
    num_shards: int,
    work: Path,
    on_progress: Callable[[Progress], None],
) -> dict[str, tuple[shards.Shard, ...]]:
    """Write all shards into the working directory."""
    of_val = tally.val_sequences(options.val_per_class)
    if options.val_per_class and not of_val:
        largest = max(tally.num_of_class.values())
        raise ValueError(
            f"val_per_class is {options.val_per_class}, but the largest class of the source has {largest} pictures; "
            "expected fewer, so that some remain; change --val-per-class"
        )
    num_shards_of = {options.split: num_shards}
    if of_val:
        num_shards_of[VAL_SPLIT] = math.ceil(num_shards * len(of_val) / tally.num_written)
    num_done = num_bytes_done = 0

    def records(split: str, index: int) -> Iterator[bytes]:
        nonlocal num_done, num_bytes_done
        for record in spill.shard(index, num_shards_of[split]):
            if (record.sequence in of_val) == (split != options.split):
                yield shards.encode_example(record.jpeg, classes.label_of[record.file_name.partition("/")[0]], record.file_name)
                num_done += 1
                num_bytes_done += len(record.jpeg)

    written: dict[str, tuple[shards.Shard, ...]] = {}
    for split in num_shards_of:
        for index in range(num_shards_of[split]):
            path = work / shards.shard_name(options.name, split, index, num_shards_of[split])
            written[split] = (*written.get(split, ()), shards.write_shard(path, records(split, index)))
            on_progress(Progress("writing", num_bytes_done, tally.num_bytes, num_done))
    assert num_done == tally.num_written
    return written


def _report(
    directory: Path, name: str, splits: dict[str, shards.SplitManifest], classes: ClassList, seconds: float, already_complete: bool
) -> PackReport:
    entry = next(iter(splits.values()))
    return PackReport(
        directory=str(directory),
        name=name,
        splits={
            split: SplitReport(e.num_records, len(e.shards), sum(shard.num_bytes for shard in e.shards)) for split, e in splits.items()
        },
        num_classes=len(classes),
        class_list_hash=classes.hash,
        num_read=entry.counts["read"],
        num_written=entry.counts["written"],
        num_left_out=sum(entry.counts["left_out"].values()),
        left_out=entry.counts["left_out"],
        source_bytes=entry.options["source_bytes"],
        seconds=seconds,
        already_complete=already_complete,
    )
