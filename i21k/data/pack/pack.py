"""Pictures in, shuffled shards out: the order of a packing run. What it is made of lies in the modules beside it.

    sources   one pass over the tars or folders, front to back
    recode    each picture judged and made a JPEG of the wanted size, in worker processes
    runs      results gathered, sorted by the hash that places them and spilled to disk
    plan      when all are known: which picture goes to which split, and which is one copy too many
    stages    a slice of every run, merged, is a shard
    output    moved into place when all is complete

The bytes written depend on source, options and class list only, not on the number of workers, nor on how often the run was stopped
and begun again: complete runs and shards are kept in `.packing`, and the same command goes on behind them.
"""

import collections
import contextlib
import ctypes
import dataclasses
import functools
import hashlib
import importlib.metadata
import math
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from i21k import workers
from i21k.data.format import shards
from i21k.data.format.manifest import Manifest, SplitManifest
from i21k.data.pack import beam, commit, plan, recoding, spill, stages
from i21k.data.pack.plan import VAL_SPLIT
from i21k.data.sources import base
from i21k.data.sources.base import START
from i21k.errors import UserError
from i21k.files import remove_temporaries
from i21k.images import recode
from i21k.labels import ClassList

SHARD_SOURCE_BYTES = 256 << 20  # a shard for so much of the source, at most MAX_SHARDS
MAX_SHARDS = 1024
DUPLICATES = ("keep", "first", "drop")
_MEMORY_BYTES = 1700 << 20  # of all processes together, which the sizes below are derived from
_PROCESS_BYTES = (
    90 << 20
)  # allowed for a process with its libraries and a picture, chosen here: three take 169 MiB at the start
_BEAM_RUN_BYTES = 256 << 20  # each worker gathers one and writes another
_PROBE_BYTES = 64 << 20  # of the source tell how large the result will be
_IN_FLIGHT = 8  # batches a worker: enough to go on with while this process sorts and writes a run
_PLAN_OPTIONS = (
    "split",
    "num_shards",
    "val_per_class",
    "min_class_size",
    "duplicates",
    "keep_val_copies",
)


@dataclasses.dataclass(frozen=True)
class PackOptions:
    """What decides the bytes of a split, beside its source and class list.

    Args:
        name: of the dataset; shards begin with it.
        split: of the dataset.
        num_shards: None means one per 256 MiB of source, at most 1,024.
        short_side: in pixels, to which larger pictures are reduced; 0 keeps the bytes of every JPEG that loads as it is.
        quality: of the JPEGs that are encoded anew, 1 to 100.
        min_side: in pixels, that both sides of a picture must have in the source.
        duplicates: what becomes of pictures whose files are equal: all are kept, the one with the least name stays, or none.
        val_per_class: the first so many pictures by name of each large enough class go to the split `val`.
        min_class_size: pictures that a class must have to be large enough; by default one more than `val_per_class`.
        keep_val_copies: whether copies of validation pictures stay in the other split, as in 2015.
        seed: of the order of the records.
        labels: a table of labels, as `packing.sources.read_labels` takes it, for a source without classes; none by default.
    """

    name: str = "imagenet21k"
    split: str = "train"
    num_shards: int | None = None
    short_side: int = 256
    quality: int = 90
    min_side: int = 0
    duplicates: Literal["keep", "first", "drop"] = "keep"
    val_per_class: int = 0
    min_class_size: int | None = None
    keep_val_copies: bool = False
    seed: int = 0
    labels: str | None = None

    def __post_init__(self) -> None:
        for what, text in (("name", self.name), ("split", self.split)):
            if not re.fullmatch(r"[A-Za-z]\w*", text, re.ASCII):
                raise UserError(
                    f"{what} is {text!r}; expected letters, digits and underscores, beginning with a letter"
                )
        side = recode.MAX_SIDE_PX
        for what, least, most in (
            ("short_side", 0, side),
            ("quality", 1, 100),
            ("min_side", 0, side),
            ("val_per_class", 0, None),
        ):
            _check_number(what, getattr(self, what), least, most)
        if self.num_shards is not None:
            _check_number("num_shards", self.num_shards, 1, 99_999)
        if self.min_class_size is not None:
            _check_number("min_class_size", self.min_class_size, self.val_per_class + 1, None)
        if self.duplicates not in DUPLICATES:
            raise UserError(
                f"duplicates is {self.duplicates!r}; expected one of {', '.join(DUPLICATES)}; change --duplicates"
            )
        if self.val_per_class and self.split == VAL_SPLIT:
            raise UserError(
                f"val_per_class fills the split {VAL_SPLIT!r}, and split is {self.split!r} too; choose another --split"
            )


