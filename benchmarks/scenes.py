"""Score every view on scenes: images with 2 to 4 objects, where the truth is a set of classes.

    python benchmarks/scenes.py --checkpoint runs/quickstart [--scenes 500] [--k 5]
    python benchmarks/scenes.py --checkpoint runs/tiny --tiny-imagenet PATH/tiny_imagenet

Scenes are mosaics (each image in a tile of its own) and overlays (images blended with equal
weights), in turn. By default the quick start's painter draws the images. With --tiny-imagenet, they
are validation images from PATH/val, in one folder per wnid. Classes that the model lacks are
skipped. `hedge` is calibrated for 80 % on single images of the same source. Prints one JSON line:

    exact        share of the true classes that an answer names
    near         share of the true classes within WordNet distance 2 of an answer
    covered      share of the true classes at or below an answer
    specificity  mean specificity of the answers, 0 (entity) to 1 (a class with none below)
    foreign      share of the answers with no true class at or below them
    answers      mean number of answers

`diverse, share 1` is `diverse` as it was before 26 November 2026: inner synsets may always be
answers, and answers have at least 1 %.

Each view answers twice: from the whole image, and with regions (`i21k predict --regions`), also for
the single images, whose answers should stay. Regions are half as high and wide as the image, so the
tiles of a mosaic are among them. `--shift` moves the content of each mosaic by a random part of a
tile, around the edges, so that they are not.
`--bound N` adds the row `bound` (`benchmarks/scenes_bound.py`), learned from N other scenes.
"""

import argparse
import collections
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.scenes_bound import learned_bound
from i21k.data import synthetic
from i21k.errors import UserError
from i21k.labels import ClassList
from i21k.prediction.predictor import Predictor
from i21k.wordnet import views
from i21k.wordnet.answers import Answers, Probabilities
from i21k.wordnet.hierarchy import Hierarchy

Pixels = UInt8[np.ndarray, "S S 3"]
Draw = Callable[[str, np.random.Generator], Pixels]  # an image of a class
Scene = tuple[Pixels, list[str]]  # with its true classes

NEAR = 2  # edges in WordNet
HEDGE_ACCURACY = 0.8


