"""The command `i21k`: arguments in, one call into a room, text out. A front door that holds no work of its own.

A subcommand is a pair of functions in `_COMMANDS`: one adds its arguments, one runs. Rooms are imported when they run, so that
`i21k --help` answers at once. Input that does not do ends in `error: ...` and exit code 2, an interruption in 130 or 143.
"""

import argparse
import contextlib
import dataclasses
import json
import signal
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from i21k.errors import UserError

if TYPE_CHECKING:
    from i21k.data.overview import Overview
    from i21k.data.pack.pack import PackReport, Progress
    from i21k.data.verify import VerifyReport
    from i21k.labels import ClassList

_LINE_EVERY_S = 10.0  # where the output is no terminal


def main(argv: Sequence[str] | None = None) -> int:
    """Run `i21k` with the given arguments (those of the process by default) and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="i21k", description="Pack, inspect and use pictures and models of the full ImageNet."
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (what, add_arguments, run) in _COMMANDS.items():
        command = commands.add_parser(name, help=what, description=what)
        add_arguments(command)
        command.set_defaults(run=run)
    argv = list(sys.argv[1:] if argv is None else argv)
    end = (
        argv.index("--") if argv[:1] == ["pack"] and "--" in argv else len(argv)
    )  # what stands behind is not ours to read
    args = parser.parse_args(argv[:end])
    args.behind = argv[end + 1 :]
    try:
        with _sigterm_as_exit():
            return args.run(args)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


@contextlib.contextmanager
def _sigterm_as_exit() -> Iterator[None]:
    """Let SIGTERM unwind the stack as Ctrl-C does, so that whoever holds files or processes cleans up."""

    def leave(*_: object) -> None:
        sys.exit(143)

    try:
        before = signal.signal(signal.SIGTERM, leave)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# -------------------------------------------------------------------------------------------------------------------- pack


def _add_pack_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "source",
        metavar="SOURCE",
        type=Path,
        help="a tar of synset tars, a folder of synset tars, or a folder of class folders",
    )
    add(
        "--out",
        metavar="DIR",
        type=Path,
        required=True,
        help="dataset directory; a split is added to what is there",
    )
    add("--name", default="imagenet21k", help="name of the dataset (%(default)s)")
    add("--split", default="train", help="split to make (%(default)s)")
    add(
        "--num-shards",
        type=int,
        metavar="N",
        help="files of the split; by default one per 256 MiB of source, at most 1,024",
    )
    add(
        "--short-side",
        type=int,
        metavar="PX",
        default=256,
        help="reduce larger pictures to this (%(default)s); 0 keeps the bytes of JPEGs",
    )
    add(
        "--quality",
        type=int,
        metavar="Q",
        default=90,
        help="of JPEGs that are encoded anew, 1 to 100 (%(default)s)",
    )
    add(
        "--min-side",
        type=int,
        metavar="PX",
        default=0,
        help="leave out pictures with a shorter side in the source (%(default)s)",
    )
    copies = "pictures whose files are equal: all stay, the one with the least name, or none (%(default)s)"
    add("--duplicates", choices=("keep", "first", "drop"), default="keep", help=copies)
    add(
        "--val-per-class",
        type=int,
        metavar="K",
        default=0,
        help="first K by name of each large enough class go to the split 'val'",
    )
    add(
        "--min-class-size",
        type=int,
        metavar="M",
        help="pictures a class needs to give some to 'val'; by default K + 1",
    )
    add(
        "--keep-val-copies",
        action="store_true",
        help="let copies of validation pictures stay in the other split, as in 2015",
    )
    add(
        "--classes",
        metavar="LIST",
        help="name (fall11), file or dataset of the classes to keep; by default those in DIR, or all of the source",
    )
    add(
        "--labels",
        metavar="FILE|ilsvrc2012-val",
        help="classes of a SOURCE of mere pictures: lines of FILE<TAB>CLASS",
    )
    add("--workers", type=int, metavar="N", help="processes; by default one per CPU")
    add(
        "--runner",
        choices=("local", "beam"),
        default="local",
        help="beam: on many machines; behind -- follow Apache Beam's options",
    )
    add("--seed", type=int, default=0, help="of the order of the records (%(default)s)")
    add("--json", action="store_true", help="print the report as one line of JSON, and no progress")


def _run_pack(args: argparse.Namespace) -> int:
    from i21k.data.pack.pack import PackOptions, pack

    options = PackOptions(
        **{field.name: getattr(args, field.name) for field in dataclasses.fields(PackOptions)}
    )
    classes = _class_list(args.classes) if args.classes else None
    beam_options = args.behind if args.runner == "beam" else None
    if args.behind and beam_options is None:
        raise UserError(
            f"{' '.join(args.behind)} stands behind --, which is for the options of --runner beam; add that, or drop them"
        )
    try:
        with contextlib.nullcontext(_ignore) if args.json else _progress_shown() as on_progress:
            report = pack(
                args.source, args.out, options, classes, args.workers, on_progress, beam_options
            )
    except (KeyboardInterrupt, SystemExit):
        print("stopped; the same command goes on from here", file=sys.stderr)
        raise
    if args.json:
        print(json.dumps(dataclasses.asdict(report)))
    else:
        print(_pack_summary(report))
    return 0


def _prepare() -> None:
    """Set what has to be set before JAX is imported, and keep Orbax's forty lines a checkpoint from the screen."""
    from absl import logging

    from i21k import backend

    backend.prepare()
    logging.set_verbosity(logging.ERROR)


