"""What the packer reports: progress while it works, and counts at the end."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

from i21k.data.format.manifest import SplitManifest
from i21k.data.sources.base import IGNORED, NO_IMAGE_NAME
from i21k.labels import ClassList


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a packing is.

    Bytes are those of the source while it is read, and those of the stored images afterwards.
    """

    phase: Literal["reading", "planning", "writing"]
    num_bytes: int
    total_bytes: int
    num_images: int


@dataclasses.dataclass(frozen=True)
class SplitReport:
    """What was written of one split."""

    num_images: int
    num_shards: int
    num_bytes: int  # of the shards


@dataclasses.dataclass(frozen=True)
class PackReport:
    """What became of the files of a source.

    `num_read` = `num_written` + `num_skipped` + `num_dropped`.
    """

    directory: str
    name: str
    layout: str  # of the source, as it was recognised
    splits: dict[str, SplitReport]
    num_classes: int
    class_list_hash: str
    num_read: int
    num_written: int
    num_skipped: int
    num_dropped: int
    skipped: dict[str, int]  # by reason: files that hold no image that can be stored
    dropped: dict[str, int]  # by reason: duplicates of images that were written
    source_bytes: int
    seconds: float
    resumed_after: int  # files that an earlier, interrupted packing had read
    already_complete: bool  # then nothing was done; the counts are those of the earlier packing
    odd: dict[str, int] = dataclasses.field(default_factory=dict)  # stored images, by oddity

    @property
    def skipped_share(self) -> float:
        """Share of the files that were skipped and that the user may have wanted."""
        return skipped_share(self.skipped, self.num_read)


# Skipped because the user said so, or because no user wants them.
_NOT_MISSED = frozenset(
    {IGNORED, NO_IMAGE_NAME, "class not in the list", "too small", "no image beside it"}
)


def skipped_share(skipped: Mapping[str, int], num_read: int) -> float:
    """Return the share of files that were skipped, without those that nobody misses."""
    ignored = skipped.get(IGNORED, 0)
    num_missed = sum(count for reason, count in skipped.items() if reason not in _NOT_MISSED)
    return num_missed / max(num_read - ignored, 1)


def merge_reports(reports: Sequence[PackReport], layout: str) -> PackReport:
    """Return one report about the splits of a source."""
    last = reports[-1]
    if len(reports) == 1:
        return dataclasses.replace(last, layout=layout)
    skipped, dropped, odd = (collections.Counter[str]() for _ in range(3))
    for report in reports:
        odd.update(report.odd)
        skipped.update(report.skipped)
        dropped.update(report.dropped)
    totals = {
        name: sum(getattr(report, name) for report in reports)
        for name in (
            "num_read",
            "num_written",
            "num_skipped",
            "num_dropped",
            "source_bytes",
            "seconds",
            "resumed_after",
        )
    }
    return dataclasses.replace(
        last,
        layout=layout,
        splits={split: made for report in reports for split, made in report.splits.items()},
        skipped=dict(sorted(skipped.items())),
        dropped=dict(sorted(dropped.items())),
        odd=dict(sorted(odd.items())),
        already_complete=all(report.already_complete for report in reports),
        **totals,
    )


def make_report(
    directory: str,
    name: str,
    layout: str,
    splits: dict[str, SplitManifest],
    classes: ClassList,
    seconds: float,
    resumed_after: int = 0,
    *,
    already_complete: bool,
) -> PackReport:
    """Return the report about splits, from their entries in the manifest."""
    entry = next(iter(splits.values()))
    skipped = entry.counts["skipped" if "skipped" in entry.counts else "left_out"]  # of version one
    dropped = entry.counts["dropped"]
    return PackReport(
        directory=directory,
        name=name,
        layout=layout,
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
        num_skipped=sum(skipped.values()),
        num_dropped=sum(dropped.values()),
        skipped=skipped,
        dropped=dropped,
        source_bytes=entry.options["source_bytes"],
        seconds=seconds,
        resumed_after=resumed_after,
        already_complete=already_complete,
        odd=entry.counts.get("odd", {}),
    )
