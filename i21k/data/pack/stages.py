"""The two stages of a packing run as functions of the working directory: a part of the source to runs, slices of all runs to a shard.

A room of its own since different engines run them: processes of this machine, or those of many. Each leaves files that are complete
when they have their names, so that doing one again after a crash does no harm and adds nothing.
"""

import concurrent.futures
import dataclasses
import itertools
import json
import math
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path

from i21k.data.format import shards
from i21k.data.format.records import encode_example
from i21k.data.pack import plan, spill
from i21k.data.pack.recoding import Recoded
from i21k.data.pack.spill import Gathered, Record
from i21k.data.sources.base import Member, Position, Source
from i21k.errors import UserError
from i21k.labels import ClassList

_ROW_BYTES = 300  # of memory, about, that a file takes of which only is known why it is left out
BATCH_BYTES = 1 << 20  # of pictures that travel to a worker together
_SAMPLES = 64  # batches that tell how large the result will be: about 600 pictures, two seconds of work; chosen here
PART_BYTES = (
    1 << 30
)  # of source that are read independently of others, chosen here: a minute or two of work


def check_classes(
    class_ids: Iterable[str], classes: ClassList | None, is_given: bool, source: Source
) -> None:
    """Refuse classes that are not in the list of the output directory, or a given list that has none of them.

    Raises:
        ValueError: naming one of them.
    """
    unknown = [
        class_id
        for class_id in class_ids
        if classes is not None and class_id not in classes.label_of
    ]
    if unknown and not (is_given and len(unknown) < len(tuple(class_ids))):
        raise UserError(
            f"source {source.path} has class {unknown[0]!r}, one of {len(unknown)} that are not among the {len(classes or ())} classes of "
            f"the {'given list; expected some that are' if is_given else 'dataset; expected no other'}; change --classes or --out"
        )


def batches(
    source: Source,
    after: Position,
    stop_entry: int | None,
    classes: ClassList | None,
    is_given: bool,
) -> Iterator[list[Member]]:
    """Gather members until they are worth a trip to a worker; those of other classes than the given ones lose their content.

    Raises:
        ValueError: if the source has another class than a dataset that is there.
    """
    batch: list[Member] = []
    num_bytes = 0
    for member in source.members(after, stop_entry):
        if classes is not None and member.class_id and member.class_id not in classes.label_of:
            if not is_given:
                check_classes((member.class_id,), classes, is_given, source)
            member = member._replace(
                data=b"", extent=None, left_out=f"class not in the list: {member.class_id}"
            )
        batch.append(member)
        num_bytes += member.num_bytes + 1_000
        if num_bytes >= BATCH_BYTES:
            yield batch
            batch, num_bytes = [], 0
    if batch:
        yield batch


@dataclasses.dataclass(frozen=True)
class Reading:
    """What is the same for all parts of a source that are read independently."""

    work: Path
    source: Source
    recode_batch: Callable[[list[Member]], list[Recoded]]
    seed: int
    run_bytes: int
    classes: ClassList | None
    is_given: bool


def parts(source: Source) -> list[tuple[Position, int | None]]:
    """Cut a source into parts of about `PART_BYTES`: from the beginning of an entry up to that of another."""
    begins = source.entries()
    every = max(1, math.ceil(PART_BYTES * len(begins) / max(source.num_bytes, 1)))
    firsts = begins[::every]
    return list(zip(firsts, [*(first.entry for first in firsts[1:]), None], strict=True))