@dataclasses.dataclass(frozen=True)
class SplitReport:
    """What was written of one split; bytes are those of the shards."""

    num_pictures: int
    num_shards: int
    num_bytes: int


@dataclasses.dataclass(frozen=True)
class PackReport:
    """What became of a source: `num_read` = `num_written` + `num_left_out` + `num_dropped`, the latter two counted by reason."""

    directory: str
    name: str
    splits: dict[str, SplitReport]
    num_classes: int
    class_list_hash: str
    num_read: int
    num_written: int
    num_left_out: int
    num_dropped: int
    left_out: dict[str, int]  # files that are no pictures to be stored
    dropped: dict[str, int]  # pictures that stand there another time
    source_bytes: int
    seconds: float
    resumed_after: int  # files that an earlier, interrupted run had read
    already_complete: (
        bool  # then nothing was done, and the counts are those of the run that made it
    )


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a run is: bytes of source while it reads, of pictures while it plans where they go, and while it writes shards."""

    phase: Literal["reading", "planning", "writing"]
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
    beam_options: Sequence[str] | None = None,
) -> PackReport:
    """Pack a source into a split of the dataset in `out`, which may have other splits already.

    A run that was stopped, in whatever way, is taken up again by the same call; what was read before is not read again.

    Args:
        source: a tar of synset tars, a folder of synset tars, or a folder of class folders; with `options.labels` a tar or folder
            of pictures.
        out: a directory that is missing, empty, or was made by this function.
        options: what to make of the pictures.
        classes: the class list; pictures of other classes are left out, and counted. By default the list that `out` has, then
            another class is an error, or else the sorted classes of the source.
        num_workers: processes that recode; 1 means this one, None one per CPU.
        on_progress: called about once per MiB of source, then several times per run, and once per shard.
        beam_options: of an Apache Beam pipeline that does the work instead of `num_workers` processes, without telling its progress;
            all its machines have to see source and `out` under the same paths.

    Raises:
        ValueError: if the source, the output directory, an option or the class list does not do, or the disk refuses. What is
            complete of the split stays in `.packing` inside `out` then; nothing of it counts yet.
    """
    started = time.monotonic()
    if num_workers is None:
        num_workers = os.cpu_count() or 1
    _check_number("workers", num_workers, 1, None)
    labels = base.read_labels(options.labels) if options.labels is not None else None
    opened = base.open_source(source, labels)
    if opened.list_class_ids() == ():
        what = (
            "synset tar or class folder" if labels is None else f"file that {options.labels} names"
        )
        raise UserError(f"source {source} holds no {what}; {base.EXPECTED}")
    directory = Path(out)
    if directory.resolve().is_relative_to(Path(source).resolve()):
        raise UserError(
            f"output directory {directory} lies in the source {source}; expected one elsewhere; change --out"
        )
    try:
        with commit.claimed(directory):
            manifest = commit.read_output(directory, options.name)
            is_given, classes = (
                classes is not None,
                commit.agree_on_classes(directory, manifest, classes),
            )
            stages.check_classes(opened.list_class_ids() or (), classes, is_given, opened)
            described = _describe(options, opened, labels)
            wanted = (options.split, VAL_SPLIT) if options.val_per_class else (options.split,)
            if (
                classes
                and manifest
                and (done := commit.find_complete(directory, manifest, wanted, described))
            ):
                return _report(
                    directory, options.name, done, classes, started, already_complete=True
                )
            made_of = _made_of(described, opened, classes, is_given, beam_options)
            num_workers = num_workers if beam_options is None else 1
            with (
                commit.working_directory(directory, made_of) as work,
                workers.Pool(num_workers) as pool,
            ):
                remove_temporaries(work)
                made, num_before = (
                    plan.read(work),
                    sum(run.about.num_read for run in spill.find_runs(work)),
                )
                if made is None or made.choices != _choices(described):
                    plan.forget(work)
                    stages.forget_shards(work)
                    if beam_options is None:
                        _read(
                            opened, options, classes, is_given, num_workers, pool, work, on_progress
                        )
                    else:
                        reading = stages.Reading(
                            work,
                            opened,
                            _recoding(options),
                            options.seed,
                            _BEAM_RUN_BYTES,
                            classes,
                            is_given,
                        )
                        if not is_given:  # of a few classes among many no sample tells enough
                            spilled = sum(
                                run.about.num_record_bytes for run in spill.find_runs(work)
                            )
                            commit.check_room(work, 2 * stages.estimate_bytes(reading) - spilled)
                        beam.run(
                            "read",
                            functools.partial(stages.read_part, reading),
                            stages.parts(opened),
                            beam_options,
                        )
                    _check_found(opened, work)
                    made = _plan(work, _choices(described), on_progress)
                classes = classes or ClassList.sorted(opened.list_class_ids() or made.class_ids)
                tasks = stages.shard_tasks(work, options.name, made, classes)
                if beam_options is not None:  # then what `_write` finds to do is done
                    for of_split in tasks:
                        beam.run("write", stages.write_shard, of_split, beam_options)
                written = _write(made, tasks, num_workers, pool, on_progress)
                counts: dict[str, Any] = {
                    "read": made.num_read,
                    "written": sum(made.num_records.values()),
                }
                counts |= {"left_out": made.left_out, "dropped": made.dropped}
                new = {
                    split: SplitManifest(files, described, counts)
                    for split, files in written.items()
                }
                manifest = manifest or Manifest(options.name, classes.hash, {})
                commit.commit(work, directory, classes, manifest, new)
    except OSError as error:
        raise UserError(
            f"packing into {directory} failed: {error}; make room there and give the same command again, it goes on where it was; "
            "or change --out"
        ) from error
    return _report(
        directory, options.name, new, classes, started, num_before, already_complete=False
    )


# ------------------------------------------------------------------------------------------------- before: may this be done?


def _check_number(what: str, value: int, least: int, most: int | None) -> None:
    if value < least or (most is not None and value > most):
        allowed = f"at least {least}" if most is None else f"{least} to {most}"
        raise UserError(f"{what} is {value}; expected {allowed}; change --{what.replace('_', '-')}")


def _describe(
    options: PackOptions, source: base.Source, labels: Mapping[str, str] | None
) -> dict[str, Any]:
    """Return what the manifest says about how a split was made; equal descriptions make equal splits."""
    described = dataclasses.asdict(options) | {
        "source": source.path.name,
        "source_bytes": source.num_bytes,
    }
    if options.num_shards is None:
        described["num_shards"] = min(
            max(1, math.ceil(source.num_bytes / SHARD_SOURCE_BYTES)), MAX_SHARDS
        )
    if options.min_class_size is None:
        described["min_class_size"] = options.val_per_class + 1
    if labels is not None:  # a table may lie elsewhere next time, but has to say the same
        described["labels"] = hashlib.sha256(
            "".join(f"{file}\t{label}\n" for file, label in labels.items()).encode()
        ).hexdigest()
    del described["name"]
    return described


def _choices(described: dict[str, Any]) -> plan.Choices:
    return plan.Choices(**{key: described[key] for key in _PLAN_OPTIONS})


def _made_of(
    described: dict[str, Any],
    source: base.Source,
    classes: ClassList | None,
    is_given: bool,
    beam_options: Sequence[str] | None,
) -> dict[str, Any]:
    """Return what an unfinished run has to agree on to be taken up again: what decides which pictures are stored, and their bytes."""
    made_of = {key: value for key, value in described.items() if key not in _PLAN_OPTIONS}
    made_of |= {"source_files": source.fingerprint, "format": spill.FORMAT}
    made_of["runner"] = "local" if beam_options is None else "beam"
    versions = {
        package: importlib.metadata.version(package) for package in ("simplejpeg", "pillow")
    }
    return (
        made_of
        | {"classes": f"{classes.hash} {'given' if is_given else 'there'}" if classes else None}
        | versions
    )


# ------------------------------------------------------------------------------------------------------- the run: read, write


def _read(
    source: base.Source,
    options: PackOptions,
    classes: ClassList | None,
    is_given: bool,
    num_workers: int,
    pool: workers.Pool,
    work: Path,
    on_progress: Callable[[Progress], None],
) -> None:
    """Pass over the source once, from behind the last complete run to the end, and make runs of it."""
    before = spill.find_runs(work)
    num_before = sum(run.about.num_read for run in before)
    after = before[-1].about.after if before else START
    source.num_bytes_read = before[-1].about.num_source_bytes if before else 0
    batches = stages.batches(source, after, None, classes, is_given)
    recoded = pool.map(_recoding(options), batches, num_workers, in_flight=_IN_FLIGHT)
    spilled = sum(run.about.num_record_bytes for run in before)
    start_bytes, is_probed = source.num_bytes_read, False
    under_way = (
        _IN_FLIGHT * num_workers * stages.BATCH_BYTES if num_workers > 1 else 0
    )  # read, but without a result yet
    gathered = stages.write_runs(
        work,
        recoded,
        options.seed,
        _run_bytes(source.num_bytes, num_workers),
        lambda: source.num_bytes_read,
    )
    with contextlib.closing(gathered):
        for num_read, num_bytes in gathered:
            passed = source.num_bytes_read - start_bytes - under_way
            if not is_probed and passed > 0 and passed >= min(_PROBE_BYTES, source.num_bytes / 2):
                commit.check_room(work, round(2 * source.num_bytes * num_bytes / passed - spilled))
                is_probed = True
            on_progress(
                Progress("reading", source.num_bytes_read, source.num_bytes, num_before + num_read)
            )
    _give_memory_back()


def _check_found(source: base.Source, work: Path) -> None:
    """Refuse a source without a picture, and say what it has instead."""
    all_runs = spill.find_runs(work)
    if not any(run.num_records for run in all_runs):
        left_out = collections.Counter(
            reason.partition(":")[0] for run in all_runs for _, _, reason in run.left_out()
        )
        why = (
            ", ".join(f"{count} {kind}" for kind, count in left_out.most_common())
            or "it has no files"
        )
        raise UserError(
            f"source {source.path} holds no pictures that can be packed ({why}); {base.EXPECTED}"
        )


def _plan(work: Path, choices: plan.Choices, on_progress: Callable[[Progress], None]) -> plan.Plan:
    all_runs = spill.find_runs(work)
    num_bytes, num_records = (
        sum(numbers)
        for numbers in zip(
            *((r.about.num_record_bytes, r.num_records) for r in all_runs), strict=True
        )
    )

    def tell(share: float) -> None:
        on_progress(
            Progress("planning", round(share * num_bytes), num_bytes, round(share * num_records))
        )

    return plan.make(work, choices, tell)


def _recoding(options: PackOptions) -> Callable[[list[base.Member]], list[recoding.Recoded]]:
    return functools.partial(
        recoding.recode_batch,
        short_side_px=options.short_side,
        quality=options.quality,
        min_side_px=options.min_side,
    )


def _run_bytes(source_bytes: int, num_workers: int) -> int:
    """Return what may gather in memory: one run grows while another is being written. Large ones spare seeks, small ones the end a wait."""
    most = max((_MEMORY_BYTES - (num_workers + 2) * _PROCESS_BYTES) // 2, 256 << 20)
    return min(most, 512 << 20, max(source_bytes // 64, 32 << 20))


def _write(
    made: plan.Plan,
    tasks: list[list[stages.ShardTask]],
    num_workers: int,
    pool: workers.Pool,
    on_progress: Callable[[Progress], None],
) -> dict[str, tuple[shards.Shard, ...]]:
    """Write all shards that are not there yet into the working directory."""
    _give_memory_back()
    on_progress(Progress("writing", 0, made.num_bytes, 0))
    slice_bytes = made.num_bytes / (made.slices_per_shard * made.choices.num_shards)
    num_writers = max(1, min(num_workers, round(_MEMORY_BYTES / (2 * slice_bytes + 1))))
    num_done = num_bytes_done = 0
    written: dict[str, tuple[shards.Shard, ...]] = {}
    for of_split in tasks:
        # In processes, since ArrayRecord's writer holds the GIL while it hands bytes to the kernel.
        for task, shard in zip(
            of_split, pool.map(stages.write_shard, of_split, num_writers), strict=True
        ):
            written[task.split] = (*written.get(task.split, ()), shard)
            num_done, num_bytes_done = (
                num_done + shard.num_records,
                num_bytes_done + shard.num_bytes,
            )
            on_progress(
                Progress("writing", num_bytes_done, max(made.num_bytes, num_bytes_done), num_done)
            )
    assert num_done == sum(made.num_records.values())
    return written


def _give_memory_back() -> None:
    """Let go of what is freed, which glibc keeps for the next to come: it comes in arrays, or in other processes."""
    with contextlib.suppress(AttributeError, OSError):  # elsewhere than on glibc
        ctypes.CDLL(None).malloc_trim(0)


def _report(
    directory: Path,
    name: str,
    splits: dict[str, SplitManifest],
    classes: ClassList,
    started: float,
    resumed_after: int = 0,
    *,
    already_complete: bool,
) -> PackReport:
    entry = next(iter(splits.values()))
    left_out, dropped = entry.counts["left_out"], entry.counts["dropped"]
    return PackReport(
        directory=str(directory),
        name=name,
        splits={
            split: SplitReport(
                e.num_records, len(e.shards), sum(shard.num_bytes for shard in e.shards)
            )
            for split, e in splits.items()
        },
        num_classes=len(classes),
        class_list_hash=classes.hash,
        num_read=entry.counts["read"],
        num_written=entry.counts["written"],
        num_left_out=sum(left_out.values()),
        num_dropped=sum(dropped.values()),
        left_out=left_out,
        dropped=dropped,
        source_bytes=entry.options["source_bytes"],
        seconds=time.monotonic() - started,
        resumed_after=resumed_after,
        already_complete=already_complete,
    )
