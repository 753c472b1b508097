"""What a check of a dataset reports: faults, and what was looked at."""

import collections
import dataclasses
from typing import Literal

# Faults of one kind and file that are named. The others are counted, to limit memory.
MAX_NAMED = 100

Kind = Literal[
    "class list",
    "metadata",
    "missing",
    "size",
    "hash",
    "count",
    "unreadable",
    "label",
    "class",
    "decode",
    "content",
]


@dataclasses.dataclass(frozen=True)
class Fault:
    """One thing that is not as it should be.

    Args:
        file: in the directory.
        record: its number in the file, from 0; None if the fault is of the whole file.
        name: the `file_name` of the record, if it has one.
        kind: what was checked.
        found: what is there.
        expected: what should be there.
    """

    file: str
    record: int | None
    name: str
    kind: Kind
    found: str
    expected: str

    @classmethod
    def of_file(cls, file: str, kind: Kind, found: str, expected: str) -> "Fault":
        """Return a fault of a whole file."""
        return cls(file, None, "", kind, found, expected)

    def __str__(self) -> str:
        where = self.file
        if self.record is not None:
            where += f", record {self.record}{f' ({self.name})' if self.name else ''}"
        return f"{where}: {self.kind}: {self.found}; expected {self.expected}"


@dataclasses.dataclass
class SplitReport:
    """What was looked at in one split; bytes are those of the shards that are there."""

    num_shards: int = 0
    num_records: int = 0
    num_bytes: int = 0
    num_decoded: int = 0
    num_named: int = 0  # records whose file name has the class, which was compared with the label


@dataclasses.dataclass(frozen=True)
class VerifyReport:
    """What was checked, and what is wrong.

    Of each kind and file, `faults` has the first `MAX_NAMED` faults. `num_faults` counts all.
    """

    directory: str
    name: str
    has_manifest: bool  # without one sizes, hashes and the class list cannot be checked
    splits: dict[str, SplitReport]
    compared: tuple[str, ...]  # splits that must not share an image; empty if there is one
    faults: tuple[Fault, ...]
    num_faults: dict[str, int]  # by kind
    empty_classes: tuple[str, ...]  # without images in the splits that were looked at; no fault
    seconds: float


class Faults:
    """Faults as they are found; of each file and kind, only `MAX_NAMED` are kept."""

    def __init__(self) -> None:
        self.named: list[Fault] = []
        self._counts: collections.Counter[tuple[str, Kind]] = collections.Counter()

    def count(self, file: str, kind: Kind) -> bool:
        """Count a fault and return whether it is to be named."""
        self._counts[file, kind] += 1
        return self._counts[file, kind] <= MAX_NAMED

    def add(self, fault: Fault) -> None:
        if self.count(fault.file, fault.kind):
            self.named.append(fault)

    def extend(self, faults: list[Fault]) -> None:
        for fault in faults:
            self.add(fault)

    def sorted(self) -> tuple[Fault, ...]:
        """Return the named faults by file and record; those of a whole file come first."""
        return tuple(
            sorted(
                self.named,
                key=lambda fault: (fault.file, -1 if fault.record is None else fault.record),
            )
        )

    def totals(self) -> dict[str, int]:
        """Return how many faults of each kind there are."""
        totals: collections.Counter[str] = collections.Counter()
        for (_, kind), count in self._counts.items():
            totals[kind] += count
        return dict(totals)
