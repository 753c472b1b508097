"""Write results down the moment they are there: a file of JSON lines and a Markdown page."""

import datetime
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu_day_parts.driver import Part, Record

RESULTS, PAGE, LOG = "results.jsonl", "gpu-day.md", "log.txt"


class Results:
    """The results of a day, in a directory."""

    def __init__(self, directory: Path, parts: Sequence[Part], command: str) -> None:
        """Start new files in the directory. Files of an earlier call are renamed."""
        directory.mkdir(parents=True, exist_ok=True)
        for name in (RESULTS, PAGE, LOG):
            if (old := directory / name).exists():
                changed = datetime.datetime.fromtimestamp(old.stat().st_mtime)
                old.rename(directory / f"until-{changed:%H%M%S}-{name}")
        self.records: list[Record] = []
        self._directory, self._parts = directory, parts
        self._started = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        self._command = command
        (directory / RESULTS).write_text("")
        self._write_page()

    def add(self, record: Record) -> None:
        """Append a record to the file, and write the page again."""
        self.records.append(record)
        with (self._directory / RESULTS).open("a") as file:
            time = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
            file.write(json.dumps({"time": time, **record}) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._write_page()

    def of(self, name: str) -> list[Any]:
        """Return the results of a part so far."""
        return [r["result"] for r in self.records if r["part"] == name and "result" in r]

    def _write_page(self) -> None:
        temporary = self._directory / f"{PAGE}.tmp"
        temporary.write_text(self._page())
        temporary.replace(self._directory / PAGE)

    def _page(self) -> str:
        blocks = [
            f"# A day on a GPU, {self._started[:10]}",
            f"Started {self._started}:\n\n    {self._command}",
            "| part | end | results | seconds |\n|---|---|---|---|\n"
            + "\n".join(self._summary(part) for part in self._parts),
        ]
        return "\n\n".join([*blocks, *map(self._section, self._parts)]) + "\n"

    def _ending(self, part: Part) -> Record:
        ends = [r for r in self.records if r["part"] == part.name and "end" in r]
        return ends[-1] if ends else {"end": "not run yet"}

    def _summary(self, part: Part) -> str:
        end = self._ending(part)
        cells = [part.name, end["end"], len(self.of(part.name)), end.get("seconds", "")]
        return row(cells)

    def _section(self, part: Part) -> str:
        end = self._ending(part)
        blocks = [f"## {part.name}: {part.title}", f"    {part.shown}"]
        blocks += tables(self.of(part.name))
        if "why" in end:
            blocks.append(f"{end['end'].capitalize()}: {end['why']}.")
        if end.get("output"):
            blocks.append("```text\n" + "\n".join(end["output"]) + "\n```")
        return "\n\n".join(blocks)


def tables(results: Iterable[Record]) -> list[str]:
    """Return results as Markdown tables: one table for neighbours that have the same keys.

    A table with one result has a row for each key.
    """
    groups: list[list[Record]] = []
    for result in results:
        if groups and groups[-1][0].keys() == result.keys():
            groups[-1].append(result)
        else:
            groups.append([result])
    return [_table(group) for group in groups]


def _table(group: list[Record]) -> str:
    if len(group) == 1:
        rows: list[Sequence[Any]] = list(group[0].items())
        head: Sequence[Any] = ("what", "value")
    else:
        head, rows = list(group[0]), [list(result.values()) for result in group]
    return "\n".join([row(head), "|" + "---|" * len(head), *map(row, rows)])


def row(cells: Iterable[Any]) -> str:
    """Return a row of a Markdown table."""
    texts = map(_text, cells)
    return "| " + " | ".join(text.replace("|", "\\|").replace("\n", " ") for text in texts) + " |"


def _text(cell: Any) -> str:
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    return f"{cell:,}" if isinstance(cell, int | float) else str(cell)
