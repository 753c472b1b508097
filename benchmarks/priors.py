"""Measure what a prior does for a model that was trained on few images of most classes.

    python benchmarks/priors.py --out DIR [--epochs 10] [--ratio 40]

Draws the quick start's 25 classes and keeps fewer images from class to class: all 200 of the first,
and 200 / --ratio of the last one. Trains on them with the quick start's recipe at 32 px, once as it
is and once with `loss.prior_weight = 1`, and evaluates on other images, 100 of each class. The
first model is also evaluated with `--prior uniform` and three values of tau. Prints a Markdown
table: top-1 of all classes, and of the thirds with the most and the fewest training images (head,
middle, tail), and the calibration error (ECE).
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from i21k import backend

backend.prepare()

from i21k.data.format import shards
from i21k.data.format.class_counts import class_counts
from i21k.data.format.manifest import Manifest, SplitManifest
from i21k.data.format.readers import all_records
from i21k.data.format.records import decode_example
from i21k.data.format.splits import open_split
from i21k.data.format.tfds import write_metadata
from i21k.data.synthetic import pack_if_missing
from i21k.evaluation.evaluate import evaluate_checkpoint
from i21k.train import loop

sys.path.insert(0, str(Path(__file__).parents[1]))  # recipes are files of the checkout

from configs import quickstart

PER_CLASS, OTHERS = 200, 100
TAUS = (0.5, 1.0, 1.5)


def write_long_tail(source: Path, directory: Path, ratio: float) -> None:
    """Copy the training split, with fewer images from class to class, unless it is there."""
    if (directory / "manifest.json").exists():
        return
    directory.mkdir(parents=True)
    split = open_split(source, "train")
    last = len(split.classes) - 1
    order = np.random.default_rng(0).permutation(last + 1)  # classes are sorted by their ids
    kept = np.empty(last + 1, np.int64)
    kept[order] = np.round(PER_CLASS * ratio ** (-np.arange(last + 1) / last))
    left = kept.copy()
    records = []
    for record in all_records(split):
        _, label = decode_example(record)
        if left[label]:
            left[label] -= 1
            records.append(record)
    written = (shards.write_shard(directory / shards.shard_name("tail", "train", 0, 1), records),)
    write_metadata(directory, "tail", split.classes, {"train": written})
    options = {"short_side": 64, "quality": 90}
    entry = SplitManifest(written, options, {}, class_counts=tuple(kept.tolist()))
    Manifest("tail", split.classes.hash, {"train": entry}).write(directory)


def train(directory: Path, workdir: Path, epochs: int, prior_weight: float) -> None:
    """Train the quick start's network, or continue a run that was stopped."""
    config = quickstart.get_config()
    config.epochs, config.image_size = epochs, 32
    config.data.directory, config.data.synthetic_per_class = str(directory), 0
    config.evaluation.sets, config.log.keep_best = "none", "none"
    config.loss.prior_weight = prior_weight
    loop.run(config, workdir)


def row(
    name: str, workdir: Path, data: Path, sizes: np.ndarray, prior: str | None, tau: float
) -> dict[str, Any]:
    """Return the numbers of one evaluation; sizes [K] are the training images of each class."""
    evaluation = evaluate_checkpoint(workdir, data, "train", prior=prior, tau=tau)
    found = evaluation._replace(sizes=sizes).summary()
    by_size = {name: part["top1"] for name, part in found["by_size"].items()}
    one = found["table"]["all"]
    return {"what": name, "top1": one["top1"], "ece": one["ece"], **by_size}


def main() -> None:
    cli = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    cli.add_argument("--out", type=Path, required=True)
    cli.add_argument("--epochs", type=int, default=10)
    cli.add_argument("--ratio", type=float, default=40.0, help="of the largest to the smallest")
    args = cli.parse_args()
    pack_if_missing(args.out / "all", PER_CLASS, 0)
    pack_if_missing(args.out / "other", OTHERS, 1)
    write_long_tail(args.out / "all", args.out / "tail", args.ratio)
    plain, adjusted = args.out / "plain", args.out / "adjusted"
    train(args.out / "tail", plain, args.epochs, 0.0)
    train(args.out / "tail", adjusted, args.epochs, 1.0)
    other, sizes = args.out / "other", class_counts(open_split(args.out / "tail", "train"))
    rows = [row("as trained", plain, other, sizes, None, 1.0)]
    rows += [
        row(f"--prior uniform --tau {tau:g}", plain, other, sizes, "uniform", tau) for tau in TAUS
    ]
    rows.append(row("loss.prior_weight = 1", adjusted, other, sizes, None, 1.0))
    (args.out / "priors.json").write_text(json.dumps(rows, indent=1))
    parts = [key for key in rows[0] if key not in ("what", "top1", "ece")]
    print(f"| model | top-1 | {' | '.join(parts)} | ECE |")
    print(f"|---|---|{'---|' * len(parts)}---|")
    for one in rows:
        numbers = [one[key] for key in ("top1", *parts, "ece")]
        print(f"| {one['what']} | {' | '.join(f'{number:.1%}' for number in numbers)} |")


if __name__ == "__main__":
    main()
