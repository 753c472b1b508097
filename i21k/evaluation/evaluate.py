"""A checkpoint over a split, every picture counted once, and what comes of it as text, table and plot: behind `i21k evaluate`."""

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from i21k.data.format.splits import Split, file_names_in, labels_in, open_split, split_names
from i21k.data.load import loader
from i21k.errors import UserError
from i21k.evaluation.scores import RANKS, Scores
from i21k.labels import ClassList
from i21k.train import feed, steps
from i21k.train.devices import put_state
from i21k.train.evaluators import answers, eval_options
from i21k.train.recipe import from_stored
from i21k.train.recalibration import recalibrate
from i21k.trained import CheckpointModel, load
from i21k.wordnet.class_lists import named
from i21k.wordnet.taxonomy import wordnet

BATCH_SIZE = 256  # of all devices, chosen here
_ILSVRC_VAL = re.compile(r"ILSVRC2012_val_(\d{8})")


class Evaluation(NamedTuple):
    """What was evaluated on what, and the sums that came of it."""

    about: dict[str, Any]
    scores: Scores
    sizes: np.ndarray | None  # of the model's classes in training, or what has their order

    def summary(self) -> dict[str, Any]:
        """Return all numbers but those of single classes, ready for JSON."""
        return self.about | self.scores.summary(self.sizes)


def evaluate_checkpoint(
    workdir: str | Path,
    data: str | Path,
    split: str = "val",
    batch_size: int = BATCH_SIZE,
    over: ClassList | None = None,
    recalibrate_bn: int = 0,
    flip: bool = False,
    real: str | Path | None = None,
    sizes_of: str | None = None,
) -> Evaluation:
    """Evaluate a run's newest checkpoint on the local devices. Pictures' classes find the model's by their ids, in whatever lists.

    Args:
        workdir: of the run.
        data: a packed directory, or another TFDS dataset of labelled pictures.
        split: to evaluate, whole.
        batch_size: over all devices; changes nothing but speed and memory.
        over: the subset among whose classes to rank too, as the note did with the 1,000 of ILSVRC; those the model lacks are passed over.
            By default the data's classes, where they are not the model's.
        recalibrate_bn: pictures of the split `train` of `data` from which BatchNorm's statistics are computed first; 0: as they are.
        flip: average the probabilities of each picture and its mirror image.
        real: JSON file of the ReaL labels of ILSVRC's validation set, whose pictures are told by their file names.
        sizes_of: split of `data` whose labels are counted, to tell large classes from small; by default a model with all classes of fall11
            takes their order of 2015 (`released2015`), and others do without.

    Raises:
        ValueError: if checkpoint or data are missing, they have no class in common, or a number or file does not do.
    """
    for name, value, least in (
        ("batch_size", batch_size, 1),
        ("recalibrate_bn", recalibrate_bn, 0),
    ):
        if value < least:
            raise UserError(f"{name} is {value}; expected at least {least}")
    opened, loaded = open_split(data, split), load(workdir)
    if over is None and set(loaded.classes.ids) != set(opened.classes.ids):
        over = opened.classes
    if not opened.num_records:
        raise UserError(
            f"split {split!r} of {data} has no pictures; choose another one of {', '.join(split_names(data))}"
        )
    scores = Scores(loaded.classes, opened.classes, over)
    right_of = None if real is None else _right_by_real(read_real(real), opened)
    sizes = _sizes(loaded.classes, open_split(data, sizes_of) if sizes_of else None)
    devices = jax.local_devices()
    network, variables = loaded.network, loaded.variables
    if recalibrate_bn:
        options = _recalibration_options(loaded, batch_size)
        statistics_step = steps.make_statistics_step(network, devices)
        variables = recalibrate(
            statistics_step,
            variables,
            open_split(data, "train"),
            options,
            devices,
            recalibrate_bn,
            network.moments,
        )
    faster, convert = network.for_inference(devices[0].platform)
    folded = convert(jax.device_get(variables))
    answer_step = steps.make_answer_step(faster, devices, flip, loaded.probability)
    options = eval_options(batch_size, loaded.image_size, loaded.crop_fraction, len(devices))
    for log_probabilities, labels in answers(
        answer_step, put_state(folded, devices), opened, options, devices
    ):
        first = scores.count
        scores.add(
            log_probabilities,
            labels,
            None if right_of is None else right_of[first : first + len(labels)],
        )
    about = {
        "checkpoint": str(workdir),
        "step": loaded.checkpoint.step,
        "data": str(data),
        "split": split,
        "recalibrated_on": recalibrate_bn,
        "tta": "flip" if flip else "none",
        "real": None if real is None else str(real),
        "sizes_of": sizes_of or (None if sizes is None else "released2015"),
    }
    return Evaluation(about, scores, sizes)


