"""Score planted answers: the true labels of ILSVRC's 50,000 validation images, by a model of
fall11.

    python benchmarks/oracles.py [--real real.json]

`truth` answers with the label. `specific` answers with a class below it where fall11 has one.
`of_1000` is `truth` by a model of the 1,000 classes. It needs no images: the labels come with TFDS,
and `real.json` with github.com/google-research/reassessed-imagenet (or timm, as
`imagenet_real_labels.json`). Prints one JSON line per oracle.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

from i21k.data.sources.tables import ilsvrc2012_val
from i21k.evaluation.real import read_real
from i21k.evaluation.scores import Scores
from i21k.wordnet.class_lists import named
from i21k.wordnet.hierarchy import Hierarchy

BATCH = 250


def main() -> None:
    """Score both oracles."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--real", type=Path)
    args = parser.parse_args()

    fall11, data = named("fall11"), named("ilsvrc2012")
    class_of = ilsvrc2012_val()
    labels = np.array([data.label_of[class_of[name]] for name in sorted(class_of)])
    right_of = read_real(args.real) if args.real else None
    below = Hierarchy(fall11).below(data.ids)
    answers: dict[str, list[int]] = {"truth": [], "specific": [], "of_1000": list(range(len(data)))}
    for class_id, found in zip(data.ids, np.split(below.indices, below.indptr[1:-1]), strict=True):
        own = fall11.label_of.get(class_id, -1)
        answers["truth"].append(own)
        answers["specific"].append(next((k for k in found.tolist() if k != own), own))
    for name, answer_of in answers.items():
        model = data if name == "of_1000" else fall11
        started, scores = time.perf_counter(), Scores(model, data, over=data)
        for first in range(0, len(labels), BATCH):
            some = labels[first : first + BATCH]
            values = np.full((len(some), len(model)), np.log(0.1 / (len(model) - 1)), np.float32)
            answer = np.array(answer_of)[some]
            values[np.flatnonzero(answer >= 0), answer[answer >= 0]] = np.log(0.9)
            scores.add(values, some, right_of and right_of[first : first + BATCH])
        summary = scores.summary()
        table = {column: means["top1"] for column, means in summary["table"].items()}
        result = {
            "oracle": name,
            "count": scores.count,
            **table,
            "below": summary["hierarchy"]["below"],
            "num_real": summary["num_real"],
        }
        result |= {
            f"real_{column}": means["top1"] for column, means in (summary["real"] or {}).items()
        }
        print(json.dumps(result | {"seconds": round(time.perf_counter() - started, 1)}))


if __name__ == "__main__":
    main()
