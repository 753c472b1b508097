"""What a run reports: lines on the screen, metrics.csv, metrics.jsonl, TensorBoard and a curve.

Nothing here uses a device; numbers arrive as Python floats.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import rich.console
import rich.progress
import rich.table
from tensorboardX.summary import hparams

from i21k import log
from i21k.text import printable
from i21k.train import history
from i21k.train.learning_curve import Point, draw_learning_curve
from i21k.train.metric_files import MetricFiles, is_metric, read_metrics, text_of
from i21k.train.tensorboard import TensorBoard

__all__ = ["Listener", "Report", "duration", "read_metrics", "step_line"]

FIRST_COLUMNS = ("epoch", "step", "lr", "train_loss", "train_top1", "train_top5")
LAST_COLUMNS = ("images_per_s", "data_wait_fraction", "train_s")
INPUT_BOUND = 0.05  # our choice: a larger share of time spent waiting for data is input-bound


class Listener:
    """The report of all processes but the first: knows the rows, prints problems, writes
    nothing."""

    def __init__(self, columns: Sequence[str], rows: list[dict[str, str]]) -> None:
        """Prepare the columns.

        Args:
            columns: of this run's evaluations; columns of earlier rows are kept beside them.
            rows: of the epochs that are done.
        """
        own = {*FIRST_COLUMNS, *LAST_COLUMNS}
        earlier = [column for row in rows for column, value in row.items() if value]
        evaluated = [column for column in [*columns, *earlier] if column not in own]
        self.columns = (*FIRST_COLUMNS, *dict.fromkeys(evaluated), *LAST_COLUMNS)
        self.rows = [{column: row.get(column) or "" for column in self.columns} for row in rows]

    def __enter__(self) -> "Listener":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def row_of(self, step: int) -> dict[str, str] | None:
        """Return the epoch's row that was written at `step`, if there is one."""
        return next((row for row in self.rows if int(row["step"]) == step), None)

    def describe(self, recipe: Mapping[str, Any]) -> None:
        """Report the recipe, by dotted name; here nothing."""

    def say(self, text: str) -> None:
        """Print a line; here nothing."""

    def complain(self, text: str) -> None:
        """Print a line about a problem that only this process knows."""
        log.warning(text)

    def step(self, numbers: dict[str, float], line: str) -> None:
        """Report what the device returned after `log.every_steps` steps; here nothing."""

    def epoch(self, numbers: dict[str, Any]) -> None:
        """Keep the row of an epoch, or of an evaluation inside one; missing values stay empty.

        Inside an epoch, `numbers["epoch"]` is a fraction.
        """
        row = {column: text_of(numbers.get(column)) for column in self.columns}
        self.rows = [other for other in self.rows if int(other["step"]) < int(row["step"])] + [row]