def _recalibration_options(loaded: CheckpointModel, batch_size: int) -> loader.LoaderOptions:
    """Return what the run itself uses. An imported model has no run: it gets plain crops."""
    if (config := loaded.checkpoint.meta.get("config")) is not None:
        return feed.recalibration_options(from_stored(config))
    return loader.LoaderOptions(
        batch_size, loaded.image_size, crop="plain", crop_fraction=loaded.crop_fraction
    )


def read_real(path: str | Path) -> list[list[str]]:
    """Read the ReaL labels (Beyer et al. 2020, arXiv 2006.07159): the classes that are right for each picture of ILSVRC's validation set.

    Args:
        path: `real.json` of github.com/google-research/reassessed-imagenet: lists of labels of ILSVRC's 1,000, a picture each.

    Raises:
        ValueError: if the file is something else.
    """
    id_of = dict(enumerate(named("ilsvrc2012").ids))  # which has no -1
    try:
        return [
            [id_of[label] for label in labels]
            for labels in json.loads(Path(path).read_text("utf-8"))
        ]
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(
            f"{path} cannot be read as ReaL labels ({error!r}); expected real.json, a list of numbers from 0 to 999 for each picture"
        ) from error


def _right_by_real(real: list[list[str]], split: Split) -> list[list[str]]:
    """Return the right classes of each record, which its file name finds."""
    right = []
    for record, name in enumerate(file_names_in(split)):
        found = _ILSVRC_VAL.search(name)
        if not found or not 1 <= int(found[1]) <= len(real):
            raise UserError(
                f"record {record} of split {split.split!r} of {split.directory} has the file name {name!r}; expected "
                f"ILSVRC2012_val_00000001 to {len(real):08d}, whose ReaL labels there are; leave out --real for other pictures"
            )
        right.append(real[int(found[1]) - 1])
    return right


def _sizes(classes: ClassList, counted: Split | None) -> np.ndarray | None:
    if counted is not None:
        known = np.array(
            [classes.label_of.get(class_id, len(classes)) for class_id in counted.classes.ids]
        )
        return np.bincount(known[list(labels_in(counted))], minlength=len(classes) + 1)[:-1]
    order = named("released2015")
    if not set(order.ids) <= set(classes.ids):
        return None
    return np.array([-order.label_of.get(class_id, len(order)) for class_id in classes.ids])


# ---------------------------------------------------------------------------------------------------------- for people

_WHERE = {
    "right": "right",
    "below": "below the truth",
    "above": "above it",
    "elsewhere": "elsewhere",
}


def per_class_table(scores: Scores) -> str:
    """Return a line a class and a header, with tabs between: for spreadsheets."""
    rows, text = scores.per_class(), io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys(), delimiter="\t", lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {key: f"{value:.4f}" if isinstance(value, float) else value for key, value in row.items()}
        for row in rows
    )
    return text.getvalue()


