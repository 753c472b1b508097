"""Measure the views `hedge` and `diverse` of a trained model.

    python benchmarks/views_on_models.py --checkpoint runs/quickstart --data data/quickstart
    [--split val]

It measures whether hedge has the accuracy that it was calibrated for, and how many different things
five answers name. Hedge is calibrated on every second image of the split and measured on the
others, then the other way round. Each image is measured once, by a calibration without it. Prints
one JSON line:

    interval  contains 95 of 100 measurements by chance alone, given the result of the calibration
    depth     edges from entity by the shortest way
    classes   answers that are classes of the model
    branches  of five answers, the number of different things (`views.num_branches`)
    right     how often the truth is at or below one of five answers
"""

import argparse
import json
from pathlib import Path
from typing import Any

from absl import logging

from i21k import backend

backend.prepare()

import numpy as np

from i21k.prediction.held_out import held_out, open_held_out
from i21k.prediction.predictor import Predictor
from i21k.wordnet import views
from i21k.wordnet.hierarchy import Hierarchy

ACCURACIES = (0.7, 0.8, 0.9, 0.95, 0.99)


def depths(hierarchy: Hierarchy) -> np.ndarray:
    """Return the edges from the root to each node, by the shortest way."""
    found: list[int] = []
    for parents in hierarchy.parents:
        found.append(min((found[parent] + 1 for parent in parents), default=0))
    return np.array(found)


def hedged(
    probabilities: np.ndarray, labels: np.ndarray, hierarchy: Hierarchy, accuracy: float
) -> dict[str, Any]:
    """Calibrate on one half and measure on the other, both ways."""
    depth, right, nodes = depths(hierarchy), [], []
    halves = [np.arange(start, len(labels), 2) for start in (0, 1)]
    promised = 0.0
    for here, there in (halves, halves[::-1]):
        found = views.calibrate([(probabilities[here], labels[here])], hierarchy, accuracy)
        answers = np.array(
            [
                hierarchy.node_of[a.id]
                for a in views.hedge(probabilities[there], hierarchy, found.generality)
            ]
        )
        nodes.append(answers)
        right.append(hierarchy.covers(answers, labels[there]))
        promised += found.accuracy * len(there) / len(labels)
    answered = np.concatenate(nodes)
    spread = 1.96 * np.sqrt(
        2 * promised * (1 - promised) / len(labels)
    )  # of the calibration and of the measurement
    return {
        "asked": accuracy,
        "calibrated": round(promised, 4),
        "reached": round(float(np.concatenate(right).mean()), 4),
        "interval": [round(promised - spread, 4), round(min(1.0, promised + spread), 4)],
        "depth": round(float(depth[answered].mean()), 2),
        "specificity": round(float(hierarchy.specificity[answered].mean()), 3),
        "classes": round(float(np.isin(answered, hierarchy.class_nodes).mean()), 4),
    }


def five(answers: views.Answers, labels: np.ndarray, hierarchy: Hierarchy) -> dict[str, Any]:
    """Return how good five answers per image are."""
    classes = hierarchy.class_nodes[labels].tolist()
    right = [
        any(hierarchy.node_of[a.id] in hierarchy.ancestors[c] for a in row)
        for row, c in zip(answers, classes, strict=True)
    ]
    return {
        "answers": round(float(np.mean([len(row) for row in answers])), 2),
        "branches": round(
            float(np.mean([views.num_branches([a.id for a in row], hierarchy) for row in answers])),
            2,
        ),
        "right": round(float(np.mean(right)), 4),
        "specificity": round(
            float(
                np.mean(
                    [hierarchy.specificity[hierarchy.node_of[a.id]] for row in answers for a in row]
                )
            ),
            3,
        ),
    }


def main() -> None:
    """Predict the split once, then apply the views."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True, help="working directory of a run")
    parser.add_argument("--data", type=Path, required=True, help="packed directory")
    parser.add_argument("--split", default="val")
    args = parser.parse_args()

    logging.set_verbosity(logging.ERROR)  # Orbax
    model = Predictor(args.checkpoint)
    hierarchy = model.hierarchy
    split = open_held_out(model.trained, args.data, args.split)
    batches = held_out(model.trained, split, model.batch_size)
    probabilities, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    result = {
        "checkpoint": str(args.checkpoint),
        "step": model.trained.origin.step,
        "split": args.split,
        "images": len(labels),
        "classes": len(model.classes),
        "top1": round(float((probabilities.argmax(axis=1) == labels).mean()), 4),
        "class_depth": round(float(depths(hierarchy)[hierarchy.class_nodes[labels]].mean()), 2),
        "hedge": [hedged(probabilities, labels, hierarchy, accuracy) for accuracy in ACCURACIES],
        "top": five(views.top(probabilities, model.classes), labels, hierarchy),
        "diverse": five(views.diverse(probabilities, hierarchy), labels, hierarchy),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
