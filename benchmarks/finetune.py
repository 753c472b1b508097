"""What is fine-tuning worth on real images? Pre-train on 150 classes, transfer to 50 others.

Tiny-ImageNet (200 classes) is divided by class: every fourth class is "new". A network learns the
150 others. Then, with 5, 20 and all training images of each new class: fine-tuning by
`configs/finetune.py`, training from scratch by `configs/own_images.py` (with more steps), nearest
neighbours and a linear probe on features. And before any fine-tuning: how often the view `fold`
names a synset above an unseen class.

Command:  python benchmarks/finetune.py --data data/tiny_imagenet --out runs/finetune STAGE ...

Stages, in this order: data, pretrain, probe, fold, finetune, scratch, table. Each one skips what is
there. All runs are of 32 px, width 0.25.
"""

import argparse
import csv
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from i21k import backend

ROOT = Path(__file__).parents[1]
EVERY = 4  # each fourth class is new
SHOTS = (5, 20, 0)  # images of each new class; 0: all
PRETRAIN_EPOCHS = 15
SCRATCH_STEPS = 2000  # four times those of fine-tuning; at least, with all images
SIZE = (
    *("--config.image_size=32", "--config.evaluation.image_size=0"),
    *("--config.data.crop_fraction=1.0", "--config.devices=1"),
)
NETWORK = ("--config.model.width=0.25",)
COMMON = ("--config.evaluation.batch_size=100", "--config.log.every_steps=100")


def data(args: argparse.Namespace) -> None:
    """Write the packed datasets: base, and the new classes with 5, 20 and all images."""
    from i21k.data.format.readers import all_records
    from i21k.data.format.records import decode_example
    from i21k.data.format.splits import open_split
    from i21k.labels import ClassList

    splits = {name: open_split(args.data, name) for name in ("train", "val")}
    ids = splits["train"].classes.ids
    new = ClassList(ids[::EVERY])
    base = ClassList(tuple(id for id in ids if id not in new.label_of))
    kept: dict[str, list[tuple[bytes, str]]] = {
        name: [(jpeg, ids[label]) for jpeg, label in map(decode_example, all_records(split))]
        for name, split in splits.items()
    }
    rng = np.random.default_rng(0)
    order = rng.permutation(len(kept["train"])).tolist()
    kept["train"] = [kept["train"][n] for n in order]
    _write(args.out / "data" / "base", base, kept["train"], kept["val"])
    for shots in SHOTS:
        counts: dict[str, int] = {}
        train = []
        for jpeg, class_id in kept["train"]:
            counts[class_id] = counts.get(class_id, 0) + 1
            if not shots or counts[class_id] <= shots:
                train.append((jpeg, class_id))
        _write(_data_of(args, shots), new, train, kept["val"])


def _write(directory: Path, classes: Any, train: list[Any], val: list[Any]) -> None:
    from i21k.data.format import shards
    from i21k.data.format.manifest import Manifest, SplitManifest
    from i21k.data.format.records import encode_example
    from i21k.data.format.tfds import write_metadata

    if (directory / "manifest.json").exists():
        return
    directory.mkdir(parents=True)
    written, manifest = {}, {}
    options = {"short_side": 64, "quality": 90}
    for name, images in (("train", train), ("val", val)):
        records = [
            encode_example(jpeg, classes.label_of[class_id], f"{name}/{k}.JPEG")
            for k, (jpeg, class_id) in enumerate(images)
            if class_id in classes.label_of
        ]
        path = directory / shards.shard_name("tiny", name, 0, 1)
        written[name] = (shards.write_shard(path, records),)
        manifest[name] = SplitManifest(written[name], options, {})
    write_metadata(directory, "tiny", classes, written)
    Manifest("tiny", classes.hash, manifest).write(directory)


def _data_of(args: argparse.Namespace, shots: int) -> Path:
    return Path(args.out) / "data" / f"new-{shots or 'all'}"


def _train(args: argparse.Namespace, name: str, config: str, *flags: str) -> None:
    """Train a run, unless it is finished. The seconds of the whole command go to a file."""
    workdir = Path(args.out) / name
    if (workdir / "seconds").exists():
        return
    began = time.perf_counter()
    command = [sys.executable, "launch.py", "--config", config, "--workdir", str(workdir)]
    subprocess.run([*command, *COMMON, *flags], cwd=ROOT, check=True)
    (workdir / "seconds").write_text(f"{time.perf_counter() - began:.1f}\n")


def pretrain(args: argparse.Namespace) -> None:
    """Train on the 150 classes, by the modern recipe."""
    directory = Path(args.out).resolve() / "data" / "base"
    _train(
        args, "pretrained", "configs/tiny_imagenet_modern.py", *SIZE, *NETWORK,
        f"--config.data.directory={directory}", f"--config.epochs={PRETRAIN_EPOCHS}",
    )  # fmt: skip


def finetune(args: argparse.Namespace) -> None:
    """Fine-tune by the recipe, with evaluations on the way."""
    parent = Path(args.out).resolve() / "pretrained"
    for shots in SHOTS:
        directory = _data_of(args, shots).resolve()
        every = 50 if shots else 200
        _train(
            args, f"finetune-{shots or 'all'}", f"configs/finetune.py:{directory}:{parent}",
            "--config.devices=1", f"--config.evaluation.every_steps={every}", *args.flags,
        )  # fmt: skip


