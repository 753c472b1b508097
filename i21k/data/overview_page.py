"""The page about a dataset, in one file: images with names, class sizes, duplicates, skips."""

import csv
import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from i21k.data.contact_sheet import Shown, random_images
from i21k.data.contents import Contents, class_facts, histogram
from i21k.data.overview import Overview, SplitOverview
from i21k.look.html import escape, page
from i21k.look.parts import card, cards, class_name, stats, table
from i21k.wordnet.taxonomy import wordnet

NUM_IMAGES = 60  # our choice
_THUMBNAIL_PX, _QUALITY = 240, 78
_MOST_EXAMPLES = 12  # our choice: files of each reason, and groups of duplicates
_NUM_ENDS = 12  # our choice: largest and smallest classes

Section = tuple[str, str, str]


def dataset_page(report: Overview, contents: Mapping[str, Contents], seed: int = 0) -> str:
    """Return the page.

    Args:
        report: of `overview`.
        contents: of `read_contents`.
        seed: of the choice of images.

    Raises:
        UserError: if a shard is missing.
    """
    directory = Path(report.directory)
    sections: list[Section] = [("splits", "Splits", _splits(report, contents))]
    sections.append(
        ("images", "Images", cards(map(_card, random_images(directory, NUM_IMAGES, seed))))
    )
    sections.append(("classes", "Classes", _classes(contents)))
    sections.append(("sizes", "Image sizes", _image_sizes(contents)))
    sections.append(("duplicates", "Duplicates", _duplicates(directory, report.splits)))
    sections.append(("skipped", "Skipped", _skipped(directory, report.splits)))
    sections.append(("packing", "Packing", _packing(report.splits)))
    entries = [
        ("images", f"{report.num_records:,}", f"{report.num_bytes / 1e6:,.1f} MB"),
        ("classes", f"{report.num_classes:,}", ""),
        ("splits", f"{len(report.splits)}", ", ".join(report.splits)),
    ]
    masthead = (
        f'<span class="label">Dataset</span><h1>{escape(report.name)}</h1>'
        f'<p class="soft">{escape(report.directory)}</p>{stats(entries)}'
    )
    foot = (
        f"<p>Class list hash {report.class_list_hash}. This file is complete: it loads nothing.</p>"
    )
    return page(f"{report.name}: dataset", masthead, sections, styles=[_STYLE], foot=foot)


_STYLE = """
.bar.wide { width: 16rem; } .bar .own { background: var(--accent); }
svg.spread { width: 100%; max-width: 34rem; height: 12rem; }
svg.spread text { font: 11px var(--sans); fill: var(--soft); }
svg.spread path { fill: none; stroke: var(--accent); stroke-width: 2; }
svg.spread line { stroke: var(--rule); }
"""


def _splits(report: Overview, contents: Mapping[str, Contents]) -> str:
    rows = []
    for name, split in report.splits.items():
        found = contents[name]
        facts = None if found.counts is None else class_facts(found.counts)
        rows.append(
            [
                escape(name),
                f"{split.num_records:,}",
                f"{split.num_bytes / 1e6:,.1f} MB",
                f"{split.num_shards:,}",
                f"{split.num_bytes / max(split.num_records, 1) / 1e3:,.1f} KB",
                "–" if facts is None else f"{facts['classes']:,}",
                f"{found.num_damaged:,}",
            ]
        )
    head = ["split", "images", "size", "shards", "per image", "classes with images", "damaged"]
    text = table(head, rows, range(1, len(head)), "splits")
    sampled = [name for name, found in contents.items() if found.counts is None]
    if sampled:
        text += (
            "<p>The dataset is large, so only a sample of its images was read, and the images of"
            " each class are not counted. <code>i21k info --all</code> reads everything.</p>\n"
        )
    return text


def _card(one: Shown) -> str:
    jpeg = None
    if one.image is not None:
        small = one.image.copy()
        small.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX))
        target = io.BytesIO()
        small.save(target, "JPEG", quality=_QUALITY, optimize=True)
        jpeg = target.getvalue()
    caption = f"<b>{class_name(one.name, one.class_id)}</b>"
    caption += f'<br><span class="soft">{escape(one.split)}</span>'
    caption += f'<span class="file" title="{escape(one.file)}">{escape(one.file)}</span>'
    return card(jpeg, caption, one.name)


def _classes(contents: Mapping[str, Contents]) -> str:
    """Return for each split how many images the classes have."""
    parts = []
    for name, found in contents.items():
        if found.counts is None or not found.counts.any():
            continue
        facts, bins = class_facts(found.counts), histogram(found.counts)
        most = max(b.num_classes for b in bins)
        rows = [
            [
                f"{b.low:,}" if b.low == b.high else f"{b.low:,} to {b.high:,}",
                f"{b.num_classes:,}",
                f'<span class="bar wide"><span class="own" style="width:'
                f'{100 * b.num_classes / most:.1f}%"></span></span>',
            ]
            for b in bins
        ]
        each = f"{facts['least']:,} each"
        if facts["most"] > facts["least"]:
            each = (
                f"from {facts['least']:,} to {facts['most']:,} each, half of the classes at most"
                f" {facts['median']:,.0f}"
            )
        text = (
            f"<h3>{escape(name)}</h3><p>{facts['classes']:,} of {len(found.counts):,} classes have"
            f" images: {each}.</p>\n"
            f"{_spread(found.counts)}"
            f"{table(['images', 'classes', ''], rows, (1,), f'class sizes of {name}')}"
        )
        order = np.argsort(-found.counts, kind="stable")
        if facts["most"] > facts["least"]:
            text += '<div class="columns">'
            for title, chosen in (
                ("Largest", order[:_NUM_ENDS]),
                ("Smallest", order[::-1][:_NUM_ENDS]),
            ):
                ends = [
                    [
                        class_name(wordnet().name(found.classes.ids[k]), found.classes.ids[k]),
                        f"{found.counts[k]:,}",
                    ]
                    for k in chosen.tolist()
                ]
                text += f"<div><h3>{title}</h3>{table(['class', 'images'], ends, (1,))}</div>"
            text += "</div>\n"
        parts.append(text)
    return "".join(parts) or "<p>The images of each class were not counted.</p>\n"