def _class_list(name_or_path: str) -> "ClassList":
    from i21k.labels import ClassList
    from i21k.wordnet import class_lists

    if name_or_path in class_lists.NAMES or not Path(name_or_path).exists():
        return class_lists.named(name_or_path)
    if Path(name_or_path).is_dir():
        from i21k.data.format.tfds import read_classes

        return read_classes(name_or_path)
    return ClassList.read(name_or_path)


def _pack_summary(report: "PackReport") -> str:
    lines = (
        [f"{report.directory} is complete with these options; nothing to do"]
        if report.already_complete
        else []
    )
    for split, made in report.splits.items():
        size = f"{made.num_bytes / 1e6:,.1f} MB in {made.num_shards:,} shards"
        lines.append(
            f"split {split}: {made.num_pictures:,} pictures of {report.num_classes:,} classes, {size}"
        )
    lines.append(
        f"read {report.num_read:,} files, {report.source_bytes / 1e6:,.1f} MB; wrote {report.num_written:,} pictures"
    )
    lines += [f"left out {count:,}: {reason}" for reason, count in report.left_out.items()]
    lines += [f"dropped {count:,}: {reason}" for reason, count in report.dropped.items()]
    lines += (
        [f"went on behind the first {report.resumed_after:,} files, which were read before"]
        if report.resumed_after
        else []
    )
    if not report.already_complete:
        lines.append(
            f"{report.seconds:,.1f} s, {(report.num_read - report.resumed_after) / report.seconds:,.0f} pictures/s"
        )
    return "\n".join(lines)


def _ignore(progress: "Progress") -> None:
    pass


@contextlib.contextmanager
def _progress_shown() -> "Iterator[Callable[[Progress], None]]":
    """Show progress on the standard error output: a bar on a terminal, else a line now and then."""
    if not sys.stderr.isatty():
        yield _line_printer()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as Bars

    pictures = TextColumn("{task.fields[pictures]:,} pictures, {task.fields[rate]:,.0f}/s")
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        pictures,
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, tuple[Any, Progress]] = {}

        def show(progress: "Progress") -> None:
            if progress.phase not in tasks:
                task = bars.add_task(
                    progress.phase,
                    total=progress.total_bytes,
                    completed=progress.num_bytes,
                    pictures=progress.num_pictures,
                    rate=0.0,
                )
                tasks[progress.phase] = task, progress
            task, first = tasks[progress.phase]
            rate = (progress.num_pictures - first.num_pictures) / max(
                bars.tasks[task].elapsed or 0.0, 1e-3
            )
            bars.update(
                task, completed=progress.num_bytes, pictures=progress.num_pictures, rate=rate
            )

        yield show


