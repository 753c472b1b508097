"""Made-up evaluations for pages, without a model or images."""

from typing import Any

import numpy as np

from i21k.evaluation.predictions import Predictions
from i21k.evaluation.stored import FORMAT, Stored
from i21k.labels import ClassList


def made_up(classes: ClassList, per_class: int = 3, seed: int = 0, accuracy: float = 0.6) -> Stored:
    """Return an evaluation of `per_class` images of each class with random answers."""
    rng, num = np.random.default_rng(seed), len(classes)
    truths = np.repeat(np.arange(num), per_class)
    right = rng.random(len(truths)) < accuracy
    first = np.where(right, truths, (truths + rng.integers(1, min(num, 9), len(truths))) % num)
    confidence = rng.uniform(0.2, 1, len(truths))
    others = rng.integers(0, num, (4, len(truths)))
    predictions = Predictions(
        classes=classes,
        records=np.arange(len(truths)),
        files=[f"{classes.ids[k]}/{n}.JPEG" for n, k in enumerate(truths)],
        truths=truths,
        ranks=np.where(right, 1, rng.integers(2, num + 1, len(truths))),
        answers=np.stack([first, *others], axis=1),
        probabilities=np.stack(
            [confidence, *((1 - confidence) * share for share in (0.4, 0.2, 0.1, 0.05))], axis=1
        ),
        hedges=[("n00001740", 0.99) if k % 2 else None for k in range(len(truths))],
    )
    column = {"top1": float(right.mean()), "top5": 0.8, "top20": 0.9, "loss": 1.5, "ece": 0.1}
    bins = [{"images": len(truths), "confidence": 0.6, "accuracy": float(right.mean())}]
    summary: dict[str, Any] = {
        "format": FORMAT,
        "date": "2026-01-02T03:04:05+00:00",
        "checkpoint": "w",
        "step": 100,
        "data": "no such directory",
        "split": "val",
        "fingerprint": "f",
        "count": len(truths),
        "recalibrated_on": 0,
        "omitted": {},
        "lacking": {"classes": [], "images": 0},
        "classes": {"model": num, "data": num, "seen": num},
        "table": {"all": column},
        "mean_of_classes": column,
        "hierarchy": None,
        "by_size": None,
        "reliabilities": {"all": bins},
        "class_sizes": {class_id: 10 + k for k, class_id in enumerate(classes.ids)},
    }
    return Stored(summary, predictions)