def scratch(args: argparse.Namespace) -> None:
    """Train from scratch, with at least `SCRATCH_STEPS` steps."""
    for shots in SHOTS:
        directory = _data_of(args, shots).resolve()
        num = 50 * (shots or 250)
        epochs = max(8, round(SCRATCH_STEPS * 32 / num))
        _train(
            args, f"scratch-{shots or 'all'}", f"configs/own_images.py:{directory}", *SIZE,
            *NETWORK, f"--config.epochs={epochs}", "--config.batch_size=32",
            "--config.data.min_area=0.35", f"--config.optimizer.warmup_epochs={epochs / 20}",
            "--config.evaluation.every_steps=250",
        )  # fmt: skip


def probe(args: argparse.Namespace) -> None:
    """Probe the features of the pre-trained network."""
    from i21k.evaluation.probe import probe as run_probe
    from i21k.prediction.embed import embed

    found: dict[str, Any] = {}
    for shots in SHOTS:
        began = time.perf_counter()
        train, test = (
            embed(Path(args.out) / "pretrained", _data_of(args, shots), split)
            for split in ("train", "val")
        )
        embedded = time.perf_counter()
        summary = run_probe(train, test, shots=()).summary()
        summary |= {"embed_s": embedded - began, "probe_s": time.perf_counter() - embedded}
        found[str(shots)] = summary
        print(shots, json.dumps(summary))
    (Path(args.out) / "probe.json").write_text(json.dumps(found))


def fold(args: argparse.Namespace) -> None:
    """Fold the pre-trained model's answers onto synsets above the unseen classes.

    For each unseen class the lowest synset above it that has known classes below it is a
    candidate. An answer is right if it is above the true class.
    """
    from i21k.data.dataset import open_dataset
    from i21k.prediction.predictor import Predictor
    from i21k.wordnet.taxonomy import wordnet

    model = Predictor(Path(args.out) / "pretrained", batch_size=32)
    data = open_dataset(_data_of(args, 0), "val")
    taxonomy = wordnet()

    def above(class_id: str) -> set[str]:
        numbers = taxonomy.ancestors[taxonomy.number_of[class_id]]
        return {taxonomy.synsets[number].id for number in numbers}

    sizes = dict(zip(model.hierarchy.ids, model.hierarchy.sizes.tolist(), strict=True))
    lowest = {
        class_id: min((a for a in above(class_id) if a in sizes), key=lambda a: sizes[a])
        for class_id in data.classes.ids
    }
    onto = sorted(set(lowest.values()))
    right = exact = 0
    chances = []
    for first in range(0, len(data), 32):
        numbers = range(first, min(first + 32, len(data)))
        images = [data.jpeg(number) for number in numbers]
        from i21k.wordnet import views

        answers = views.fold(model.probabilities(images), model.hierarchy, onto, 1, once=True)
        for number, (answer,) in zip(numbers, answers, strict=True):
            truth = data.classes.ids[data.label(number)]
            right += answer.id in above(truth)
            exact += answer.id == lowest[truth]
            chances.append(len(above(truth) & set(onto)) / len(onto))
    found = {
        "images": len(data),
        "synsets": len(onto),
        "right": right / len(data),
        "lowest": exact / len(data),
        "chance": float(np.mean(chances)),
    }
    print(json.dumps(found))
    (Path(args.out) / "fold.json").write_text(json.dumps(found))


def table(args: argparse.Namespace) -> None:
    """Print the tables of the documentation."""
    out = Path(args.out)
    probes = json.loads((out / "probe.json").read_text())
    print("| images a class | method | top-1 | training, s | until scratch's accuracy, s |")
    print("|---|---|---|---|---|")
    for shots in SHOTS:
        name = shots or "all"
        rows = {kind: _rows(out / f"{kind}-{name}") for kind in ("scratch", "finetune")}
        goal = rows["scratch"][-1][1]
        for kind, title in (("scratch", "from scratch"), ("finetune", "fine-tuned")):
            seconds, top1 = rows[kind][-1]
            reached = next((s for s, accuracy in rows[kind] if accuracy >= goal), None)
            until = "-" if reached is None else f"{reached:.0f}"
            print(f"| {name} | {title} | {top1:.1%} | {seconds:.0f} | {until} |")
        for kind, title in (("ridge", "linear probe"), ("knn", "nearest neighbours")):
            one = probes[str(shots)]
            seconds = one["embed_s"] + one["probe_s"]
            print(f"| {name} | {title} | {one['accuracy'][kind]['top1']:.1%} | {seconds:.0f} | - |")
    print()
    for shots in SHOTS:
        for kind in ("finetune", "scratch"):
            name = f"{kind}-{shots or 'all'}"
            line = ", ".join(f"{s:.0f} s {accuracy:.1%}" for s, accuracy in _rows(out / name))
            print(f"{name}: {line}")
    print((out / "fold.json").read_text())


def _rows(workdir: Path) -> list[tuple[float, float]]:
    """Return seconds of training so far and validation accuracy at each evaluation."""
    with (workdir / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    found, before = [], 0.0
    for row in rows:
        seconds = before + float(row["train_s"])
        found.append((seconds, float(row["val_top1"])))
        if row["epoch"].isdecimal():
            before = seconds
    return found


STAGES: dict[str, Callable[[argparse.Namespace], None]] = {
    stage.__name__: stage for stage in (data, pretrain, probe, fold, finetune, scratch, table)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="packed Tiny-ImageNet")
    parser.add_argument("--out", type=Path, default=Path("runs/finetune"))
    parser.add_argument("--flags", nargs="*", default=[], help="of fine-tuning, KEY=VALUE")
    parser.add_argument("stages", nargs="+", choices=STAGES, help="what to do, in this order")
    args = parser.parse_args()
    args.flags = [f"--config.{flag}" for flag in args.flags]
    backend.prepare()
    for stage in args.stages:
        STAGES[stage](args)


if __name__ == "__main__":
    main()
