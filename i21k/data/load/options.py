"""What determines a batch, and how many threads or processes build it."""

import dataclasses
import math
from typing import Literal

from i21k.data.load import slots
from i21k.errors import UserError
from i21k.machine import available_bytes, num_cpus

AUTO = -1
_MANY_RECORDS = 100_000  # our choice: a minute of loading, so that a second to start is little
_WORKER_BYTES = 300 << 20  # of a process; 208 MiB at 14 million records, and some to spare


@dataclasses.dataclass(frozen=True)
class LoaderOptions:
    """Fields up to `max_bad_fraction` determine the batches; the others only who builds them."""

    batch_size: int  # of all hosts together
    image_size: int  # px
    # A random region of min_area to 100 % of the area; a random window; the central window.
    crop: Literal["region", "plain", "centre"] = "region"
    crop_fraction: float = 0.875  # side of a window over the image's short side: 224 of 256 px
    min_area: float = 0.08  # of a region, as a fraction of the image
    mirror: bool = True  # mirror half of the images
    # The half: drawn anew each epoch; or by a hash of the record, and the other half each epoch.
    mirror_order: Literal["random", "alternating"] = "random"
    mirror_on: Literal["device", "host"] = "device"  # the host mirrors itself and sets no flag
    # Over all records; in spans of adjacent records, for slow disks; one epoch as stored.
    order: Literal["global", "windowed", "stored"] = "global"
    seed: int = 0
    on_bad_record: Literal["stop", "skip"] = "stop"  # skip: use the next good record instead
    max_bad_fraction: float = 0.001  # of the split's records; stop when more are skipped
    threads: int = 0  # of this process that build batches; 0: one per CPU
    # Processes that build batches instead, one batch each at a time; AUTO: `choose_workers`.
    workers: int = 0
    max_wait_s: int = 900  # for a batch, until reading is given up; 0: for ever
    host: int = 0
    num_hosts: int = 1

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.batch_size % self.num_hosts:
            raise UserError(
                f"batch_size is {self.batch_size}; "
                f"expected a positive multiple of the {self.num_hosts} hosts"
            )
        for name, allowed in (
            ("crop", ("region", "plain", "centre")),
            ("mirror_on", ("device", "host")),
            ("mirror_order", ("random", "alternating")),
            ("order", ("global", "windowed", "stored")),
            ("on_bad_record", ("stop", "skip")),
        ):
            if (value := getattr(self, name)) not in allowed:
                *others, last = map(repr, allowed)
                raise UserError(f"{name} is {value!r}; expected {', '.join(others)} or {last}")
        if self.on_bad_record == "skip" and self.order == "stored":
            raise UserError(
                "on_bad_record is 'skip' in stored order; expected 'stop', "
                "because an evaluation counts every image once"
            )
        if not 0 < self.crop_fraction <= 1 or not 0 < self.min_area <= 1:
            raise UserError(
                f"crop_fraction is {self.crop_fraction}, min_area {self.min_area}; "
                "expected both in (0, 1]"
            )


def eval_options(
    batch_size: int,
    image_size: int,
    crop_fraction: float,
    num_devices: int = 1,
    threads: int = 0,
    workers: int = 0,
) -> LoaderOptions:
    """Return how images are loaded for evaluation: the central crop, in the order of the shards.

    Args:
        batch_size: of all devices. It is rounded up to a multiple of their number; this adds
            padding and changes no result.
        image_size: in pixels.
        crop_fraction: side of the crop over the short side of the image.
        num_devices: that share a batch.
        threads: as in `LoaderOptions`.
        workers: as in `LoaderOptions`.
    """
    return LoaderOptions(
        batch_size=-(-batch_size // num_devices) * num_devices,
        image_size=image_size,
        crop="centre",
        crop_fraction=crop_fraction,
        mirror=False,
        order="stored",
        threads=threads,
        workers=workers,
    )


def batch_shape(options: LoaderOptions) -> tuple[int, int, int, int]:
    """Return the shape of one host's part of the images of a batch."""
    return options.batch_size // options.num_hosts, options.image_size, options.image_size, 3


def choose_workers(options: LoaderOptions, num_records: int) -> LoaderOptions:
    """Return the options with a number of processes, if it is `AUTO`.

    Processes build more batches than as many threads (`docs/results.md`), but they take a second to
    start and each needs memory. So a large split gets one per CPU if that takes at most half of the
    memory that is available, and another split gets none. The batches are the same.
    """
    if options.workers != AUTO:
        return options
    num_workers = num_threads(options.threads)
    needed = num_workers * _WORKER_BYTES + slots.memory_bytes(num_workers, batch_shape(options))
    needed *= options.num_hosts  # all may be on this machine
    if (
        num_workers < 2
        or num_records < _MANY_RECORDS
        or options.order == "windowed"  # each process would hold and read every window
        or needed > available_bytes() // 2
    ):
        num_workers = 0
    return dataclasses.replace(options, workers=num_workers)


def num_threads(threads: int) -> int:
    """Return the number of loader threads; 0 means one per CPU."""
    return threads or num_cpus()


def describe_workers(options: LoaderOptions) -> str:
    """Return who builds the batches and the most memory that they use, however long the run."""
    bytes_per_batch = math.prod(batch_shape(options))
    if options.workers:
        who = f"{options.workers} loader processes"
        num_bytes = slots.memory_bytes(options.workers, batch_shape(options))
    else:
        threads = num_threads(options.threads)
        who = f"{threads} loader threads"
        num_bytes = (threads + 2 + slots.HELD) * bytes_per_batch
    return (
        f"{who}, batches of {bytes_per_batch / 2**20:,.1f} MiB: "
        f"at most {num_bytes / 2**20:,.0f} MiB"
    )
