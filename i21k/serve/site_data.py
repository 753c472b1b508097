"""What a page needs to answer without a server: a description of the model, and WordNet.

All of it depends on the model and its classes only, so it is computed once and written as JSON.
"""

import base64
import dataclasses
from typing import Any

import numpy as np

from i21k.images.decode import MAX_PIXELS
from i21k.labels import ClassList
from i21k.look.html import visible
from i21k.prediction.model_views import FOLD_ONTO
from i21k.serve import classes
from i21k.serve.models import ServedModel, expression_help
from i21k.trained.onnx_model import OnnxModel
from i21k.trained.preprocessing import MAX_FILE_BYTES
from i21k.wordnet import class_lists, diverse
from i21k.wordnet.hierarchy import Hierarchy
from i21k.wordnet.partition import by_specificity
from i21k.wordnet.taxonomy import wordnet

Json = dict[str, Any]


def answering_json(served: ServedModel) -> Json:
    """Return what is needed to answer from probabilities: views, calibration, classes."""
    predictor = served.predictor
    ids, has_wordnet = predictor.classes.ids, not served.no_wordnet
    described = served.describe()
    found = described | {
        "views": {name: v for name, v in described["views"].items() if not v["unusable"]},
        "calibrated": [
            {"wanted": wanted, **point._asdict()} for wanted, point in served.calibrated
        ],
        "temperature": predictor.calibration.temperature(),
        "classes": {
            "ids": list(map(visible, ids)),
            "names": None if has_wordnet else list(map(classes.name, ids)),
            "order": np.argsort(np.array(ids)).tolist(),
        },
        "has_wordnet": has_wordnet,
        "diverse": {"floor": diverse.FLOOR, "least": diverse.LEAST, "share": diverse.SHARE},
        "limits": {"max_bytes": MAX_FILE_BYTES, "max_pixels": MAX_PIXELS},
        "expression": expression_help(),
    }
    if has_wordnet:
        known = class_lists.named("fall11").ids + class_lists.named(FOLD_ONTO).ids
        found["information"] = _information(predictor.hierarchy)
        found["fold_information"] = _information(Hierarchy(ClassList.sorted(ids + known)))
    return found


def network_json(onnx: OnnxModel, file: str, num_bytes: int) -> Json:
    """Return what is needed to get outputs from an image.

    Args:
        onnx: the model, as it is written.
        file: its name in the folder.
        num_bytes: of that file.
    """
    graph = onnx.graph
    return {
        "file": {"name": file, "bytes": num_bytes},
        "input": graph.input._asdict(),
        "normalisation": dataclasses.asdict(graph.normalisation),
        "output": graph.output,
        "ends_in": graph.ends_in,
        "preprocessing": onnx.preprocessing.to_json(),
    }


def wordnet_json() -> Json:
    """Return all synsets. Their numbers are those of the taxonomy, parents before children.

    Of several parents, the most specific one comes first, so that the first is the main parent.
    """
    taxonomy = wordnet()
    number_of = taxonomy.number_of
    ranks = class_lists.named("released2015").label_of
    return {
        "ids": [synset.id for synset in taxonomy.synsets],
        "names": [visible(name) for name in taxonomy.names],
        "lemmas": [list(synset.lemmas or (synset.id,)) for synset in taxonomy.synsets],
        "parents": [
            [number_of[parent] for parent in by_specificity(taxonomy, synset.parents)]
            for synset in taxonomy.synsets
        ],
        "basic": list(taxonomy.basic),
        "ranks": [ranks.get(synset.id, -1) for synset in taxonomy.synsets],
        "lists": {name: _bits(class_lists.named(name)) for name in class_lists.NAMES},
    }


def meanings_json() -> dict[str, str]:
    """Return the definition of each synset."""
    return {synset.id: visible(synset.gloss) for synset in wordnet().synsets}


def _information(hierarchy: Hierarchy) -> list[tuple[int, float]]:
    """Return the information content of a node, for each number of classes at or below one."""
    return sorted(set(zip(hierarchy.sizes.tolist(), hierarchy.ic.tolist(), strict=True)))


def _bits(listed: ClassList) -> str:
    """Return which synsets are in a list, a bit for each, in base64; the lowest bit first."""
    has = np.zeros(len(wordnet()), bool)
    has[[wordnet().number_of[class_id] for class_id in listed.ids]] = True
    return base64.b64encode(np.packbits(has, bitorder="little").tobytes()).decode("ascii")
