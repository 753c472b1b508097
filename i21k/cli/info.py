"""`i21k info`: describe a dataset."""

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from i21k import log
from i21k.cli import arguments
from i21k.errors import UserError

if TYPE_CHECKING:
    from i21k.data.overview import Overview

_SHEET_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
HELP = "Describe a dataset: splits, classes, sizes and options."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "directory",
        metavar="DIR",
        type=Path,
        help="packed directory, or another TFDS dataset in ArrayRecord files",
    )
    add(
        "--contact-sheet",
        metavar="FILE",
        type=Path,
        help="write random images with their labels to this file; its name decides the format",
    )
    arguments.add_json(parser)


def run(args: argparse.Namespace) -> int:
    from i21k.data.overview import contact_sheet, overview

    report = overview(args.directory)
    if args.contact_sheet:
        suffix = args.contact_sheet.suffix.lower()
        if suffix not in _SHEET_FORMATS:
            raise UserError(
                f"--contact-sheet {args.contact_sheet} ends in {suffix!r}; expected one of "
                f"{', '.join(_SHEET_FORMATS)}. Change the name."
            )
        contact_sheet(args.directory).save(args.contact_sheet, _SHEET_FORMATS[suffix])
    if args.json:
        arguments.print_json(dataclasses.asdict(report))
    else:
        log.info(describe(report))
    return 0


def describe(report: "Overview") -> str:
    """Return the text about a dataset."""
    made_by = "packed by i21k" if report.has_manifest else "not packed by i21k"
    lines = [
        f"{report.directory}: dataset {report.name!r}, {made_by}, {report.num_records:,} images,"
        f" {report.num_bytes / 1e6:,.1f} MB",
        f"{report.num_classes:,} classes, {report.first_class} to {report.last_class},"
        f" hash {report.class_list_hash}",
    ]
    for name, split in report.splits.items():
        lines.append(
            f"split {name}: {split.num_records:,} images, {split.num_bytes / 1e6:,.1f} MB in"
            f" {split.num_shards:,} shards,"
            f" {split.num_bytes / max(split.num_records, 1) / 1e3:,.1f} KB per image"
        )
        for what, entries in (
            ("options", split.options),
            ("counts", split.counts),
            ("skipped", split.left_out),
            ("dropped", split.dropped),
        ):
            if entries:
                values = ", ".join(f"{key} {value}" for key, value in entries.items())
                lines.append(f"  {what}: {values}")
    return "\n".join(lines)
