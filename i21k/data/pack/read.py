"""Phase 1: read a source, recode its images, and write them into spill files.

A source is read in parts. Reading a part again after a crash begins behind its last complete spill
file, and a part that was read is not read again.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import itertools
import math
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from i21k.data.pack import spill
from i21k.data.pack.recoding import Recoded
from i21k.data.pack.report import Progress
from i21k.data.pack.spill import About, Record
from i21k.data.pack.work_directory import WorkDirectory
from i21k.data.sources.base import START, ImageSource, Member, Position
from i21k.errors import UserError
from i21k.labels import ClassList

if TYPE_CHECKING:
    from i21k.data.pack.engine import Engine

BATCH_BYTES = 1 << 20  # of images that are sent to a worker together
PART_BYTES = 1 << 30  # of source in a part; our choice: a minute or two of work
_SKIPPED_BYTES = 300  # of memory, about, for a skipped file
_SAMPLES = 64  # batches for an estimate: about 600 images, two seconds of work; our choice

Batches = Iterable[list[Member]]
RecodeAll = Callable[[Batches], Iterator[list[Recoded]]]


@dataclasses.dataclass(frozen=True)
class Reading:
    """What is the same for all parts of a source.

    Args:
        work: where spill files are written.
        source: to read.
        recode_batch: `recoding.recode_batch` with its options.
        seed: of the places.
        classes: the class list, if there is one already.
        is_given: whether the user gave it; then files of other classes are skipped. Otherwise the
            dataset has it, and another class is an error.
    """

    work: WorkDirectory
    source: ImageSource
    recode_batch: Callable[[list[Member]], list[Recoded]]
    seed: int
    classes: ClassList | None
    is_given: bool


class Part(NamedTuple):
    """A part of a source: from the beginning of an entry up to another entry, or to the end."""

    first: Position
    stop_entry: int | None


class SoFar(NamedTuple):
    """How much of a part is read, including what was read before a restart."""

    num_read: int
    num_record_bytes: int


WHOLE = Part(START, None)


def read(engine: "Engine", reading: Reading, on_progress: Callable[[Progress], None]) -> None:
    """Read everything that is not in a spill file yet.

    Raises:
        UserError: if the source is damaged, or has no image that can be packed.
        OSError: if the disk is full, say.
    """
    engine.read(reading, on_progress)
    spill.remove_incomplete(reading.work.path)
    files = reading.work.spill_files()
    if not any(file.num_records for file in files):
        kinds = collections.Counter(
            reason.partition(":")[0] for file in files for _, _, reason in file.skipped()
        )
        why = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        raise UserError(
            f"Source {reading.source.path} holds no images that can be packed "
            f"({why or 'it has no files'}). {reading.source.advice(kinds)}"
        )


def cut_into_parts(source: ImageSource) -> list[Part]:
    """Cut a source into parts of about `PART_BYTES`."""
    begins = source.entries()
    every = max(1, math.ceil(PART_BYTES * len(begins) / max(source.num_bytes, 1)))
    firsts = begins[::every]
    stops = [*(first.entry for first in firsts[1:]), None]
    return [Part(first, stop) for first, stop in zip(firsts, stops, strict=True)]


def read_before(reading: Reading, part: Part) -> tuple[Position, SoFar]:
    """Return behind which file to read on in a part, and what was read before."""
    files = spill.find(reading.work.path, part.first.entry, part.stop_entry)
    so_far = SoFar(
        sum(file.about.num_read for file in files),
        sum(file.about.num_record_bytes for file in files),
    )
    if not files:
        return part.first, so_far
    reading.source.num_bytes_read = files[-1].about.num_source_bytes
    return files[-1].about.after, so_far


def read_part(
    reading: Reading, part: Part, recode_all: RecodeAll, spill_bytes: int
) -> Generator[SoFar]:
    """Read one part of a source into spill files, unless that is done.

    Close the generator to end early: it waits for the spill file that is being written.

    Args:
        reading: what is the same for all parts.
        part: to read.
        recode_all: applies `reading.recode_batch` to batches and keeps their order.
        spill_bytes: size of a spill file in memory; a second one may be being written.

    Yields:
        After each batch how much is read.

    Raises:
        UserError, OSError: as `ImageSource.members` and `spill.write_spill_file` do.
    """
    done = reading.work.read_marker(part.first.entry)
    if done.exists():
        return
    after, before = read_before(reading, part)
    batches = _batches(reading, after, part.stop_entry)
    with contextlib.closing(_spill(reading, recode_all(batches), spill_bytes)) as spilled:
        for num_read, num_bytes in spilled:
            yield SoFar(before.num_read + num_read, before.num_record_bytes + num_bytes)
    spill.write_whole(done, b"")


def estimate_bytes(reading: Reading) -> int:
    """Estimate how many bytes all stored images will have, from batches spread over the source.

    The headers of a tar count as images: 1 % too much for photographs, a third for thumbnails.

    Raises:
        UserError: as `ImageSource.members` does.
    """
    source, begins = reading.source, reading.source.entries()
    firsts = begins[:: -(-len(begins) // _SAMPLES)]
    num_batches = max(1, _SAMPLES // len(firsts))  # more where there is only one place to begin
    num_read = num_bytes = 0
    for first in firsts:
        for batch in itertools.islice(_batches(reading, first, None), num_batches):
            num_read += sum(member.num_bytes for member in batch)
            num_bytes += sum(len(member.data) for member, *_ in reading.recode_batch(batch))
    return round(source.num_bytes * num_bytes / max(num_read, 1))


def check_classes(
    class_ids: Iterable[str], classes: ClassList | None, is_given: bool, source: ImageSource
) -> None:
    """Refuse classes that the dataset does not have, or a given list that has none of them.

    Raises:
        UserError: naming one of them.
    """
    class_ids = tuple(class_ids)
    unknown = [c for c in class_ids if classes is not None and c not in classes.label_of]
    if unknown and not (is_given and len(unknown) < len(class_ids)):
        of_what = "given list; expected some that are" if is_given else "dataset; expected no other"
        advice = (
            "Change --classes or --out."
            if is_given
            else ("Give another --out, or --overwrite to pack all splits again, or --classes.")
        )
        example = classes.ids[0] if classes else ""
        raise UserError(
            f"Source {source.path} has class {unknown[0]!r}, one of {len(unknown)} that are not "
            f"among the {len(classes or ())} classes (such as {example!r}) of the {of_what}. "
            f"{advice}"
        )


def _batches(reading: Reading, after: Position, stop_entry: int | None) -> Iterator[list[Member]]:
    """Gather members into batches; those of classes that are not in a given list lose their data.

    Raises:
        UserError: if the source has another class than the dataset.
    """
    batch: list[Member] = []
    num_bytes = 0
    classes = reading.classes
    for member in reading.source.members(after, stop_entry):
        if classes is not None and member.class_id and member.class_id not in classes.label_of:
            if not reading.is_given:
                check_classes((member.class_id,), classes, reading.is_given, reading.source)
            reason = f"class not in the list: {member.class_id}"
            member = member._replace(data=b"", extent=None, skipped=member.skipped or reason)
        batch.append(member)
        num_bytes += member.num_bytes + 1_000
        if num_bytes >= BATCH_BYTES:
            yield batch
            batch, num_bytes = [], 0
    if batch:
        yield batch


def _spill(
    reading: Reading, recoded: Iterable[list[Recoded]], spill_bytes: int
) -> Generator[tuple[int, int]]:
    """Gather recoded files into spill files.

    A thread writes one while the next is gathered.

    Yields:
        After each batch the number of files and the bytes of images so far.
    """
    about, records, digests = About(), list[Record](), dict[int, bytes]()
    num_read = num_bytes = 0
    directory = reading.work.path
    with concurrent.futures.ThreadPoolExecutor(1, "write-spill-file") as writer:
        writing = writer.submit(lambda: None)
        for batch in recoded:
            for member, digest, oddity in batch:
                about.after = member.position
                about.num_read += 1
                if member.class_id:
                    about.class_ids.add(member.class_id)
                if member.skipped:
                    about.skipped.append((member.container, member.name, member.skipped))
                else:
                    sequence = member.position.sequence
                    place = spill.place(member.file_name, reading.seed)
                    records.append(
                        Record(place, sequence, member.class_id, member.name, member.data)
                    )
                    digests[sequence] = digest
                    if oddity:
                        about.odd[oddity] = about.odd.get(oddity, 0) + 1
                    about.num_record_bytes += len(member.data)
            about.num_source_bytes = reading.source.num_bytes_read
            num_read += len(batch)
            yield num_read, num_bytes + about.num_record_bytes
            if about.num_record_bytes + len(about.skipped) * _SKIPPED_BYTES >= spill_bytes:
                writing.result()
                writing = writer.submit(spill.write_spill_file, directory, about, records, digests)
                num_bytes += about.num_record_bytes
                about, records, digests = About(), [], {}
        writing.result()
        if about.num_read:
            spill.write_spill_file(directory, about, records, digests)
