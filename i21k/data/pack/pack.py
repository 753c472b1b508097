"""Pack images into shuffled shards: the order of the five phases, each in a file of its own.

The bytes depend on source, options and class list only, not on the number of workers, the engine,
or how often packing was interrupted and resumed.
"""

import dataclasses
import errno
import functools
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from i21k.data.format.manifest import Manifest, SplitManifest
from i21k.data.pack import commit, output, plan, read, recoding, write
from i21k.data.pack.beam import BeamEngine
from i21k.data.pack.engine import Engine, LocalEngine
from i21k.data.pack.options import (
    PackOptions,
    PlanOptions,
    check_number,
    describe,
    describe_spill,
)
from i21k.data.pack.report import (
    PackReport,
    Progress,
    SplitReport,
    make_report,
    merge_reports,
    skipped_share,
)
from i21k.data.pack.work_directory import WorkDirectory
from i21k.data.sources.base import EXPECTED, ImageSource, counted
from i21k.data.sources.recognise import Recognised, Wanted, recognise
from i21k.data.sources.tables import read_labels
from i21k.errors import UserError
from i21k.labels import ClassList
from i21k.machine import num_cpus

__all__ = ["PackOptions", "PackReport", "Progress", "SplitReport", "pack"]


def pack(
    source: str | Path | Sequence[str | Path],
    out: str | Path,
    options: PackOptions,
    classes: ClassList | None = None,
    num_workers: int | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    beam_options: Sequence[str] | None = None,
    on_recognised: Callable[[str], None] = lambda line: None,
    overwrite: bool = False,
) -> PackReport:
    """Pack a source into splits of the dataset in `out`, which may have other splits already.

    The same call resumes a packing that was interrupted in any way; what was read is not read
    again.

    Args:
        source: what `recognise` takes: a file, a folder, or several shards. A source that has
            splits is packed into splits with these names.
        out: a directory that is missing, empty, or was made by this function.
        options: what to make of the images.
        classes: the class list; images of other classes are skipped, and counted. By default the
            list of the dataset in `out`, then another class is an error; or else the sorted
            classes of the source. Integer labels of a source count in this list.
        num_workers: processes that recode; 1 means this one, None one per CPU.
        on_progress: called about once per MiB of source, then several times per spill file, and
            once per shard.
        beam_options: of an Apache Beam pipeline that does the work instead of `num_workers`
            processes. All its machines have to see source and `out` under the same paths.
        on_recognised: called with one line that says what the source was recognised as, before it
            is read.
        overwrite: whether the dataset in `out` is removed first.

    Raises:
        UserError: if source, output directory, options or class list do not fit, or the disk is
            full. What is complete of the split stays in `.packing` inside `out` then.
    """
    if num_workers is None:
        num_workers = num_cpus()
    check_number("workers", num_workers, 1, None)
    labels = read_labels(options.labels, classes) if options.labels is not None else None
    paths = [source] if isinstance(source, str | Path) else list(source)
    recognised = recognise(
        paths,
        labels,
        Wanted(options.layout, options.class_level, options.source_splits, classes),
    )
    sources = _named(paths[0], recognised, options)
    on_recognised(_line(paths[0], recognised, sources))
    if options.has_val and len(sources) > 1:
        raise UserError(
            f"Source {paths[0]} has the splits {', '.join(sources)} itself. Drop --val and "
            "--val-per-class, or give --splits train."
        )
    directory = Path(out)
    for of_split in sources.values():
        _check_source(of_split, directory, options)
    engine = LocalEngine(num_workers) if beam_options is None else BeamEngine(beam_options)
    is_given = classes is not None
    if overwrite:  # when nothing is wrong that can be known before
        for of_split in sources.values():
            read.check_classes(of_split.list_class_ids() or (), classes, is_given, of_split)
        with output.claimed(directory):
            output.overwrite(directory, options.name)
    classes = classes or _common_classes(sources)
    reports = []
    for split, of_split in sources.items():
        of_one = dataclasses.replace(options, split=split)
        reports.append(
            _pack_split(of_split, directory, of_one, classes, is_given, engine, on_progress)
        )
    return merge_reports(reports, recognised.layout)


def _line(path: str | Path, recognised: Recognised, sources: Mapping[str, ImageSource]) -> str:
    """Return one line: what was recognised and what will be done."""
    files = [of_split.num_files for of_split in sources.values()]
    number = "" if None in files else f" of {sum(n or 0 for n in files):,} files"
    splits = f"split {next(iter(sources))}" if len(sources) == 1 else f"splits {', '.join(sources)}"
    notes = "".join(f"; {note}" for note in recognised.notes) + _other_classes(sources)
    return f"recognised {path} as {recognised.layout}; packing {splits}{number}{notes}"


def _named(
    path: str | Path, recognised: Recognised, options: PackOptions
) -> dict[str, ImageSource]:
    """Return the sources by the splits that are made of them.

    Raises:
        UserError: if one split is wanted and the source has several.
    """
    sources = recognised.sources
    if options.split == PackOptions.split:
        return {split or options.split: of_split for split, of_split in sources.items()}
    if len(sources) > 1:
        raise UserError(
            f"Source {path} has the splits {', '.join(sources)}, and --split {options.split} is "
            f"given. Drop --split, or choose one with --splits {next(iter(sources))}."
        )
    return {options.split: next(iter(sources.values()))}