def _spread(counts: np.ndarray) -> str:
    """Return the sizes of all classes as a line, the largest first."""
    ordered = -np.sort(-counts)
    if len(ordered) < 2 or ordered[0] == ordered[-1]:
        return ""
    places = np.unique(np.linspace(0, len(ordered) - 1, 200).astype(int))
    points = [
        (50 + 440 * k / (len(ordered) - 1), 150 - 130 * ordered[k] / ordered[0]) for k in places
    ]
    line = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return (
        '<svg class="spread" viewBox="0 0 500 180" role="img" aria-label="class sizes">'
        '<line x1="50" y1="150" x2="490" y2="150"/><line x1="50" y1="20" x2="490" y2="20"/>'
        f'<text x="44" y="24" text-anchor="end">{ordered[0]:,}</text>'
        '<text x="44" y="154" text-anchor="end">0</text>'
        f'<text x="50" y="170">largest class</text>'
        f'<text x="490" y="170" text-anchor="end">class {len(ordered):,}</text>'
        f'<path d="M{line}"/></svg>\n'
    )


def _image_sizes(contents: Mapping[str, Contents]) -> str:
    rows = []
    for name, found in contents.items():
        if not len(found.sizes):
            continue
        short, ratio = found.sizes.min(axis=1), found.sizes[:, 0] / found.sizes[:, 1]
        common, times = np.unique(found.sizes, axis=0, return_counts=True)
        width, height = common[times.argmax()]
        rows.append(
            [
                escape(name),
                f"{len(short):,}",
                *(f"{np.quantile(short, q):,.0f}" for q in (0, 0.05, 0.5, 0.95, 1)),
                f"{np.median(ratio):.2f}",
                f"{width} × {height} ({times.max() / len(short):.0%})",
            ]
        )
    head = ["split", "images", "least", "5 %", "median", "95 %", "most", "width / height", "usual"]
    intro = "<p>The short side of the stored images, in pixels.</p>\n"
    return intro + table(head, rows, range(1, 8), "image sizes")


def _duplicates(directory: Path, splits: Mapping[str, SplitOverview]) -> str:
    """Return groups of byte-identical images."""
    parts = []
    for name in splits:
        rows = _read_table(directory / f"duplicates-{name}.tsv")
        groups = [
            list(group) for _, group in itertools.groupby(rows, key=lambda row: row.get("sha256"))
        ]
        if not groups:
            continue
        shown = [
            [
                "<br>".join(escape(row.get("file_name") or "") for row in group),
                "<br>".join(escape(row.get("fate") or "") for row in group),
            ]
            for group in groups[:_MOST_EXAMPLES]
        ]
        more = len(groups) - len(shown)
        parts.append(
            f"<h3>{escape(name)}</h3><p>{sum(map(len, groups)):,} files are duplicates, in"
            f" {len(groups):,} groups of equal bytes.</p>\n"
            + table(["files that are equal", "where they went"], shown)
            + (f"<p>{more:,} more groups are in duplicates-{escape(name)}.tsv.</p>" if more else "")
        )
    return "".join(parts) or "<p>No two files are known to be equal.</p>\n"


def _skipped(directory: Path, splits: Mapping[str, SplitOverview]) -> str:
    """Return how many files were skipped for which reason, with examples."""
    parts = []
    for name, split in splits.items():
        counts = split.left_out or {}
        if not counts:
            continue
        examples: dict[str, list[str]] = {}
        for prefix in ("left_out", "skipped"):  # the first one is of version one
            for row in _read_table(directory / f"{prefix}-{name}.tsv"):
                kind = (row.get("reason") or "").partition(":")[0]  # after it come details
                of_kind = examples.setdefault(kind, [])
                if len(of_kind) < _MOST_EXAMPLES:
                    where = filter(None, (row.get("source"), row.get("member")))
                    of_kind.append("/".join(where))
        rows = []
        for reason, n in sorted(counts.items(), key=lambda item: -item[1]):
            of_kind = examples.get(reason.partition(":")[0], [])
            rows.append([escape(reason), f"{n:,}", "<br>".join(map(escape, of_kind)) or "–"])
        parts.append(f"<h3>{escape(name)}</h3>{table(['reason', 'files', 'such as'], rows, (1,))}")
    return "".join(parts) or "<p>No file was skipped.</p>\n"


def _packing(splits: Mapping[str, SplitOverview]) -> str:
    rows: list[Sequence[str]] = []
    for name, split in splits.items():
        for what, entries in (
            ("option", split.options),
            ("count", split.counts),
            ("dropped", split.dropped),
        ):
            rows += [
                [escape(name), what, escape(key), escape(value)]
                for key, value in (entries or {}).items()
            ]
    if not rows:
        return "<p>It was not packed by i21k, so this is not known.</p>\n"
    return table(["split", "what", "key", "value"], rows)


def _read_table(path: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of a table of the packer; none if there is no such file."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        yield from csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