def _line_printer() -> "Callable[[Progress], None]":
    """Print a line every ten seconds. Rates count from the first call: a run that goes on where another stopped is no faster for that."""
    started: dict[str, tuple[float, Progress]] = {}
    printed_at = time.monotonic()

    def show(progress: "Progress") -> None:
        nonlocal printed_at
        now = time.monotonic()
        started_at, first = started.setdefault(progress.phase, (now, progress))
        if now - printed_at < _LINE_EVERY_S:
            return
        printed_at = now
        elapsed_s = max(now - started_at, 1e-3)
        share, num_bytes = (
            progress.num_bytes / max(progress.total_bytes, 1),
            progress.num_bytes - first.num_bytes,
        )
        eta = (
            f"{elapsed_s * (progress.total_bytes - progress.num_bytes) / num_bytes:,.0f} s"
            if num_bytes
            else "?"
        )
        rate = (progress.num_pictures - first.num_pictures) / elapsed_s
        print(
            f"{progress.phase} {share:6.1%} | {progress.num_pictures:,} pictures | {rate:,.0f} pictures/s | "
            f"{progress.num_bytes / 1e6:,.0f}/{progress.total_bytes / 1e6:,.0f} MB | eta {eta}",
            file=sys.stderr,
            flush=True,
        )

    return show


# --------------------------------------------------------------------------------------------------------- verify and info


def _add_verify_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "directory",
        metavar="DIR",
        type=Path,
        help="packed directory, or another TFDS dataset in ArrayRecord files",
    )
    add(
        "--split",
        help="check only this one; by default all, and that none shares a picture with another",
    )
    sample = parser.add_mutually_exclusive_group()
    sample.add_argument("--all", action="store_true", help="decode all pictures")
    sample.add_argument(
        "--sample",
        type=int,
        metavar="N",
        default=1000,
        help="decode N pictures of each split (%(default)s)",
    )
    add("--workers", type=int, metavar="N", help="processes; by default one per CPU")
    add("--json", action="store_true", help="print the report as one line of JSON, and no progress")


def _run_verify(args: argparse.Namespace) -> int:
    from i21k.data.verify import verify

    with contextlib.nullcontext(_ignore) if args.json else _progress_shown() as on_progress:
        report = verify(
            args.directory, args.split, None if args.all else args.sample, args.workers, on_progress
        )
    print(json.dumps(dataclasses.asdict(report)) if args.json else _verify_summary(report))
    return 1 if report.num_faults else 0


def _verify_summary(report: "VerifyReport") -> str:
    lines = [f"fault: {fault}" for fault in report.faults]
    unnamed = sum(report.num_faults.values()) - len(report.faults)
    lines += [f"fault: and {unnamed:,} more of the same kinds in the same files"] if unnamed else []
    for name, split in report.splits.items():
        size = f"{split.num_records:,} records, {split.num_bytes / 1e6:,.1f} MB in {split.num_shards:,} shards"
        lines.append(
            f"split {name}: {size}; decoded {split.num_decoded:,}, compared {split.num_named:,} labels with file names"
        )
    lines.append(
        f"no manifest: sizes, hashes and class list of {report.directory} not checked"
        if not report.has_manifest
        else ""
    )
    lines.append(
        f"contents compared between splits {', '.join(report.compared)}"
        if report.compared
        else "one split: no contents compared"
    )
    by_kind = ", ".join(f"{kind} {count:,}" for kind, count in report.num_faults.items())
    lines.append(f"{report.seconds:,.1f} s; " + (f"faults: {by_kind}" if by_kind else "no faults"))
    return "\n".join(filter(None, lines))


def _add_info_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "directory",
        metavar="DIR",
        type=Path,
        help="packed directory, or another TFDS dataset in ArrayRecord files",
    )
    add(
        "--contact-sheet",
        metavar="PNG",
        type=Path,
        help="write random pictures with their labels to this file",
    )
    add("--json", action="store_true", help="print one line of JSON")