def mosaic(images: Sequence[Pixels]) -> Pixels:
    """Put 2 to 4 images beside each other in one square, each in a tile of its own.

    The images keep their pixels: a photograph of several objects is larger than a network's input.
    """
    size = len(images[0])
    canvas = np.full((2 * size, 2 * size, 3), 127, np.uint8)
    corners = [(0, 0), (0, size), (size, 0), (size, size)]
    if len(images) == 2:
        corners = [(size // 2, 0), (size // 2, size)]
    for (row, column), image in zip(corners, images, strict=False):
        canvas[row : row + size, column : column + size] = image
    return canvas


def shifted(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Move the content of an image by up to half its size, around the edges."""
    down, right = rng.integers(len(image) // 2, size=2).tolist()
    return np.roll(image, (down, right), axis=(0, 1))


def overlay(images: Sequence[Pixels]) -> Pixels:
    """Blend images with equal weights."""
    return np.mean(np.stack(images), axis=0).round().astype(np.uint8)


def scenes(
    classes: Sequence[str], draw: Draw, num_scenes: int, seed: int, shift: bool = False
) -> Iterator[Scene]:
    """Yield scenes of 2 to 4 different classes: mosaics and overlays, in turn."""
    rng = np.random.default_rng(seed)
    for n in range(num_scenes):
        chosen = rng.choice(len(classes), size=2 + n // 2 % 3, replace=False)
        truth = [classes[c] for c in chosen]
        images = [draw(class_id, rng) for class_id in truth]
        made = (overlay if n % 2 else mosaic)(images)
        yield shifted(made, rng) if shift and n % 2 == 0 else made, truth


def singles(classes: Sequence[str], draw: Draw, num_images: int, seed: int) -> Iterator[Scene]:
    """Yield images of one class, to calibrate `hedge`."""
    rng = np.random.default_rng(seed)
    for class_id in rng.choice(classes, size=num_images).tolist():
        yield draw(class_id, rng), [class_id]


def painter(size_px: int) -> tuple[list[str], Draw]:
    """Return the classes that the quick start's painter can draw, and the painter."""
    ids = list(synthetic.SYNSETS)
    number = {class_id: n for n, class_id in enumerate(ids)}

    def draw(class_id: str, rng: np.random.Generator) -> Pixels:
        # The packed images of the quick start have much smaller seeds.
        return synthetic.draw(number[class_id], int(rng.integers(2**30, 2**31)), size_px)

    return ids, draw


def folders(validation: Path) -> tuple[list[str], Draw]:
    """Return the classes of a folder with one folder of images per wnid, and what opens them."""
    if not validation.is_dir():
        raise UserError(f"{validation} is not a directory. Give a directory with val/WNID/*.JPEG.")
    files = {
        folder.name: sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpeg", ".jpg"))
        for folder in sorted(validation.iterdir())
        if folder.is_dir()
    }
    files = {class_id: paths for class_id, paths in files.items() if paths}
    if not files:
        raise UserError(f"{validation} has no images. Use the layout val/WNID/*.JPEG.")

    def draw(class_id: str, rng: np.random.Generator) -> Pixels:
        with Image.open(files[class_id][rng.integers(len(files[class_id]))]) as image:
            return np.asarray(image.convert("RGB"))

    return list(files), draw


def score(
    answers: Answers, truths: Sequence[Sequence[str]], hierarchy: Hierarchy
) -> dict[str, float]:
    """Compare the answers of one view with the true classes."""
    taxonomy = hierarchy.taxonomy
    # Answers may be synsets that are not classes, so distances are over the nodes.
    nodes = Hierarchy(ClassList(hierarchy.ids), taxonomy)
    label_of = nodes.classes.label_of
    sums: dict[str, float] = collections.defaultdict(float)
    for row, truth in zip(answers, truths, strict=True):
        ids = [answer.id for answer in row]
        above = [taxonomy.ancestors[taxonomy.number_of[class_id]] for class_id in truth]
        numbers = [taxonomy.number_of[answer] for answer in ids]
        sums["true"] += len(truth)
        sums["answers"] += len(ids)
        sums["exact"] += sum(class_id in ids for class_id in truth)
        sums["covered"] += sum(any(n in ancestors for n in numbers) for ancestors in above)
        sums["foreign"] += sum(not any(n in ancestors for ancestors in above) for n in numbers)
        sums["specificity"] += sum(hierarchy.specificity[hierarchy.node_of[i]] for i in ids)
        if ids:
            mine = np.array([label_of[answer] for answer in ids])
            for class_id in truth:
                there = np.full(len(mine), label_of[class_id])
                sums["near"] += int(nodes.distances(there, mine).min() <= NEAR)
    named = max(1, sums["answers"])
    scores = {key: sums[key] / max(1, sums["true"]) for key in ("exact", "near", "covered")}
    scores |= {key: sums[key] / named for key in ("specificity", "foreign")}
    return {**scores, "answers": sums["answers"] / max(1, len(answers))}


def score_views(
    probabilities: Probabilities,
    truths: Sequence[Sequence[str]],
    hierarchy: Hierarchy,
    k: int,
    generality: float,
    among: Sequence[str],
) -> dict[str, dict[str, float]]:
    """Score every view. `among` has the classes of `subset`, and the synsets of `fold`."""
    classes = hierarchy.classes
    chosen = np.array([class_id in set(among) for class_id in classes.ids])
    answers = {
        "top": views.top(probabilities, classes, k),
        "subset": views.subset(probabilities, classes, chosen, k),
        "fold": views.fold(probabilities, hierarchy, among, k),
        "basic": views.basic(probabilities, hierarchy, k),
        "diverse": views.diverse(probabilities, hierarchy, k),
        "diverse, share 1": views.diverse(probabilities, hierarchy, k, least=0.01, share=1),
        "hedge": [[a] for a in views.hedge(probabilities, hierarchy, generality)],
    }
    return {view: score(row, truths, hierarchy) for view, row in answers.items()}


def seen(
    model: Predictor, made: Iterable[Scene], regions: bool = False
) -> tuple[Probabilities, list[list[str]]]:
    """Return the model's probabilities for some scenes, and the true classes."""
    images, truths = zip(*made, strict=True)
    return model.probabilities(list(images), regions), list(truths)


def main() -> None:
    """Make the scenes, predict, score every view."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True)
    add("--tiny-imagenet", type=Path, help="folder with val/WNID/*.JPEG")
    add("--scenes", type=int, default=500)
    add("--k", type=int, default=5)
    add("--seed", type=int, default=0)
    add("--shift", action="store_true", help="move the content of mosaics by a random part")
    add("--bound", type=int, default=0, metavar="N", help="learn from N other scenes")
    args = parser.parse_args()
    model = Predictor(args.checkpoint, batch_size=20)
    hierarchy = model.hierarchy
    source = folders(args.tiny_imagenet / "val") if args.tiny_imagenet else painter(72)
    classes = [class_id for class_id in source[0] if class_id in model.classes.label_of]
    if len(classes) < 4:
        raise UserError(
            f"the model in {args.checkpoint} has {len(classes)} of the {len(source[0])} classes of"
            " the images. Use a model that was trained on at least 4 of them."
        )
    alone = list(singles(classes, source[1], args.scenes, args.seed + 1))
    held_out, labels = seen(model, alone)
    numbers = np.array([model.classes.label_of[truth] for (truth,) in labels])
    found = views.calibrate([(held_out, numbers)], hierarchy, HEDGE_ACCURACY)
    made = list(scenes(classes, source[1], args.scenes, args.seed, args.shift))
    report = {
        "source": "tiny_imagenet" if args.tiny_imagenet else "painter",
        "checkpoint": str(args.checkpoint),
        "top1 on single images": round(float((held_out.argmax(axis=1) == numbers).mean()), 3),
        "scenes": len(made),
        "shift": args.shift,
        "k": args.k,
        "classes": len(classes),
    }
    for regions in (False, True):
        if regions:
            held_out, labels = seen(model, alone, regions)
        report["single images, exact" + ", with regions" * regions] = {
            view: round(score(answers, labels, hierarchy)["exact"], 3)
            for view, answers in (
                ("top, one answer", views.top(held_out, model.classes, 1)),
                ("top", views.top(held_out, model.classes, args.k)),
                ("diverse", views.diverse(held_out, hierarchy, args.k)),
            )
        }
        probabilities, truths = seen(model, made, regions)
        scores = score_views(probabilities, truths, hierarchy, args.k, found.generality, classes)
        if args.bound and not regions:
            others = scenes(classes, source[1], args.bound, args.seed + 2, args.shift)
            learn = seen(model, others)
            answers = learned_bound(*learn, probabilities, model.classes, args.k)
            scores["bound"] = score(answers, truths, hierarchy)
        looked_at = "with regions" if regions else "whole image"
        report[looked_at] = {
            v: {key: round(float(x), 3) for key, x in s.items()} for v, s in scores.items()
        }
        for first, kind in enumerate(("mosaics", "overlays")):
            of_kind = score_views(
                probabilities[first::2], truths[first::2], hierarchy, args.k, 0.0, classes
            )
            report[f"{looked_at}, exact on {kind}"] = {
                v: round(s["exact"], 3) for v, s in of_kind.items() if v != "hedge"
            }
    print(json.dumps(report))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
