"""What a run says: start-up facts and step lines on the screen, and metrics.csv, metrics.jsonl, TensorBoard and a learning curve on disk.

Nothing here touches a device; numbers arrive as Python floats.
"""

import csv
import json
import time
from pathlib import Path
from typing import Any

import rich.console
import rich.progress
import rich.table
import tensorboardX

from i21k.errors import UserError
from i21k.train import processes

COLUMNS = (
    *(
        "epoch",
        "step",
        "lr",
        "train_loss",
        "train_top1",
        "train_top5",
        "val_loss",
        "val_top1",
        "val_top5",
        "val_top20",
    ),
    *(
        "second_top1",
        "second_top5",
        "second_top20",
    ),  # of the second evaluation set over all classes, and over its own
    *("second_over_top1", "second_over_top5", "second_over_top20"),
    *("images_per_s", "data_wait_fraction", "train_s"),
)
INPUT_BOUND = 0.05  # a larger share of the time spent waiting for data is called input-bound


class Clock:
    """Training time of an epoch, without compilation, evaluation and checkpoints; and how much of it was waiting for data."""

    def __init__(self) -> None:
        self.train_s = self.wait_s = 0.0
        self.images = self.steps = 0
        self._since: float | None = None

    def start(self) -> None:
        """Go on counting."""
        self._since = time.perf_counter()

    def lap(self, images: int, wait_s: float) -> None:
        """Count the time since the last lap as one step's; nothing if the clock was not started."""
        now = time.perf_counter()
        if self._since is not None:
            self.train_s += now - self._since
            self.wait_s += wait_s
            self.images += images
            self.steps += 1
        self._since = now

    def settle(self) -> None:
        """Count the time since the last lap to that lap's step: what was waited for it."""
        now = time.perf_counter()
        if self._since is not None:
            self.train_s += now - self._since
            self._since = now

    def next(self) -> "Clock":
        """Return an empty clock that goes on from the last lap."""
        following = Clock()
        following._since = self._since
        return following

    def images_per_s(self) -> float:
        return self.images / self.train_s if self.train_s else 0.0

    def wait_fraction(self) -> float:
        return self.wait_s / self.train_s if self.train_s else 0.0

    def state(self) -> dict[str, float]:
        """Return what a checkpoint keeps."""
        return {
            "train_s": self.train_s,
            "wait_s": self.wait_s,
            "images": self.images,
            "steps": self.steps,
        }

    def restore(self, state: dict[str, float]) -> None:
        self.train_s, self.wait_s = float(state["train_s"]), float(state["wait_s"])
        self.images, self.steps = int(state["images"]), int(state["steps"])


class Listener:
    """What of several processes all but the first have for a report: they know the rows, and print nothing but what is bad."""

    def __init__(self, rows: list[dict[str, str]]) -> None:
        self.rows = rows

    def __enter__(self) -> "Listener":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def row_of(self, step: int) -> dict[str, str] | None:
        """Return the epoch's row that was written at `step`, if it was."""
        return next((row for row in self.rows if int(row["step"]) == step), None)

    def say(self, text: str) -> None:
        """Print a line; here nothing."""

    def complain(self, text: str) -> None:
        """Print a line that this process alone knows of."""
        print(f"process {processes.index()} of {processes.count()}: {text}", flush=True)

    def step(self, numbers: dict[str, float], line: str) -> None:
        """Report what came back from the device every `log.every_steps` steps; here nothing."""

    def epoch(self, numbers: dict[str, Any]) -> None:
        """Keep an epoch's row; missing values stay empty."""
        row = {key: _text(numbers.get(key)) for key in COLUMNS}
        self.rows = [other for other in self.rows if int(other["step"]) < int(row["step"])] + [row]