def draw_reliability(scores: Scores, path: Path) -> None:
    """Draw accuracy over confidence as a PNG: on the diagonal a model is as sure as it is right."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    bins, ece = scores.reliability(), scores.summary()["table"]["all"]["ece"]
    figure = Figure(figsize=(4.5, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    curve, share = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    confidence = [b["confidence"] for b in bins]
    curve.plot((0, 1), (0, 1), color="grey", linewidth=1, label="as sure as right")
    curve.plot(
        confidence,
        [b["accuracy"] for b in bins],
        marker="o",
        label=f"expected calibration error {ece:.1%}",
    )
    share.bar(confidence, [b["pictures"] / scores.count for b in bins], width=0.04)
    curve.set_ylabel("accuracy")
    share.set_ylabel("pictures")
    share.set_xlabel(f"confidence over {len(scores.model):,} classes")
    for axes in (curve, share):
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    curve.legend(fontsize="small")
    figure.savefig(path, dpi=120, format="png")


def describe(summary: dict[str, Any]) -> str:
    """Return a summary as a readable text."""
    return "\n".join(_lines(summary))


def _lines(summary: dict[str, Any]) -> Iterator[str]:
    classes, pictures = (
        summary["classes"],
        f"{summary['count']:,} pictures" + " and their mirror images" * (summary["tta"] == "flip"),
    )
    yield f"{summary['checkpoint']}, step {summary['step']:,}, on {pictures} of split {summary['split']!r} of {summary['data']}"
    titles = {"all": f"over {classes['model']:,}", "tolerant": "tolerant"}
    if "over" in classes:
        titles |= {"over": f"over {classes['ranked']:,}", "folded": f"folded {classes['over']:,}"}
    yield from _table(summary["table"], titles, "")
    if summary["real"]:
        yield f"by ReaL labels, {summary['num_real']:,} pictures that have any:"
        yield from _table(summary["real"], titles, "ReaL ")
    if lacking := summary["lacking"]["classes"]:
        yield f"the model lacks {wordnet().enumerate(lacking)}; their {summary['lacking']['pictures']:,} pictures count as wrong"
    yield from (f"no {what}: {why}" for what, why in summary["omitted"].items())
    if h := summary["hierarchy"]:
        yield "best answers: " + ", ".join(f"{where} {h[key]:.2%}" for key, where in _WHERE.items())
        yield f"wrong answers: {h['mistake_distance']:.2f} edges from the truth, common ancestor at height {h['mistake_lca_height']:.2f}"
        heights = " / ".join(f"{height:.2f}" for height in h["lca_height"].values())
        yield f"height of the common ancestor of truth and best 1 / 5 / 20 answers: {heights}"
    yield f"mean of {classes['seen']:,} classes: " + _accuracies(summary["mean_of_classes"])
    for name, part in (summary["by_size"] or {}).items():
        where = f"{name}, {part['classes']:,} classes, {part['count']:,} pictures"
        yield f"{where}: {_accuracies(part)}" if part["count"] else where
    if worst := summary["confusions"][:5]:
        yield "most mistaken: " + "; ".join(
            f"{c['name']} taken for {c['answer_name']} {c['pictures']:,}" for c in worst
        )


def _accuracies(means: dict[str, float]) -> str:
    return " | ".join(f"top-{k} {means[f'top{k}']:.2%}" for k in RANKS)


def _table(
    table: dict[str, dict[str, float | None]], titles: dict[str, str], prefix: str
) -> Iterator[str]:
    yield " " * 11 + "".join(f"{titles[name]:>14}" for name in table)
    rows: Sequence[tuple[str, str, str]] = [(f"top{k}", f"{prefix}top-{k}", ".2%") for k in RANKS]
    for key, title, form in (*rows, ("loss", "loss", ".4f"), ("ece", "ECE", ".2%")):
        cells = (
            format(value, form) if (value := column.get(key)) is not None else "-"
            for column in table.values()
        )
        yield f"{title:<11}" + "".join(f"{cell:>14}" for cell in cells)