def _run_info(args: argparse.Namespace) -> int:
    from i21k.data.overview import contact_sheet, overview

    report = overview(args.directory)
    if args.contact_sheet:
        contact_sheet(args.directory).save(args.contact_sheet, "PNG")
    print(json.dumps(dataclasses.asdict(report)) if args.json else _info_summary(report))
    return 0


def _info_summary(report: "Overview") -> str:
    made_by = "packed by i21k" if report.has_manifest else "not packed by i21k"
    lines = [
        f"{report.directory}: dataset {report.name!r}, {made_by}, {report.num_records:,} pictures, {report.num_bytes / 1e6:,.1f} MB"
    ]
    lines.append(
        f"{report.num_classes:,} classes, {report.first_class} to {report.last_class}, hash {report.class_list_hash}"
    )
    for name, split in report.splits.items():
        each = f"{split.num_bytes / max(split.num_records, 1) / 1e3:,.1f} KB a picture"
        lines.append(
            f"split {name}: {split.num_records:,} pictures, {split.num_bytes / 1e6:,.1f} MB in {split.num_shards:,} shards, {each}"
        )
        for what, entries in (
            ("options", split.options),
            ("counts", split.counts),
            ("left out", split.left_out),
            ("dropped", split.dropped),
        ):
            if entries:
                lines.append(
                    f"  {what}: " + ", ".join(f"{key} {value}" for key, value in entries.items())
                )
    return "\n".join(lines)


# ---------------------------------------------------------------------------------------------------------------- evaluate


def _add_evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--checkpoint",
        metavar="WORKDIR",
        type=Path,
        required=True,
        help="working directory of a run; its newest checkpoint is taken",
    )
    add(
        "--data",
        metavar="DIR",
        type=Path,
        required=True,
        help="packed directory, or another TFDS dataset; classes are matched by id",
    )
    add("--split", default="val", help="split to evaluate, whole (%(default)s)")
    subset = "name (ilsvrc2012), file or dataset of a subset to rank too; by default the data's classes, where they are not the model's"
    add("--over", metavar="LIST", help=subset)
    add(
        "--batch-size",
        type=int,
        metavar="N",
        default=256,
        help="over all devices (%(default)s); changes speed and memory only",
    )
    add(
        "--recalibrate-bn",
        type=int,
        metavar="N",
        default=0,
        help="compute BatchNorm's statistics from N pictures of split 'train' first",
    )
    add(
        "--tta",
        choices=("none", "flip"),
        default="none",
        help="flip: average the probabilities of picture and mirror image (%(default)s)",
    )
    add(
        "--real",
        metavar="FILE",
        type=Path,
        help="ReaL labels of ILSVRC's validation set (real.json), to score by too",
    )
    add(
        "--sizes-of",
        metavar="SPLIT",
        help="split whose labels tell large classes from small; by default fall11's order of 2015",
    )
    add("--per-class", metavar="TSV", type=Path, help="write a line a class to this file")
    add(
        "--reliability", metavar="PNG", type=Path, help="draw accuracy over confidence to this file"
    )
    add("--json", action="store_true", help="print one line of JSON")


def _run_evaluate(args: argparse.Namespace) -> int:
    for path in filter(None, (args.per_class, args.reliability)):
        if not path.parent.is_dir():  # now, not after the last picture
            raise UserError(
                f"there is no directory {path.parent} for {path.name}; make it, or choose another place"
            )
    _prepare()
    from i21k.evaluation import evaluate

    result = evaluate.evaluate_checkpoint(
        args.checkpoint,
        args.data,
        args.split,
        args.batch_size,
        _class_list(args.over) if args.over else None,
        args.recalibrate_bn,
        args.tta == "flip",
        args.real,
        args.sizes_of,
    )
    if args.per_class:
        args.per_class.write_text(evaluate.per_class_table(result.scores), "utf-8")
    if args.reliability:
        evaluate.draw_reliability(result.scores, args.reliability)
    print(
        json.dumps(result.summary(), allow_nan=False)
        if args.json
        else evaluate.describe(result.summary())
    )
    return 0


