"""Classes and synsets as clients get them: names that can be shown, meanings, the tree of all."""

from typing import Any

from i21k.labels import ClassList
from i21k.look.html import visible
from i21k.serve.limits import RequestError
from i21k.wordnet.hierarchy import Hierarchy
from i21k.wordnet.partition import main_parent
from i21k.wordnet.taxonomy import wordnet


def name(class_id: str) -> str:
    """Return the name of a class or synset."""
    return visible(wordnet().name(class_id))


def described(class_id: str) -> dict[str, Any]:
    """Return id and name."""
    return {"id": visible(class_id), "name": name(class_id)}


def as_json(class_id: str, probability: float | None) -> dict[str, Any]:
    """Return id, name and probability."""
    return {**described(class_id), "probability": probability}


def synset(synset_id: str) -> dict[str, Any]:
    """Return the name and the definition of a synset.

    Raises:
        RequestError: if it is not in WordNet.
    """
    taxonomy = wordnet()
    if synset_id not in taxonomy:
        raise RequestError(404, "unknown_synset", "This id is not a synset of WordNet.")
    found = taxonomy[synset_id]
    return {
        "id": found.id,
        "name": taxonomy.name(found.id),
        "words": list(found.lemmas),
        "meaning": found.gloss,
        "parents": [{"id": parent, "name": taxonomy.name(parent)} for parent in found.parents],
    }


def nodes(labels: ClassList, hierarchy: Hierarchy | None) -> dict[str, Any]:
    """Return the classes and the synsets above them, each below one parent.

    WordNet has classes with several parents. Each has the most specific one here, so that the
    probabilities of a node's children add up to its own. Parents come before their children.

    Args:
        labels: the classes of a model.
        hierarchy: of them; None where they are not in WordNet, and are below one root.
    """
    if hierarchy is None:
        return {
            "ids": ["", *map(visible, labels.ids)],
            "names": ["all classes", *map(name, labels.ids)],
            "parents": [-1, *(0 for _ in labels.ids)],
            "labels": [-1, *range(len(labels))],
        }
    taxonomy = wordnet()
    parents = []
    for node_id in hierarchy.ids:
        parent = main_parent(taxonomy, taxonomy[node_id].parents)
        parents.append(-1 if parent is None else hierarchy.node_of[parent])
    return {
        "ids": hierarchy.ids,
        "names": [name(node_id) for node_id in hierarchy.ids],
        "parents": parents,
        "labels": [labels.label_of.get(node_id, -1) for node_id in hierarchy.ids],
    }
