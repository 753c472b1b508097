"""Which picture goes where, decided when all are known and before a shard is written: splits, copies, cuts. A room of its own as
the only one that looks at all pictures together.

What it keeps of a picture while it decides is 17 bytes (8 of its digest, twice while they are sorted, and 1 for the verdict), and of
those that have copies about 350 more: 1.5 GB at 14.2 million pictures if a tenth are copies of another tenth.
"""

import bisect
import collections
import dataclasses
import io
import itertools
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, UInt8, UInt64

from i21k.data.pack import spill
from i21k.data.pack.spill import Run
from i21k.errors import UserError
from i21k.files import replaced

VAL_SPLIT = "val"
SLICE_BYTES = 256 << 20  # of records in memory while a shard is written, chosen here
TABLES = ("left_out-{}.tsv", "duplicates-{}.tsv")  # of a split
_FILE = "plan.json"
_TO_SPLIT, _TO_VAL, _IS_COPY, _IS_VAL_COPY = range(4)
DROPPED = {_IS_COPY: "copy of another picture", _IS_VAL_COPY: "copy of a validation picture"}

Verdicts = UInt8[np.ndarray, " n"]


@dataclasses.dataclass(frozen=True)
class Choices:
    """What a plan depends on beside the runs."""

    split: str
    num_shards: int
    duplicates: Literal["keep", "first", "drop"]
    val_per_class: int
    min_class_size: int
    keep_val_copies: bool


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is to be written. Beside it lie the verdict on each record and the cuts of each run, as arrays on disk."""

    choices: Choices
    num_shards: dict[str, int]  # of each split
    num_records: dict[str, int]
    num_read: int
    num_bytes: int  # of all records in all runs
    slices_per_shard: int
    left_out: dict[str, int]  # by reason
    dropped: dict[str, int]  # by reason
    class_ids: tuple[str, ...]  # that the source has, sorted


def make(
    work: Path, choices: Choices, on_look: Callable[[float], None] = lambda share: None
) -> Plan:
    """Decide from the complete runs in `work`, and write plan, verdicts, cuts and the two tables there, the plan last.

    Args:
        work: working directory.
        choices: what to decide by.
        on_look: called with the share that is done, each time a run has been looked at: 14.2 million pictures take most of a minute.

    Raises:
        ValueError: if no class is large enough to give pictures to the validation split, or none remains for the other.
    """
    all_runs = spill.find_runs(work)
    num_looks, num_looked = len(all_runs) * (4 if choices.val_per_class else 3), 0

    def look_at(these: Sequence[Run]) -> Iterator[Run]:
        nonlocal num_looked
        for run in these:
            yield run
            num_looked += 1
            on_look(num_looked / num_looks)

    verdicts = [np.full(run.num_records, _TO_SPLIT, np.uint8) for run in all_runs]
    copies = _find_copies(all_runs, look_at)
    _judge_copies(copies, verdicts, choices.duplicates)
    if choices.val_per_class:
        _choose_val(look_at(all_runs), verdicts, choices)
        if not choices.keep_val_copies:
            _judge_val_copies(copies, verdicts)
    joined = np.concatenate(verdicts)
    counts = np.bincount(joined, minlength=4).tolist()
    if not counts[_TO_SPLIT]:
        raise UserError(
            f"no picture remains for split {choices.split!r}: of {len(joined)}, {counts[_TO_VAL]} go to {VAL_SPLIT!r}, and "
            f"{counts[_IS_COPY] + counts[_IS_VAL_COPY]} are dropped as copies; change --duplicates or --val-per-class"
        )
    left_out_table, duplicates_table = (work / table.format(choices.split) for table in TABLES)
    _write_table(
        left_out_table,
        ("source", "member", "reason"),
        (row for run in all_runs for row in run.left_out()),
    )
    _write_table(
        duplicates_table, ("sha256", "file_name", "fate"), _fates(copies, verdicts, choices.split)
    )
    num_shards, num_records = (
        {choices.split: choices.num_shards},
        {choices.split: counts[_TO_SPLIT]},
    )
    if choices.val_per_class:
        num_records[VAL_SPLIT] = counts[_TO_VAL]
        num_shards[VAL_SPLIT] = math.ceil(
            choices.num_shards * counts[_TO_VAL] / (counts[_TO_SPLIT] + counts[_TO_VAL])
        )
    num_bytes = sum(run.about.num_record_bytes for run in all_runs)
    slices_per_shard = max(1, math.ceil(num_bytes / choices.num_shards / SLICE_BYTES))
    bounds = slice_places(choices.num_shards * slices_per_shard)
    _save(work / "verdicts.npy", joined)
    _save(work / "cuts.npy", np.stack([_cuts(run, bounds) for run in look_at(all_runs)]))
    left_out = collections.Counter(
        reason.partition(":")[0] for run in all_runs for _, _, reason in run.left_out()
    )
    plan = Plan(
        choices=choices,
        num_shards=num_shards,
        num_records=num_records,
        num_read=sum(run.about.num_read for run in all_runs),
        num_bytes=num_bytes,
        slices_per_shard=slices_per_shard,
        left_out=dict(sorted(left_out.items())),
        dropped={reason: counts[verdict] for verdict, reason in DROPPED.items() if counts[verdict]},
        class_ids=tuple(sorted(set[str]().union(*(run.about.class_ids for run in all_runs)))),
    )
    assert plan.num_read == sum(num_records.values()) + left_out.total() + sum(
        plan.dropped.values()
    )
    spill.write_whole(work / _FILE, json.dumps(dataclasses.asdict(plan)).encode())
    on_look(1.0)
    return plan


def read(work: Path) -> Plan | None:
    """Return the plan that was made in `work`, if there is one."""
    if not (work / _FILE).exists():
        return None
    content = json.loads((work / _FILE).read_bytes())
    return Plan(
        **content
        | {"choices": Choices(**content["choices"]), "class_ids": tuple(content["class_ids"])}
    )


def forget(work: Path) -> None:
    """Remove the plan and its tables, also those moved into place already, so that another can be made of the same runs."""
    if (made := read(work)) is not None:
        for table in TABLES:
            (work.parent / table.format(made.choices.split)).unlink(missing_ok=True)
    for path in (
        *work.glob(TABLES[0].format("*")),
        *work.glob(TABLES[1].format("*")),
        work / _FILE,
    ):
        path.unlink(missing_ok=True)


# ------------------------------------------------------------------------------------------------------------------ slices


def slice_places(num_slices: int) -> list[int]:
    """Return the place at which each of `num_slices` equal parts of [0, 2**64) begins, and 2**64."""
    return [-(-(index << 64) // num_slices) for index in range(num_slices + 1)]


class Piece(NamedTuple):
    """Where the records of a slice lie in a run, and what becomes of each."""

    path: Path
    start: int  # byte
    stop: int
    to_val: Bool[np.ndarray, " n"]
    to_split: Bool[np.ndarray, " n"]


def pieces(work: Path, index: int) -> Iterator[Piece]:
    """Yield the pieces of one slice, one of each run."""
    verdicts, cuts = (
        np.load(work / "verdicts.npy", mmap_mode="r"),
        np.load(work / "cuts.npy", mmap_mode="r"),
    )
    first = 0
    for path, cut in zip(sorted(work.glob("run-*.records")), cuts, strict=True):
        (start_record, stop_record), (start, stop) = cut[:, index : index + 2].tolist()
        of_piece = verdicts[first + start_record : first + stop_record]
        yield Piece(path, start, stop, of_piece == _TO_VAL, of_piece == _TO_SPLIT)
        first += int(cut[0, -1])


def _cuts(run: Run, bounds: list[int]) -> Int64[np.ndarray, "2 m"]:
    """Return the records and the bytes of a run before each bound; the last bound is no uint64 and stands behind everything."""
    records, num_bytes = run.cut(np.array(bounds[:-1], np.uint64))
    return np.stack(
        [np.append(records, run.num_records), np.append(num_bytes, run.about.num_record_bytes)]
    )


# ------------------------------------------------------------------------------------------------------------------ copies


class _Copy(NamedTuple):
    """One of several pictures with the same original bytes."""

    name: bytes
    sequence: int
    run: int
    record: int


_Copies = dict[bytes, list[_Copy]]  # by digest; each group by name


def _find_copies(all_runs: list[Run], look_at: Callable[[Sequence[Run]], Iterator[Run]]) -> _Copies:
    """Return all groups of pictures with equal digests. The first 8 bytes tell which can have copies, so that few names are read."""
    keys = np.sort(np.concatenate([np.zeros(0, np.uint64), *map(_keys, look_at(all_runs))]))
    repeated = np.unique(keys[1:][keys[1:] == keys[:-1]])
    del keys
    groups = collections.defaultdict(list)
    for number, run in enumerate(look_at(all_runs) if len(repeated) else ()):
        at = np.searchsorted(repeated, keys_of_run := _keys(run)).clip(max=len(repeated) - 1)
        suspects = np.flatnonzero(repeated[at] == keys_of_run).tolist()
        if suspects:
            names, sequences, digests = run.file_names(), run.sequences(), run.digests()
            for record in suspects:
                groups[digests[record].tobytes()].append(
                    _Copy(names[record], int(sequences[record]), number, record)
                )
    return {digest: sorted(group) for digest, group in sorted(groups.items()) if len(group) > 1}


def _keys(run: Run) -> UInt64[np.ndarray, " n"]:
    return np.ascontiguousarray(run.digests()[:, :8]).view(np.uint64).ravel()


def _judge_copies(copies: _Copies, verdicts: list[Verdicts], policy: str) -> None:
    num_kept = {"keep": None, "first": 1, "drop": 0}[policy]
    if num_kept is not None:
        for group in copies.values():
            for copy in group[num_kept:]:
                verdicts[copy.run][copy.record] = _IS_COPY


def _judge_val_copies(copies: _Copies, verdicts: list[Verdicts]) -> None:
    """Let no picture stay that is also in the validation split."""
    for group in copies.values():
        if any(verdicts[copy.run][copy.record] == _TO_VAL for copy in group):
            for copy in group:
                if verdicts[copy.run][copy.record] == _TO_SPLIT:
                    verdicts[copy.run][copy.record] = _IS_VAL_COPY


def _fates(copies: _Copies, verdicts: list[Verdicts], split: str) -> Iterator[tuple[str, str, str]]:
    fates = {_TO_SPLIT: split, _TO_VAL: VAL_SPLIT} | {
        verdict: f"dropped: {reason}" for verdict, reason in DROPPED.items()
    }
    for digest, group in copies.items():
        for copy in group:
            yield (
                digest.hex(),
                copy.name.decode("utf-8", "surrogateescape"),
                fates[int(verdicts[copy.run][copy.record])],
            )


# -------------------------------------------------------------------------------------------------------------- validation


def _choose_val(all_runs: Iterable[Run], verdicts: list[Verdicts], choices: Choices) -> None:
    """Give the first pictures by name of each large enough class to the validation split."""
    sizes: collections.Counter[str] = collections.Counter()
    first: dict[str, list[_Copy]] = collections.defaultdict(list)
    for number, (run, verdict) in enumerate(zip(all_runs, verdicts, strict=True)):
        class_ids = sorted(run.about.class_ids)
        there = verdict == _TO_SPLIT
        columns = zip(
            run.file_names(),
            run.sequences().tolist(),
            run.classes().tolist(),
            there.tolist(),
            strict=True,
        )
        for record, (name, sequence, class_number, is_there) in enumerate(columns):
            if is_there:
                class_id = class_ids[class_number]
                sizes[class_id] += 1
                bisect.insort(first[class_id], _Copy(name, sequence, number, record))
                del first[class_id][choices.val_per_class :]
    if not any(size >= choices.min_class_size for size in sizes.values()):
        raise UserError(
            f"val_per_class takes {choices.val_per_class} of each class with at least {choices.min_class_size} pictures, but the largest "
            f"class has {max(sizes.values(), default=0)}; expected fewer, so that some remain; change --val-per-class or --min-class-size"
        )
    for chosen in itertools.chain.from_iterable(
        first[class_id] for class_id, size in sizes.items() if size >= choices.min_class_size
    ):
        verdicts[chosen.run][chosen.record] = _TO_VAL


def _write_table(path: Path, header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    with (
        replaced(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace") as table,
    ):
        for row in itertools.chain([header], rows):
            table.write("\t".join(_one_line(text) for text in row) + "\n")
        table.flush()
        os.fsync(table.fileno())


def _save(path: Path, array: np.ndarray) -> None:
    content = io.BytesIO()
    np.save(content, array)
    spill.write_whole(path, content.getvalue())


def _one_line(text: str) -> str:
    return " ".join(text.split("\t")).replace("\r", "\\r").replace("\n", "\\n")