# ----------------------------------------------------------------------------------------------------------------- predict


def _add_predict_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    views = "top, subset (of --among), fold (onto --among), diverse, hedge (right at --accuracy) or basic (%(default)s)"
    add("pictures", metavar="PICTURE", nargs="*", type=Path, help="files, and folders of files")
    add(
        "--checkpoint",
        metavar="WORKDIR",
        type=Path,
        required=True,
        help="working directory of a run; its newest checkpoint is taken",
    )
    add("--view", default="top", help=views)
    add(
        "--among",
        metavar="EXPR",
        help="classes of subset, such as 'leaf & !under(person)'; synsets of fold, by default ilsvrc2012",
    )
    add(
        "-k",
        type=int,
        metavar="N",
        default=5,
        help="answers at most (%(default)s); hedge gives one",
    )
    add(
        "--accuracy",
        type=float,
        metavar="A",
        default=0.9,
        help="fraction of pictures for which hedge is to be right (%(default)s)",
    )
    add(
        "--calibrate",
        metavar="DIR",
        type=Path,
        help="find on this held-out data how general hedge has to be, and keep it in WORKDIR",
    )
    add("--split", default="val", help="of the data to calibrate on (%(default)s)")
    add(
        "--batch-size",
        type=int,
        metavar="N",
        default=8,
        help="pictures at a time (%(default)s); changes speed and memory only",
    )
    add("--png", metavar="FILE", type=Path, help="draw each picture with bars")
    add("--json", action="store_true", help="print a line of JSON for each picture")


def _run_predict(args: argparse.Namespace) -> int:
    _prepare()
    from i21k.prediction import plots, predictor, text

    if not args.pictures and not args.calibrate:
        raise UserError("no PICTURE was given; expected files or folders, or --calibrate DIR")
    files = predictor.find_files(args.pictures)
    if args.png and len(files) > plots.MAX_DRAWN:
        raise UserError(
            f"--png draws at most {plots.MAX_DRAWN} pictures, and {len(files):,} were given; give fewer, or leave it out"
        )
    alone = (
        len(files) == 1 and args.batch_size > 1 and not args.calibrate
    )  # then nothing has to be padded
    model = predictor.Predictor(args.checkpoint, 1 if alone else args.batch_size)
    if args.calibrate:
        found = model.calibrate(args.calibrate, args.split, args.accuracy)
        print(
            f"hedge is right for {found.accuracy:.1%} of {found.num_pictures:,} pictures of split {args.split!r} of {args.calibrate} with"
            f" specificity {found.specificity:.2f} on average (0: entity, 1: a class with none below)",
            file=sys.stderr,
        )
    if not files:
        return 0
    seen = []
    for one in model.see(files, model.view(args.view, args.among, args.k, args.accuracy)):
        if one.fault:
            print(f"error: {one.fault}", file=sys.stderr)
        elif args.json:
            print(json.dumps(text.as_json(one)))
        else:
            print(f"{one.path}\n{textwrap.indent(text.describe(one.answers), '  ')}\n")
        if args.png or one.fault:
            seen.append(one)
    if args.png and not all(one.fault for one in seen):
        plots.draw(seen, args.png)
    return 1 if any(one.fault for one in seen) else 0


# ------------------------------------------------------------------------------------------------------ the files of MXNet


def _add_import_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--symbol",
        metavar="FILE",
        type=Path,
        required=True,
        help="the graph, such as Inception-symbol.json",
    )
    add(
        "--params",
        metavar="FILE",
        type=Path,
        required=True,
        help="the arrays, such as Inception-0009.params",
    )
    add(
        "--synset",
        metavar="FILE",
        type=Path,
        required=True,
        help="the classes in the order of the outputs, such as synset.txt",
    )
    add("--out", metavar="WORKDIR", type=Path, required=True, help="directory for the checkpoint")
    count = "whether average pools count padding (CPUs of 2015 did, GPUs did not); by default as the graph says, or its revision"
    add("--count-padding", action=argparse.BooleanOptionalAction, help=count)
    add("--json", action="store_true", help="print one line of JSON")