class Report(Listener):
    """Writes a run's lines and files; rows after `restored_step` belong to a run that was cut off and are dropped."""

    def __init__(
        self,
        workdir: Path,
        restored_step: int,
        num_steps: int,
        console: rich.console.Console | None = None,
    ) -> None:
        self._workdir, self._num_steps = workdir, num_steps
        self._csv, self._jsonl = workdir / "metrics.csv", workdir / "metrics.jsonl"
        super().__init__(
            [row for row in read_metrics(workdir) if int(row["step"]) <= restored_step]
        )
        self._write_csv()
        lines = self._jsonl.read_text().splitlines() if self._jsonl.exists() else []
        _replace(
            self._jsonl, "".join(f"{line}\n" for line in lines if self._stays(line, restored_step))
        )
        self._tensorboard = tensorboardX.SummaryWriter(
            str(workdir / "tensorboard"), purge_step=restored_step + 1
        )
        self._console = console or rich.console.Console()
        self._progress: rich.progress.Progress | None = None
        self._task: rich.progress.TaskID | None = None

    def __enter__(self) -> "Report":
        return self

    def __exit__(self, *_: object) -> None:
        self._end_progress()
        self._tensorboard.close()

    def _stays(self, line: str, restored_step: int) -> bool:
        """Whether a line of metrics.jsonl belongs to the run as restored: an epoch's only with its row, which is written last."""
        try:
            record = json.loads(line)
            return int(record["step"]) <= restored_step and (
                record["kind"] != "epoch" or self.row_of(record["step"]) is not None
            )
        except (ValueError, KeyError, TypeError):  # a line that was cut off
            return False

    def say(self, text: str) -> None:
        """Print a line, above the progress bar if there is one."""
        if self._progress is not None:
            self._progress.console.print(text, markup=False, highlight=False)
        else:
            print(text, flush=True)

    complain = say

    def step(self, numbers: dict[str, float], line: str) -> None:
        """Report what came back from the device every `log.every_steps` steps."""
        self._append({"kind": "step", **numbers})
        for key, value in numbers.items():
            if key not in ("step", "epoch"):
                self._tensorboard.add_scalar(f"step/{key}", value, int(numbers["step"]))
        if self._console.is_terminal:
            self._advance(int(numbers["step"]), line)
        else:
            self.say(line)

    def epoch(self, numbers: dict[str, Any]) -> None:
        """Write an epoch's row everywhere and draw the learning curve again; missing values stay empty."""
        self._end_progress()
        super().epoch(numbers)
        self._append({"kind": "epoch", **{k: numbers[k] for k in COLUMNS if k in numbers}})
        for key in COLUMNS[2:]:
            if key in numbers:
                self._tensorboard.add_scalar(f"epoch/{key}", numbers[key], int(numbers["step"]))
        self._tensorboard.flush()
        draw_learning_curve(self.rows, self._workdir / "learning_curve.png")
        self._write_csv()  # last: a run that comes back finds the epoch done with all its records, or does it again

    def _append(self, record: dict[str, Any]) -> None:
        with self._jsonl.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def _write_csv(self) -> None:
        temporary = self._csv.with_suffix(".tmp")
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)
        temporary.replace(self._csv)

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


def read_metrics(workdir: Path) -> list[dict[str, str]]:
    """Return the rows of a run's `metrics.csv`; none if it has no whole epoch yet."""
    path = workdir / "metrics.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows, 2):
        if not set(row) <= set(COLUMNS) or not all(
            (row.get(key) or "").isdecimal() for key in ("epoch", "step")
        ):
            raise UserError(
                f"line {number} of {path} is no row of metrics; restore the file, or move it away"
            )
    return [
        {key: row.get(key) or "" for key in COLUMNS} for row in rows
    ]  # files of older versions have fewer columns


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
    """Return one dense line; `means` are of the steps since the last line, times in seconds a step."""
    bound = " | input-bound" if wait_s > INPUT_BOUND * step_s else ""
    return (
        f"epoch {epoch + 1}/{epochs} | step {step:,}/{num_steps:,} {step / num_steps:.1%}"
        f" | loss {means['loss']:.3f} | top1 {means['top1']:.1%}"
        f" | lr {lr:.4f} | {images_per_s:,.0f} img/s | step {step_s * 1e3:.0f} ms (data {wait_s * 1e3:.0f} ms)"
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


def draw_learning_curve(rows: list[dict[str, str]], path: Path) -> None:
    """Draw loss and accuracy over epochs as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    losses, accuracies = figure.subplots(1, 2)
    curves = [(losses, "train_loss", "train"), (losses, "val_loss", "val")]
    curves += [
        (accuracies, f"{split}_{top}", f"{split} {top[:3]}-{top[3:]}")
        for split in ("train", "val")
        for top in ("top1", "top5")
    ]
    for axes, key, label in curves:
        points = [(int(row["epoch"]), float(row[key])) for row in rows if row[key]]
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=label)
    losses.set_ylabel("loss (nats)")
    accuracies.set_ylabel("accuracy")
    accuracies.yaxis.set_major_formatter(PercentFormatter(1))
    for axes in (losses, accuracies):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)


def _text(value: Any) -> str:
    return (
        "" if value is None else repr(round(value, 9)) if isinstance(value, float) else str(value)
    )


def _replace(path: Path, text: str) -> None:
    temporary = path.with_suffix(path.suffix + ".tmp")
    temporary.write_text(text)
    temporary.replace(path)
