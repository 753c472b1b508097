"""`i21k info`: describe a dataset."""

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from i21k import files, log
from i21k.cli import arguments
from i21k.errors import UserError
from i21k.text import printable

if TYPE_CHECKING:
    from i21k.data.contents import Contents
    from i21k.data.overview import Overview

_SHEET_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
_BAR = 30  # characters of the longest bar
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
        "--all",
        action="store_true",
        help="read all images of a large dataset to count those of each class",
    )
    add(
        "--contact-sheet",
        metavar="FILE",
        type=Path,
        help="write random images with their classes to this file; its name decides the format",
    )
    add(
        "--html",
        metavar="FILE",
        type=Path,
        help="write a page: images, class sizes, duplicates, skipped files by reason",
    )
    arguments.add_json(parser)


def run(args: argparse.Namespace) -> int:
    from i21k.data.contact_sheet import contact_sheet
    from i21k.data.contents import read_contents
    from i21k.data.overview import overview

    arguments.check_folders(args.contact_sheet, args.html)
    report = overview(args.directory)
    contents = read_contents(args.directory, everything=args.all)
    if args.contact_sheet:
        suffix = args.contact_sheet.suffix.lower()
        if suffix not in _SHEET_FORMATS:
            raise UserError(
                f"--contact-sheet {args.contact_sheet} ends in {suffix!r}; expected one of "
                f"{', '.join(_SHEET_FORMATS)}. Change the name."
            )
        contact_sheet(args.directory).save(args.contact_sheet, _SHEET_FORMATS[suffix])
    if args.html:
        from i21k.data.overview_page import dataset_page

        files.write_text(args.html, dataset_page(report, contents))
    if args.json:
        found = {name: as_json(one) for name, one in contents.items()}
        arguments.print_json(dataclasses.asdict(report) | {"contents": found})
    else:
        log.info(describe(report, contents))
    return 0


def as_json(contents: "Contents") -> dict[str, Any]:
    """Return what `--json` prints about the records of a split."""
    import numpy as np

    counts = contents.counts
    return {
        "read": contents.num_read,
        "damaged": contents.num_damaged,
        "class_counts": None
        if counts is None
        else dict(zip(contents.classes.ids, counts.tolist(), strict=True)),
        "median_size_px": np.median(contents.sizes, axis=0).tolist()
        if len(contents.sizes)
        else None,
    }


def describe(report: "Overview", contents: Mapping[str, "Contents"]) -> str:
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
        lines += [f"  {line}" for line in _describe_records(contents[name])]
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


def _describe_records(found: "Contents") -> list[str]:
    import numpy as np

    from i21k.data.contents import class_facts, histogram
    from i21k.wordnet.taxonomy import wordnet

    lines = []
    if found.counts is None:
        lines.append(
            f"{found.num_read:,} images were read; --all reads all and counts those of each class"
        )
    elif (facts := class_facts(found.counts))["classes"]:
        spread = f"{facts['least']:,}"
        if facts["most"] > facts["least"]:
            largest, smallest = (
                found.classes.ids[k]
                for k in (
                    int(found.counts.argmax()),
                    int(np.where(found.counts > 0, found.counts, facts["most"]).argmin()),
                )
            )
            name = wordnet().name
            spread = (
                f"{facts['least']:,} ({printable(name(smallest))}) to {facts['most']:,}"
                f" ({printable(name(largest))}), median {facts['median']:,.0f}"
            )
        lines.append(f"images per class: {spread}, {facts['classes']:,} classes with images")
        bins = histogram(found.counts)
        if len(bins) > 1:
            most = max(b.num_classes for b in bins)
            for b in bins:
                label = f"{b.low:,}" if b.low == b.high else f"{b.low:,} to {b.high:,}"
                bar = "#" * -(-_BAR * b.num_classes // most)
                lines.append(f"{label:>17} images: {b.num_classes:>6,} classes {bar}".rstrip())
    if len(found.sizes):
        short = found.sizes.min(axis=1)
        width, height = np.median(found.sizes, axis=0)
        lines.append(
            f"image sizes: short side {short.min():,} to {short.max():,} px, median image"
            f" {width:,.0f} x {height:,.0f} px"
        )
    if found.num_damaged:
        lines.append(f"damaged: {found.num_damaged:,} images; i21k verify names them")
    return lines
