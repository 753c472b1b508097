"""`i21k pack`: pack a source of images into shuffled shards."""

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from i21k import log
from i21k.cli import arguments
from i21k.data.sources.layouts import LAYOUTS
from i21k.errors import UserError

if TYPE_CHECKING:
    from i21k.data.pack.pack import PackReport, Progress

HELP = "Pack images from a folder, archive or dataset into shuffled shards."
_WARN_SKIPPED = 0.01  # share of the files; our choice


def _share(text: str) -> float:
    """Return `0.05` for `5%` and `0.05`."""
    try:
        return float(text.removesuffix("%")) / 100 if text.endswith("%") else float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r}; expected a share such as 0.05 or 5%"
        ) from error


def _names(text: str) -> tuple[str, ...]:
    return tuple(filter(None, text.split(",")))


# By the fields of PackOptions, which has the defaults.
_OPTIONS: dict[str, dict[str, Any]] = {
    "name": {"help": "name of the dataset"},
    "split": {"help": "split to make"},
    "num_shards": {
        "type": int,
        "metavar": "N",
        "help": "files of the split; by default one per 256 MiB of source, at most 1,024",
    },
    "short_side": {
        "type": int,
        "metavar": "PX",
        "help": "reduce larger images to this short side; 0 keeps the bytes of JPEGs",
    },
    "quality": {
        "type": int,
        "metavar": "Q",
        "help": "quality of JPEGs that are encoded again, 1 to 100",
    },
    "min_side": {
        "type": int,
        "metavar": "PX",
        "help": "skip images with a shorter side in the source",
    },
    "duplicates": {
        "choices": ("keep", "first", "drop", "merge"),
        "help": "byte-identical images: keep all, keep the first by name, drop all, or keep the"
        " first with the labels of all",
    },
    "val_per_class": {
        "type": int,
        "metavar": "K",
        "help": "put the first K images by name of each large enough class into the split 'val'",
    },
    "min_class_size": {
        "type": int,
        "metavar": "M",
        "help": "images that a class needs to give some to 'val'; by default K + 1",
    },
    "keep_val_duplicates": {
        "action": "store_true",
        "help": "keep duplicates of validation images in the other split, as in 2015",
    },
    "max_skipped": {
        "type": _share,
        "metavar": "SHARE",
        "help": "fail if more of the files are skipped, such as 1%%; by default more than 1%% is a"
        " warning",
    },
    "strict": {
        "action": "store_true",
        "help": "skip JPEGs with stray bytes or a damaged colour profile, instead of mending them",
    },
    "seed": {"type": int, "help": "seed of the order of the records"},
    "labels": {
        "metavar": "FILE|ilsvrc2012-val",
        "help": "labels of a SOURCE without classes: a TSV or CSV of file and class",
    },
    "layout": {
        "flag": "--as",
        "metavar": "LAYOUT",
        "help": "layout of SOURCE, if it is not recognised: " + ", ".join(LAYOUTS),
    },
    "class_level": {
        "type": int,
        "metavar": "N",
        "help": "the folders at this level are the classes; 1 is the top",
    },
    "source_splits": {
        "flag": "--splits",
        "type": _names,
        "metavar": "A,B",
        "help": "which splits of SOURCE to pack, if it has splits",
    },
    "val_fraction": {
        "flag": "--val",
        "type": _share,
        "metavar": "SHARE",
        "help": "put this share of the images, such as 5%%, into the split 'val', by their content",
    },
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from i21k.data.pack.pack import PackOptions

    add = parser.add_argument
    source = (
        "a folder or archive of class folders, a tar of synset tars, WebDataset or Parquet shards,"
        " a .rec, a table, or - for a list of files; docs/packing.md has all layouts"
    )
    add("source", metavar="SOURCE", nargs="+", help=source)
    add(
        "--out",
        metavar="DIR",
        type=Path,
        required=True,
        help="dataset directory; the split is added to those that are there",
    )
    defaults = arguments.defaults_of(PackOptions)
    for name, options in _OPTIONS.items():
        hidden = (None, False) if name not in ("max_skipped", "val_fraction") else (0.0, 1.0)
        shown = "" if defaults[name] in hidden else " (%(default)s)"
        settings = options | {"default": defaults[name], "help": options["help"] + shown}
        flag = settings.pop("flag", f"--{name.replace('_', '-')}")
        add(flag, dest=name, **settings)
    add(
        "--classes",
        metavar="LIST",
        help="classes to keep: a name (fall11), a file or a dataset; by default those in DIR,"
        " or all of the source",
    )
    add(
        "--overwrite",
        action="store_true",
        help="remove the dataset that is in DIR, and pack again",
    )
    add("--workers", type=int, metavar="N", help="worker processes; by default one per CPU")
    add(
        "--runner",
        choices=("local", "beam"),
        default="local",
        help="beam: on many machines; write Apache Beam's options after -- (%(default)s)",
    )
    arguments.add_json(parser)


def run(args: argparse.Namespace) -> int:
    from i21k.data.pack.pack import PackOptions, pack

    if args.beam_options and args.runner != "beam":
        raise UserError(
            f"{' '.join(args.beam_options)} is given after --, which is for --runner beam."
            " Add --runner beam, or remove these options."
        )
    options = PackOptions(
        **{field.name: getattr(args, field.name) for field in dataclasses.fields(PackOptions)}
    )
    has_begun = False
    try:
        with arguments.shown_progress(quiet=args.json) as show:

            def on_progress(progress: "Progress") -> None:
                nonlocal has_begun
                has_begun = True
                show(progress)

            report = pack(
                source=args.source,
                out=args.out,
                options=options,
                classes=arguments.class_list(args.classes) if args.classes else None,
                num_workers=args.workers,
                on_progress=on_progress,
                beam_options=args.beam_options if args.runner == "beam" else None,
                on_recognised=log.note,
                overwrite=args.overwrite,
            )
    except (KeyboardInterrupt, SystemExit):
        if has_begun:
            without = " without --overwrite" if args.overwrite else ""
            log.note(f"stopped. The same command{without} resumes from here.")
        else:
            log.note("stopped before an image was packed. Give the same command again.")
        raise
    if args.json:
        arguments.print_json(dataclasses.asdict(report))
    else:
        log.info(describe(report))
    if report.skipped_share > _WARN_SKIPPED:
        log.warning(
            f"{report.skipped_share:.1%} of the files were skipped. {_tables(report)} names each"
            " with the reason."
        )
    return 0


def _tables(report: "PackReport") -> str:
    """Return the tables of skipped files that are there."""
    paths = (Path(report.directory) / f"skipped-{split}.tsv" for split in report.splits)
    return ", ".join(str(path) for path in paths if path.exists())


def describe(report: "PackReport") -> str:
    """Return the text about a finished packing."""
    lines = []
    if report.already_complete:
        lines.append(f"{report.directory} is complete with these options. There is nothing to do.")
    for split, made in report.splits.items():
        lines.append(
            f"split {split}: {made.num_images:,} images of {report.num_classes:,} classes,"
            f" {made.num_bytes / 1e6:,.1f} MB in {made.num_shards:,} shards"
        )
    lines.append(
        f"read {report.num_read:,} files, {report.source_bytes / 1e6:,.1f} MB;"
        f" wrote {report.num_written:,} images"
    )
    lines += [f"skipped {count:,}: {reason}" for reason, count in report.skipped.items()]
    if report.skipped:
        lines.append(f"listed in {_tables(report)}")
    lines += [f"mended {count:,}: {oddity}" for oddity, count in report.odd.items()]
    lines += [f"dropped {count:,}: {reason}" for reason, count in report.dropped.items()]
    if report.resumed_after:
        lines.append(f"resumed after the first {report.resumed_after:,} files")
    if not report.already_complete:
        rate = (report.num_read - report.resumed_after) / report.seconds
        lines.append(f"{report.seconds:,.1f} s, {rate:,.0f} images/s")
    return "\n".join(lines)