def _run_import(args: argparse.Namespace) -> int:
    _prepare()
    from i21k.interop.mxnet.checkpoints import import_mxnet

    report = import_mxnet(args.symbol, args.params, args.synset, args.out, args.count_padding)
    if args.json:
        print(json.dumps(report))
    else:
        print(
            f"{report['variant']} network of revision {report['revision']}: {report['num_parameters']:,} parameters,",
            end=" ",
        )
        print(f"{report['num_classes']:,} classes, written to {args.out}")
    return 0


def _add_export_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--checkpoint",
        metavar="WORKDIR",
        type=Path,
        required=True,
        help="working directory of a run or an imported model",
    )
    add(
        "--out",
        metavar="DIR",
        type=Path,
        required=True,
        help="directory for symbol, params and synset.txt",
    )
    add(
        "--order",
        metavar="FILE",
        type=Path,
        help="class list whose order the files shall have; by default sorted",
    )
    add(
        "--layout",
        choices=("2015", "V1", "V2", "V3"),
        default="V2",
        help="of the .params (%(default)s)",
    )


def _run_export(args: argparse.Namespace) -> int:
    _prepare()
    from i21k.interop.mxnet.checkpoints import export_mxnet
    from i21k.labels import ClassList

    for path in export_mxnet(
        args.checkpoint, args.out, ClassList.read(args.order) if args.order else None, args.layout
    ):
        print(path)
    return 0


# ----------------------------------------------------------------------------------------------------------------- summary


def _add_summary_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--config", metavar="FILE", type=Path, required=True, help="a recipe; it is executed")
    add(
        "--num-classes",
        type=int,
        metavar="K",
        default=21841,
        help="outputs; a run takes them from its data (%(default)s)",
    )


def _run_summary(args: argparse.Namespace) -> int:
    import runpy

    _prepare()
    from i21k.models.summary import describe
    from i21k.train.recipe import parse
    from i21k.train.steps import make_model

    if not args.config.is_file():
        raise UserError(
            f"there is no config {args.config}; expected a Python file with get_config(), such as configs/quickstart.py"
        )
    sys.path.insert(
        0, str(Path.cwd())
    )  # recipes import each other as configs.NAME, as they do under launch.py
    cfg = parse(runpy.run_path(str(args.config))["get_config"]())
    print(describe(make_model(cfg.model, args.num_classes), cfg.image_size))
    return 0


_Command = tuple[
    str, Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], int]
]
_COMMANDS: dict[str, _Command] = {
    "pack": (
        "Turn tars or folders of pictures into shuffled shards.",
        _add_pack_arguments,
        _run_pack,
    ),
    "verify": (
        "Check a dataset: hashes, counts, labels, splits, pictures.",
        _add_verify_arguments,
        _run_verify,
    ),
    "info": (
        "What is in a dataset: splits, classes, sizes, options.",
        _add_info_arguments,
        _run_info,
    ),
    "summary": (
        "Table of a recipe's network: layers, parameters, operations.",
        _add_summary_arguments,
        _run_summary,
    ),
    "import-mxnet": (
        "Turn a model that MXNet trained into a checkpoint.",
        _add_import_arguments,
        _run_import,
    ),
    "export-mxnet": (
        "Write a checkpoint as files that MXNet loads.",
        _add_export_arguments,
        _run_export,
    ),
    "evaluate": (
        "What a checkpoint's answers to the pictures of a split are worth.",
        _add_evaluate_arguments,
        _run_evaluate,
    ),
    "predict": (
        "What a checkpoint sees in pictures, in several views.",
        _add_predict_arguments,
        _run_predict,
    ),
}

if __name__ == "__main__":
    sys.exit(main())