def _other_classes(sources: Mapping[str, ImageSource]) -> str:
    """Return which splits have classes that the first does not have."""
    (first, *others), notes = sources.items(), ""
    of_first = first[1].list_class_ids()
    for split, source in others:
        class_ids = source.list_class_ids()
        if of_first is None or class_ids is None:
            return f"; split {first[0]} decides the classes, unless --classes gives them"
        if more := sorted(set(class_ids) - set(of_first)):
            what = counted(len(more), "class", "classes")
            notes += f"; split {split} has {what} that {first[0]} has not, such as {more[0]}"
    return notes


def _common_classes(sources: Mapping[str, ImageSource]) -> ClassList | None:
    """Return the classes of all splits, if there are several and their classes are known."""
    if len(sources) == 1:
        return None
    found = [of_split.list_class_ids() for of_split in sources.values()]
    if any(class_ids is None for class_ids in found):
        return None
    return ClassList.sorted(itertools.chain.from_iterable(ids or () for ids in found))


def _pack_split(
    source: ImageSource,
    directory: Path,
    options: PackOptions,
    classes: ClassList | None,
    is_given: bool,
    engine: Engine,
    on_progress: Callable[[Progress], None],
) -> PackReport:
    """Pack one split; `classes` are the user's (`is_given`) or those of all splits together."""
    started = time.monotonic()
    report = functools.partial(make_report, str(directory), options.name, source.layout)
    try:
        with output.claimed(directory):
            manifest = output.read_output(directory, options.name)
            classes = output.agree_on_classes(directory, manifest, classes)
            read.check_classes(source.list_class_ids() or (), classes, is_given, source)
            described = describe(options, source)
            if classes and manifest:
                done = output.find_complete(directory, manifest, options.splits, described)
                if done:
                    seconds = time.monotonic() - started
                    return report(done, classes, seconds, already_complete=True)
            output.check_labels(directory, manifest, options.duplicates)
            work = WorkDirectory(directory)
            made_from = describe_spill(described, source, classes, is_given, engine.name)
            with work.opened(made_from), engine:
                num_before = sum(file.about.num_read for file in work.spill_files())
                reading = read.Reading(
                    work=work,
                    source=source,
                    recode_batch=functools.partial(
                        recoding.recode_batch,
                        short_side_px=options.short_side,
                        quality=options.quality,
                        min_side_px=options.min_side,
                        strict=options.strict,
                    ),
                    seed=options.seed,
                    classes=classes,
                    is_given=is_given,
                )
                made = _read_and_plan(engine, reading, PlanOptions.of(described), on_progress)
                _check_skipped(made, options, work)
                classes = classes or ClassList.sorted(source.list_class_ids() or made.class_ids)
                written = write.write(engine, work, options.name, made, classes, on_progress)
                counts = _counts(made)
                new = {
                    split: SplitManifest(
                        files, described, counts, made.counts_of(split, classes.ids)
                    )
                    for split, files in written.items()
                }
                manifest = manifest or Manifest(options.name, classes.hash, {})
                commit.commit(work, classes, manifest, new)
            work.remove()
    except OSError as error:
        raise UserError(f"Packing into {directory} failed: {error}. {_advice(error)}") from error
    seconds = time.monotonic() - started
    return report(new, classes, seconds, num_before, already_complete=False)


def _advice(error: OSError) -> str:
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return "It is read-only for this user: change --out, or its permissions."
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "Free some space there and give the same command again to resume, or change --out."
    return "Give the same command again to resume, or change --out."


def _check_skipped(made: plan.Plan, options: PackOptions, work: WorkDirectory) -> None:
    """Refuse to write a split of which more files were skipped than allowed."""
    share = skipped_share(made.skipped, made.num_read)
    if share > options.max_skipped:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in made.skipped.items())
        raise UserError(
            f"{share:.2%} of the files were skipped ({kinds}); at most {options.max_skipped:.2%} "
            f"may be. Read {work.tables(options.split)[0]}, then repair the source and remove "
            f"{work.path}, or change --max-skipped."
        )


def _check_source(source: ImageSource, directory: Path, options: PackOptions) -> None:
    if source.list_class_ids() == ():
        what = (
            "images in class folders or synset tars"
            if options.labels is None
            else f"file that {options.labels} names"
        )
        raise UserError(f"Source {source.path} holds no {what}. {EXPECTED}")
    if source.path.is_dir() and directory.resolve().is_relative_to(source.path.resolve()):
        raise UserError(
            f"Output directory {directory} is inside the folder of the source, {source.path}. "
            "Change --out."
        )


def _read_and_plan(
    engine: Engine,
    reading: read.Reading,
    options: PlanOptions,
    on_progress: Callable[[Progress], None],
) -> plan.Plan:
    """Return the plan that is there, if it has the same options, or read and plan."""
    made = plan.read(reading.work)
    if made is None or made.options != options:
        reading.work.forget_plan()
        read.read(engine, reading, on_progress)
        made = plan.make(reading.work, options, on_progress)
    return made


def _counts(made: plan.Plan) -> dict[str, Any]:
    return {
        "read": made.num_read,
        "written": sum(made.num_records.values()),
        "skipped": made.skipped,
        "dropped": made.dropped,
    } | ({"odd": made.odd} if made.odd else {})
