"""`i21k verify`: check a dataset."""

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from i21k import log
from i21k.cli import arguments

if TYPE_CHECKING:
    from i21k.data.verify import VerifyReport

HELP = "Check a dataset: hashes, counts, labels, splits and images."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from i21k.data.verify import verify

    add = parser.add_argument
    add(
        "directory",
        metavar="DIR",
        type=Path,
        help="packed directory, or another TFDS dataset in ArrayRecord files",
    )
    add("--split", help="check only this split; by default all, and duplicates between them")
    sample = parser.add_mutually_exclusive_group()
    sample.add_argument("--all", action="store_true", help="decode all images")
    sample.add_argument(
        "--sample",
        type=int,
        metavar="N",
        default=arguments.defaults_of(verify)["sample"],
        help="decode N images of each split (%(default)s)",
    )
    add("--workers", type=int, metavar="N", help="worker processes; by default one per CPU")
    arguments.add_json(parser)


def run(args: argparse.Namespace) -> int:
    from i21k.data.verify import verify

    with arguments.shown_progress(quiet=args.json) as on_progress:
        report = verify(
            directory=args.directory,
            split=args.split,
            sample=None if args.all else args.sample,
            num_workers=args.workers,
            on_progress=on_progress,
        )
    if args.json:
        arguments.print_json(dataclasses.asdict(report))
    else:
        log.info(describe(report))
    return 1 if report.num_faults else 0


def describe(report: "VerifyReport") -> str:
    """Return the text about a checked dataset, faults first."""
    lines = [f"fault: {fault}" for fault in report.faults]
    if unnamed := sum(report.num_faults.values()) - len(report.faults):
        lines.append(f"fault: and {unnamed:,} more of the same kinds in the same files")
    for name, split in report.splits.items():
        lines.append(
            f"split {name}: {split.num_records:,} records, {split.num_bytes / 1e6:,.1f} MB in"
            f" {split.num_shards:,} shards; decoded {split.num_decoded:,}, compared"
            f" {split.num_named:,} labels with file names"
        )
    if not report.has_manifest:
        lines.append(f"no manifest: sizes, hashes and class list of {report.directory} not checked")
    if report.compared:
        lines.append(f"contents compared between splits {', '.join(report.compared)}")
    else:
        lines.append("one split: no contents compared")
    if report.empty_classes:
        lines.append(
            f"{len(report.empty_classes):,} classes have no images, such as"
            f" {report.empty_classes[0]}"
        )
    by_kind = ", ".join(f"{kind} {count:,}" for kind, count in report.num_faults.items())
    lines.append(f"{report.seconds:,.1f} s; " + (f"faults: {by_kind}" if by_kind else "no faults"))
    return "\n".join(lines)