def estimate_bytes(reading: Reading) -> int:
    """Return about how many bytes all pictures of a source will have, from a few batches at places spread evenly over it.

    What a tar takes beside its files counts as pictures: 1 % too much for photographs, a third for thumbnails.

    Raises:
        ValueError: as `Source.members` does.
    """
    source, begins = reading.source, reading.source.entries()
    firsts = begins[:: -(-len(begins) // _SAMPLES)]
    num_read = num_bytes = 0
    for first in firsts:
        some = batches(source, first, None, reading.classes, reading.is_given)
        for batch in itertools.islice(
            some, max(1, _SAMPLES // len(firsts))
        ):  # more where there is one place only
            num_read += sum(member.num_bytes for member in batch)
            num_bytes += sum(len(member.data) for member, _ in reading.recode_batch(batch))
    return round(source.num_bytes * num_bytes / max(num_read, 1))


def read_part(reading: Reading, part: tuple[Position, int | None]) -> None:
    """Read one part of a source into runs, unless that is done.

    Raises:
        ValueError, OSError: as `Source.members` and `write_runs` do.
    """
    first, stop_entry = part
    done = reading.work / f"read-{first.entry:08d}"
    if done.exists():
        return
    members = batches(reading.source, first, stop_entry, reading.classes, reading.is_given)
    for _ in write_runs(
        reading.work, map(reading.recode_batch, members), reading.seed, reading.run_bytes, lambda: 0
    ):
        pass
    spill.write_whole(done, b"")


def write_runs(
    work: Path,
    recoded: Iterable[list[Recoded]],
    seed: int,
    run_bytes: int,
    num_source_bytes: Callable[[], int],
) -> Generator[tuple[int, int]]:
    """Gather what the workers make into runs of about `run_bytes`, each written by a thread while the next is gathered.

    Close the generator to end early: it waits for the run that is being written.

    Args:
        work: working directory.
        recoded: the files of a source in order.
        seed: of the places.
        run_bytes: of pictures, and of what is noted of others, in memory before they are written; so much again is being written.
        num_source_bytes: tells how much of the source has been passed.

    Yields:
        After each batch the number of files and the bytes of pictures up to there.

    Raises:
        OSError: if the disk refuses.
    """
    known, records, digests = Gathered(), list[Record](), dict[int, bytes]()
    num_read = num_bytes = 0
    with concurrent.futures.ThreadPoolExecutor(1, "write-run") as writer:
        writing = writer.submit(lambda: None)
        for batch in recoded:
            for member, digest in batch:
                known.after = member.position
                known.num_read += 1
                if member.class_id:
                    known.class_ids.add(member.class_id)
                if member.left_out:
                    known.left_out.append((member.container, member.name, member.left_out))
                else:
                    sequence = member.position.sequence
                    records.append(
                        Record(
                            spill.place(member.file_name, seed),
                            sequence,
                            member.class_id,
                            member.name,
                            member.data,
                        )
                    )
                    digests[sequence] = digest
                    known.num_record_bytes += len(member.data)
            known.num_source_bytes = num_source_bytes()
            num_read += len(batch)
            yield num_read, num_bytes + known.num_record_bytes
            if known.num_record_bytes + len(known.left_out) * _ROW_BYTES >= run_bytes:
                writing.result()
                writing = writer.submit(spill.write_run, work, known, records, digests)
                num_bytes += known.num_record_bytes
                known, records, digests = Gathered(), [], {}
        writing.result()
        if known.num_read:
            spill.write_run(work, known, records, digests)


@dataclasses.dataclass(frozen=True)
class ShardTask:
    """One shard to write; those of `val` come after all others."""

    work: Path
    name: str
    split: str
    index: int
    num_shards: int
    slices_per_shard: int
    has_val: bool
    classes: ClassList


def shard_tasks(
    work: Path, name: str, made: plan.Plan, classes: ClassList
) -> list[list[ShardTask]]:
    """Return the shards of a plan, split by split; the second needs what the first leaves."""
    has_val = made.choices.val_per_class > 0
    return [
        [
            ShardTask(work, name, split, index, num_shards, made.slices_per_shard, has_val, classes)
            for index in range(num_shards)
        ]
        for split, num_shards in made.num_shards.items()
    ]


def write_shard(task: ShardTask) -> shards.Shard:
    """Write one shard into the working directory, unless it is there; of the first split also what the second takes from it.

    Raises:
        OSError: if the disk refuses.
    """
    path = task.work / shards.shard_name(task.name, task.split, task.index, task.num_shards)
    done = path.with_name(f"done-{path.name}.json")
    if done.exists():
        shard = shards.Shard(**json.loads(done.read_bytes()))
        places = (
            path,
            task.work.parent / path.name,
        )  # the latter if the run ended while shards were moved into place
        if any(place.exists() and place.stat().st_size == shard.num_bytes for place in places):
            return shard
    if task.split == plan.VAL_SPLIT and task.has_val:
        shard = shards.write_shard(path, _encoded(_from_parts(task), task.classes))
    else:
        to_val: list[Record] = []
        shard = shards.write_shard(path, _encoded(_from_slices(task, to_val), task.classes))
        if task.has_val:
            spill.write_records(_part(task.work, task.index), to_val)
    spill.write_whole(done, json.dumps(dataclasses.asdict(shard)).encode())
    return shard


def forget_shards(work: Path) -> None:
    """Remove all shards, also those moved into place or not yet noted as done, so that they are written anew by another plan."""
    for done in work.glob("done-*.json"):
        (work.parent / done.name.removeprefix("done-").removesuffix(".json")).unlink(
            missing_ok=True
        )
    for path in (
        *work.glob("*.array_record-*"),
        *work.glob("part-*"),
    ):  # what they are noted by too
        path.unlink()


def _encoded(records: Iterable[Record], classes: ClassList) -> Iterator[bytes]:
    for record in records:
        yield encode_example(
            bytes(record.jpeg), classes.label_of[record.class_id], record.file_name
        )


def _from_slices(task: ShardTask, to_val: list[Record]) -> Iterator[Record]:
    """Yield the records of a shard in order, one slice in memory at a time; those of the validation split go aside."""
    for index in range(
        task.index * task.slices_per_shard, (task.index + 1) * task.slices_per_shard
    ):
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


def _from_parts(task: ShardTask) -> Iterator[Record]:
    """Yield the records of a validation shard in order from what the shards of the first split left."""
    first, stop = plan.slice_places(task.num_shards)[task.index : task.index + 2]
    made = plan.read(task.work)
    assert made is not None
    num_parts = made.num_shards[made.choices.split]
    for part in range(first * num_parts >> 64, ((stop - 1) * num_parts >> 64) + 1):
        of_part = (
            record
            for record in spill.read_records(_part(task.work, part))
            if first <= record.place < stop
        )
        yield from sorted(of_part, key=_order)


def _order(record: Record) -> tuple[int, int]:
    return record.place, record.sequence


def _part(work: Path, index: int) -> Path:
    return work / f"part-{index:05d}.records"
