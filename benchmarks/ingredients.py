"""Measure what each ingredient of a recipe does: on from R1, and off from R2.

    python benchmarks/ingredients.py --out DIR [--seeds 3] [--epochs 4] [--minutes 30]
    [--only ARM ...]
    python benchmarks/ingredients.py --out DIR --data data/tiny_imagenet --batch-size 128
    --learning-rate 0.2 --epochs 6

Trains on the quick start's images, which the program draws, and evaluates on 2,500 other drawn
images. With --data it trains and evaluates on another dataset of WordNet's classes. R0 is the
recipe of 2015 with the batch of the quick start, R1 the same with its accidents repaired, R2 is R1
with the ingredients in `IN_R2`. Each run appends a line to DIR/ingredients.jsonl. A later call does
only what is missing there, so use another DIR for other data, batches or rates. Prints a Markdown
table of all lines: mean and range of the seeds, and the difference to R1 or R2 with the same seeds.
"""

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # recipes are files of the checkout

Values = dict[str, Any]  # of keys of a recipe, by dotted name

R0: Values = {
    "model.init": "uniform",
    "model.bn_momentum": "default",
    "optimizer.learning_rate": 0.05,
    "optimizer.schedule": "constant",
    "optimizer.warmup_epochs": 0.0,
    "optimizer.nesterov": False,
    "optimizer.weight_decay": 1e-5,
    "optimizer.decay": "all",
}
# The default recipe of the project: cosine, He's initial kernels, decay of kernels only.
R1: Values = {"optimizer.warmup_epochs": 0.5}
INGREDIENTS: dict[str, Values] = {
    "schedule linear": {"optimizer.schedule": "linear"},
    "Muon": {"optimizer.name": "muon"},
    "smoothing 0.1": {"loss.smoothing": 0.1},
    "smoothing 0.1 to near classes": {"loss.smoothing": 0.1, "loss.smooth_to": "near"},
    "0.3 on ancestors": {"loss.smoothing": 0.3, "loss.smooth_to": "ancestors"},
    "sigmoid": {"loss.name": "sigmoid"},
    "mixup 0.2": {"augment.mixup": 0.2},
    "CutMix 1": {"augment.cutmix": 1.0},
    "alternating mirror": {"data.mirror_order": "alternating"},
    "moving average 0.99": {"ema.decay": 0.99},
    "clip 1": {"optimizer.clip_norm": 1.0},
    "revision modern": {"model.revision": "modern"},
}
IN_R2 = ("schedule linear", "Muon", "smoothing 0.1", "alternating mirror", "revision modern")


def arms() -> dict[str, Values]:
    """Return the values of each arm, those of the quick start's recipe excepted."""
    r2 = R1 | {key: value for name in IN_R2 for key, value in INGREDIENTS[name].items()}
    found = {"R0": R0, "R1": R1, "R2": r2}
    for name, values in INGREDIENTS.items():
        found[f"R1 with {name}"] = R1 | values
    for name in IN_R2:
        kept = [other for other in IN_R2 if other != name]
        found[f"R2 without {name}"] = R1 | {
            key: value for other in kept for key, value in INGREDIENTS[other].items()
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=0.1, help="except that of R0")
    parser.add_argument("--data", type=Path, help="packed directory instead of drawn images")
    parser.add_argument("--minutes", type=float, default=60.0, help="start no run after this time")
    parser.add_argument("--only", nargs="+", choices=arms(), default=arms(), metavar="ARM")
    parser.add_argument("--table", action="store_true", help="print the table of what is there")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    # Seeds of one arm share a compiled program. This must come before JAX is imported.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(args.out.resolve() / "compiled"))
    lines, until = args.out / "ingredients.jsonl", time.monotonic() + 60 * args.minutes
    done = read(lines)
    todo = [
        (name, seed)
        for seed in range(args.seeds)
        for name in arms()
        if name in args.only and (name, seed, args.epochs, args.image_size) not in done
    ]
    for name, seed in [] if args.table else todo:
        if time.monotonic() > until:
            break
        common = {"seed": seed, "epochs": args.epochs, "image_size": args.image_size}
        common["batch_size"] = args.batch_size
        values = {"optimizer.learning_rate": args.learning_rate} | arms()[name]
        row = {"arm": name, **common, **run(values, args.out, args.data, **common)}
        with lines.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)
    shown = (args.epochs, args.image_size)
    print(table([row for key, row in read(lines).items() if key[2:] == shown]))


