"""Phase 3: write shards. A shard is one slice of every spill file, merged and sorted by place."""

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from i21k.data.format import shards
from i21k.data.format.records import encode_example
from i21k.data.pack import plan, spill
from i21k.data.pack.options import VAL_SPLIT
from i21k.data.pack.report import Progress
from i21k.data.pack.spill import Record
from i21k.data.pack.work_directory import WorkDirectory
from i21k.labels import ClassList

if TYPE_CHECKING:
    from i21k.data.pack.engine import Engine


@dataclasses.dataclass(frozen=True)
class ShardTask:
    """One shard to write. Those of `val` are written after all others."""

    work: WorkDirectory
    name: str
    split: str
    index: int
    num_shards: int
    slices_per_shard: int
    has_val: bool
    classes: ClassList


def write(
    engine: "Engine",
    work: WorkDirectory,
    name: str,
    made: plan.Plan,
    classes: ClassList,
    on_progress: Callable[[Progress], None],
) -> dict[str, tuple[shards.Shard, ...]]:
    """Write all shards that are not there yet into the working directory.

    Processes write them, since ArrayRecord's writer holds the GIL while it gives bytes to the
    kernel.
    """
    on_progress(Progress("writing", 0, made.num_bytes, 0))
    slice_bytes = made.num_bytes / (made.slices_per_shard * made.options.num_shards)
    num_images = num_bytes = 0
    written: dict[str, tuple[shards.Shard, ...]] = {}
    for split, num_shards in made.num_shards.items():  # `val` needs what the first split leaves
        tasks = [
            ShardTask(
                work=work,
                name=name,
                split=split,
                index=index,
                num_shards=num_shards,
                slices_per_shard=made.slices_per_shard,
                has_val=made.options.has_val,
                classes=classes,
            )
            for index in range(num_shards)
        ]
        written[split] = ()
        for shard in engine.map("write", write_shard, tasks, item_bytes=2 * slice_bytes):
            written[split] = (*written[split], shard)
            num_images, num_bytes = num_images + shard.num_records, num_bytes + shard.num_bytes
            total_bytes = max(made.num_bytes, num_bytes)
            on_progress(Progress("writing", num_bytes, total_bytes, num_images))
    assert num_images == sum(made.num_records.values())
    return written


def write_shard(task: ShardTask) -> shards.Shard:
    """Write one shard unless it is there; of the first split also what it leaves to `val`.

    Raises:
        OSError: if the disk is full, say.
    """
    file = shards.shard_name(task.name, task.split, task.index, task.num_shards)
    path, marker = task.work.shard(file), task.work.shard_marker(file)
    if marker.exists():
        shard = shards.Shard(**json.loads(marker.read_bytes()))
        places = (path, task.work.output / file)  # the latter if a commit was interrupted
        if any(place.exists() and place.stat().st_size == shard.num_bytes for place in places):
            return shard
    if task.split == VAL_SPLIT and task.has_val:
        shard = shards.write_shard(path, _encoded(_left_to_val(task), task.classes))
    else:
        to_val: list[Record] = []
        shard = shards.write_shard(path, _encoded(_from_slices(task, to_val), task.classes))
        if task.has_val:
            spill.write_records(task.work.val_records(task.index), to_val)
    spill.write_whole(marker, json.dumps(dataclasses.asdict(shard)).encode())
    return shard


def _encoded(records: Iterable[Record], classes: ClassList) -> Iterator[bytes]:
    for record in records:
        label = classes.label_of[record.class_id]
        yield encode_example(bytes(record.jpeg), label, record.file_name)


def _from_slices(task: ShardTask, to_val: list[Record]) -> Iterator[Record]:
    """Yield the records of a shard in order, with one slice in memory at a time.

    Those of the validation split are appended to `to_val` instead.
    """
    first = task.index * task.slices_per_shard
    for index in range(first, first + task.slices_per_shard):
        of_slice: list[Record] = []
        for piece in plan.pieces(task.work, index):
            for record, is_val, is_kept in zip(
                spill.read_records(piece.path, piece.start, piece.stop),
                piece.to_val.tolist(),
                piece.to_split.tolist(),
                strict=True,
            ):
                if is_val:
                    to_val.append(record._replace(jpeg=bytes(record.jpeg)))
                elif is_kept:
                    of_slice.append(record)
        yield from sorted(of_slice, key=_order)


def _left_to_val(task: ShardTask) -> Iterator[Record]:
    """Yield the records of a `val` shard in order, from what shards of the first split left."""
    first, stop = plan.slice_places(task.num_shards)[task.index : task.index + 2]
    made = plan.read(task.work)
    assert made is not None
    num_shards = made.num_shards[made.options.split]
    for index in range(first * num_shards >> 64, ((stop - 1) * num_shards >> 64) + 1):
        of_shard = (
            record
            for record in spill.read_records(task.work.val_records(index))
            if first <= record.place < stop
        )
        yield from sorted(of_shard, key=_order)


def _order(record: Record) -> tuple[int, int]:
    return record.place, record.sequence
