"""The folder `.packing` inside the output directory, where a split is made before it counts."""

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from i21k.data.pack import spill
from i21k.errors import UserError
from i21k.files import remove_temporaries

WORK = ".packing"
REMOVED = ".packing-removed"
TABLES = ("skipped-{}.tsv", "duplicates-{}.tsv")  # of a split


@dataclasses.dataclass(frozen=True)
class WorkDirectory:
    """Every file in `.packing`: what it is, which phase writes it, what a restart does with it.

    ========================  =======  ==========================================================
    file                      phase    content, and what a restart does
    ========================  =======  ==========================================================
    made_from.json            start    source, options and versions that decide the spill files;
                                       a restart with others is refused
    spill-ENTRY-FILE.records  read     recoded images, sorted by place (see `spill.py`)
    spill-ENTRY-FILE.npz      read     what is known of them; makes the pair count. A restart
                                       reads the source on behind the last pair
    read-ENTRY                read     empty: the part of the source from this entry on is read
    verdicts.npy, cuts.npy    plan     what becomes of each record, where each slice begins
    skipped-SPLIT.tsv         plan     table for the user; moved into the dataset by `commit`
    duplicates-SPLIT.tsv      plan     the same
    plan.json                 plan     written last; makes the plan count. A restart keeps it if
                                       the options of the plan are the same, otherwise plan and
                                       shards are removed and made again
    NAME-SPLIT.array_record-  write    a shard; moved into the dataset by `commit`
    forgotten-plan.json       plan     a plan whose files are being removed; a restart removes the
                                       rest
    val-SHARD.records         write    records that a shard of the first split leaves to `val`
    done-SHARD.json           write    makes the shard count; a restart writes the others
    .i21k-*                   any      a file that is being written; a restart removes it
    ========================  =======  ==========================================================

    Every file appears under its name when it is complete and on the disk. When the folder is not
    needed any more it is renamed to `.packing-removed` and deleted, so that a folder with the name
    `.packing` is always complete. A restart deletes what is left of a `.packing-removed`.
    """

    output: Path  # the dataset directory

    @property
    def path(self) -> Path:
        """The folder."""
        return self.output / WORK

    @property
    def made_from(self) -> Path:
        """Path of what decides the spill files."""
        return self.path / "made_from.json"

    @property
    def plan(self) -> Path:
        """Path of the plan."""
        return self.path / "plan.json"

    @property
    def verdicts(self) -> Path:
        """Path of the verdicts on all records."""
        return self.path / "verdicts.npy"

    @property
    def cuts(self) -> Path:
        """Path of the cuts of all spill files."""
        return self.path / "cuts.npy"

    def tables(self, split: str) -> list[Path]:
        """Return the paths of the two tables of a split."""
        return [self.path / table.format(split) for table in TABLES]

    def read_marker(self, entry: int) -> Path:
        """Return the path that says that the part from `entry` on is read."""
        return self.path / f"read-{entry:08d}"

    def shard(self, file: str) -> Path:
        """Return the path of a shard."""
        return self.path / file

    def shard_marker(self, file: str) -> Path:
        """Return the path that says that a shard is complete."""
        return self.path / f"done-{file}.json"

    def val_records(self, index: int) -> Path:
        """Return the path of what shard `index` of the first split leaves to `val`."""
        return self.path / f"val-{index:05d}.records"

    def spill_files(self) -> list[spill.SpillFile]:
        """Return the complete spill files in the order of the source."""
        return spill.find(self.path)

    def check_format(self) -> None:
        """Refuse what another version of the program left.

        Raises:
            UserError: naming the folder.
        """
        found = self._read_made_from()
        is_old = (self.path / "made_of.json").exists()  # of version one
        if is_old or (found is not None and found.get("format") != spill.FORMAT):
            raise UserError(
                f"{self.output} holds an unfinished packing of another version of i21k. "
                f"Finish it with that version, or remove {self.path} to begin again."
            )

    @contextlib.contextmanager
    def opened(self, made_from: dict[str, Any]) -> Iterator[None]:
        """Make the folder, or resume in the one that is there.

        It stays when an exception ends the block, if there are images in it.

        Args:
            made_from: what decides the content of the spill files, as JSON can hold it.

        Raises:
            UserError: if the folder was made from something else.
        """
        found = self._read_made_from()
        for key in (*made_from, *found) if found is not None else ():
            if found is not None and found.get(key) != made_from.get(key):
                if key in ("source_bytes", "source_files"):
                    raise UserError(
                        f"{self.output} holds an unfinished packing of this source, whose files "
                        f"have changed since. Restore the source, or remove {self.path} to begin "
                        "again."
                    )
                raise UserError(
                    f"{self.output} holds an unfinished packing with {key} {found.get(key)!r}; "
                    f"got {made_from.get(key)!r}. Use the same to finish it, or remove {self.path} "
                    "to begin again."
                )
        try:
            if found is None:
                self.remove()
                self.path.mkdir()
                spill.write_whole(self.made_from, json.dumps(made_from).encode())
            remove_temporaries(self.path)
            spill.remove_incomplete(self.path)
            yield
        except BaseException:
            if not any(file.about.num_record_bytes for file in self.spill_files()):
                self.remove()
            raise

    def remove(self) -> None:
        """Clean up: remove the folder, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.path.rename(self.output / REMOVED))

    def remove_removed(self) -> None:
        """Remove what is left of a folder whose removal was interrupted."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.output / REMOVED)

    def forget_plan(self) -> None:
        """Remove plan, tables and shards, so that others can be made of the same spill files.

        This includes tables and shards that an interrupted commit has moved into the dataset. The
        plan gets another name first, so that it does not count any more if this is interrupted.
        """
        forgotten = self.path / "forgotten-plan.json"
        if self.plan.exists():
            self.plan.replace(forgotten)
        if forgotten.exists():
            split = json.loads(forgotten.read_bytes())["options"]["split"]
            for table in TABLES:
                (self.output / table.format(split)).unlink(missing_ok=True)
        for table in TABLES:
            for path in self.path.glob(table.format("*")):
                path.unlink()
        for marker in self.path.glob("done-*.json"):
            shard = marker.name.removeprefix("done-").removesuffix(".json")
            (self.output / shard).unlink(missing_ok=True)
        for pattern in ("*.array_record-*", "val-*.records"):  # `done-` markers match the first
            for path in self.path.glob(pattern):
                path.unlink()
        forgotten.unlink(missing_ok=True)

    def _read_made_from(self) -> dict[str, Any] | None:
        if not self.made_from.exists():
            return None
        return dict(json.loads(self.made_from.read_bytes()))