def run(values: Values, out: Path, data: Path | None, **common: int) -> Values:
    """Train one recipe, evaluate its last checkpoint, and return the numbers."""
    from configs import quickstart
    from i21k.data.format.splits import open_split
    from i21k.data.synthetic import pack_if_missing
    from i21k.train import loop
    from i21k.trained import load_checkpoint

    config = quickstart.get_config()
    config.update(common)
    config.data.directory, config.data.synthetic_per_class = str(data or out / "train"), 0
    config.evaluation.sets, config.log.keep_best = "none", "none"
    config.log.every_steps = 10_000
    with config.ignore_type():
        config.update_from_flattened_dict(values)
    if data is None:
        pack_if_missing(out / "train", 200, 0)
        pack_if_missing(out / "other", 100, 1)
    held_out = open_split(data, "val") if data else open_split(out / "other", "train")
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as workdir:
        with (out / "log.txt").open("a") as log, contextlib.redirect_stdout(log):
            loop.run(config, workdir)
        seconds = time.perf_counter() - started
        return score(load_checkpoint(workdir), held_out) | {"seconds": round(seconds, 1)}


def score(model: Any, held_out: Any) -> Values:
    """Return accuracy, loss, how far mistakes are, and what `hedge` names where 90 % is right."""
    import numpy as np

    from i21k.data.load import loader
    from i21k.errors import UserError
    from i21k.evaluation.scores import Scores
    from i21k.wordnet.hedge import calibrate
    from i21k.wordnet.hierarchy import Hierarchy

    scores, answers = Scores(model.classes, held_out.classes), []
    options = loader.eval_options(250, model.image_size, model.crop_fraction)
    with loader.batches(held_out, options) as batches:
        for batch in batches:
            real = batch.weights > 0
            answers.append((model.probabilities(batch.images[real]), batch.labels[real]))
            scores.add(np.log(np.maximum(answers[-1][0], 1e-38)), batch.labels[real])
    summary = scores.summary()
    try:
        specificity = calibrate(answers, Hierarchy(model.classes), 0.9).specificity
    except UserError:  # sigmoid: no distribution over classes
        specificity = None
    keys = ("top1", "loss", "ece")
    return {key: summary["table"]["all"][key] for key in keys} | {
        "mistake_distance": summary["hierarchy"]["mistake_distance"],
        "specificity_at_90": specificity,
    }


def read(lines: Path) -> dict[tuple[str, int, int, int], Values]:
    """Return the lines of a file by arm, seed, epochs and image size; none if there is no file."""
    rows = map(json.loads, lines.read_text().splitlines()) if lines.exists() else ()
    return {(row["arm"], row["seed"], row["epochs"], row["image_size"]): row for row in rows}


def table(rows: list[Values]) -> str:
    """Return arms by rows: top-1 over the seeds, and the difference to the arm it is made from."""
    of_arm: dict[str, dict[int, Values]] = {}
    for row in rows:
        of_arm.setdefault(row["arm"], {})[row["seed"]] = row
    text = [
        "| recipe | seeds | top-1 | from - to | difference | distance of mistakes |"
        " specificity at 90 % | seconds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for arm in [arm for arm in arms() if arm in of_arm]:
        found = of_arm[arm]
        top1 = [100 * row["top1"] for row in found.values()]
        base = of_arm.get(arm.split(" ")[0], {}) if " " in arm else {}
        pairs = [100 * (found[s]["top1"] - base[s]["top1"]) for s in found if s in base]
        difference = f"{statistics.mean(pairs):+.1f}" if pairs else ""
        distance = statistics.mean(row["mistake_distance"] for row in found.values())
        specificities = [row["specificity_at_90"] for row in found.values()]
        specific = "" if None in specificities else f"{statistics.mean(specificities):.3f}"
        seconds = statistics.median(row["seconds"] for row in found.values())
        text.append(
            f"| {arm} | {len(found)} | {statistics.mean(top1):.1f} | {min(top1):.1f} -"
            f" {max(top1):.1f} | {difference} | {distance:.2f} | {specific} | {seconds:.0f} |"
        )
    return "\n".join(text)


if __name__ == "__main__":
    main()