class Report(Listener):
    """Prints a run's lines and writes its files."""

    def __init__(
        self,
        workdir: Path,
        restored_step: int,
        num_steps: int,
        columns: Sequence[str] = (),
        console: rich.console.Console | None = None,
        steps_per_epoch: float = 0.0,
    ) -> None:
        """Open the files. Rows after `restored_step` are dropped: no checkpoint has their state.

        Args:
            workdir: of the run.
            restored_step: where the run resumes; 0 for a new one.
            num_steps: of the whole run.
            columns: of the run's evaluations.
            console: of the progress bar.
            steps_per_epoch: for the learning curve; 0: unknown.
        """
        self._workdir, self._num_steps = workdir, num_steps
        self._steps_per_epoch = steps_per_epoch
        self._files = MetricFiles(workdir, restored_step)
        super().__init__(columns, self._files.rows)
        self._files.write_rows(self.columns, self.rows)
        self._points = [point for point in map(_point, self._files.records) if point]
        self._tensorboard = TensorBoard(str(workdir / "tensorboard"), purge_step=restored_step + 1)
        self._console = console or rich.console.Console()
        self._progress: rich.progress.Progress | None = None
        self._task: rich.progress.TaskID | None = None

    def __enter__(self) -> "Report":
        return self

    def __exit__(self, *_: object) -> None:
        self._end_progress()
        self._tensorboard.close()

    def describe(self, recipe: Mapping[str, Any]) -> None:
        """Write the recipe to TensorBoard, and which curves it draws together."""
        recipe = {k: printable(v) if isinstance(v, str) else v for k, v in recipe.items()}
        cells = {key: str(value).replace("|", "\\|") for key, value in recipe.items()}
        table = "".join(f"| {key} | {cell} |\n" for key, cell in cells.items())
        self._tensorboard.add_text("recipe", f"| key | value |\n|---|---|\n{table}")
        values = {k: v for k, v in recipe.items() if isinstance(v, (bool, int, float, str))}
        for summary in hparams(values, {f"epoch/{LAST_COLUMNS[0]}": 0.0}):
            self._tensorboard.file_writer.add_summary(summary)
        charts = {}
        for metric in ("loss", "top1", "top5"):
            columns = [column for column in self.columns if column.endswith(f"_{metric}")]
            charts[metric] = ["Multiline", [f"epoch/{column}" for column in columns]]
        self._tensorboard.add_custom_scalars({"training and evaluation": charts})

    def say(self, text: str) -> None:
        """Print a line, above the progress bar if there is one."""
        if self._progress is not None:
            shown = "\n".join(map(printable, text.split("\n")))
            self._progress.console.print(shown, markup=False, highlight=False)
        else:
            log.info(text)

    complain = say

    def step(self, numbers: dict[str, float], line: str) -> None:
        """Report what the device returned after `log.every_steps` steps."""
        self._files.append({"kind": "step", **numbers})
        self._points += filter(None, [_point({"kind": "step", **numbers})])
        for key, value in numbers.items():
            if key not in ("step", "epoch"):
                self._tensorboard.add_scalar(f"step/{key}", value, int(numbers["step"]))
        if self._console.is_terminal:
            self._advance(int(numbers["step"]), line)
        else:
            self.say(line)

    def epoch(self, numbers: dict[str, Any]) -> None:
        """Write a row to all files and draw the curve; missing values stay empty."""
        self._end_progress()
        super().epoch(numbers)
        known = {column: numbers[column] for column in self.columns if column in numbers}
        kind = "epoch" if isinstance(numbers["epoch"], int) else "evaluation"
        self._files.append({"kind": kind, **known})
        for column, value in known.items():
            if column not in ("step", "epoch"):
                self._tensorboard.add_scalar(f"epoch/{column}", value, int(numbers["step"]))
        self._tensorboard.flush()
        sets = [
            c.removesuffix("_top1") for c in self.columns if c.endswith("_top1") and is_metric(c)
        ]
        sets = [name for name in sets if name != "train" and not name.endswith("_over")]
        self._files.write_rows(self.columns, self.rows)
        curve = self._workdir / "learning_curve.png"
        self._files.attempt(
            curve,
            lambda: draw_learning_curve(
                self.rows,
                curve,
                sets,
                self._points,
                self._steps_per_epoch,
                history.read_changes(self._workdir),
            ),
        )

    def _advance(self, step: int, line: str) -> None:
        if self._progress is None:
            wrapped = rich.progress.TextColumn(
                "{task.description}", table_column=rich.table.Column(overflow="fold")
            )
            bar = rich.progress.BarColumn(bar_width=12)
            self._progress = rich.progress.Progress(bar, wrapped, console=self._console)
            self._task = self._progress.add_task(line, total=self._num_steps)
            self._progress.start()
        assert self._task is not None
        self._progress.update(self._task, completed=step, description=line)

    def _end_progress(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def step_line(
    *,
    epoch: int,
    epochs: int,
    step: int,
    num_steps: int,
    means: dict[str, float],
    lr: float,
    images_per_s: float,
    step_s: float,
    wait_s: float,
) -> str:
    """Return one dense line.

    `means` are of the steps since the last line, times are seconds per step.
    """
    bound = " | input-bound" if wait_s > INPUT_BOUND * step_s else ""
    times = f"step {step_s * 1e3:.0f} ms (data {wait_s * 1e3:.0f} ms)"
    return (
        f"epoch {epoch + 1}/{epochs} | step {step:,}/{num_steps:,} {step / num_steps:.1%}"
        f" | loss {means['loss']:.3f} | top1 {means['top1']:.1%} | lr {lr:.4f}"
        f" | {images_per_s:,.0f} img/s | {times}"
        f" | eta {duration((num_steps - step) * step_s)}{bound}"
    )


def duration(seconds: float) -> str:
    """Return `1d09h`, `2h05m`, `3m20s` or `12s`."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    if days:
        return f"{days}d{h:02d}h"
    if hours:
        return f"{h}h{m:02d}m"
    return f"{m}m{s:02d}s" if minutes else f"{s}s"


def _point(record: dict[str, Any]) -> Point | None:
    """Return what the learning curve shows of a line of metrics.jsonl."""
    if record["kind"] != "step" or not {"loss", "lr"} <= record.keys():
        return None
    return Point(int(record["step"]), float(record["loss"]), float(record["lr"]))
