"""Answers drawn as an indented tree of text, in their order in WordNet."""

from collections.abc import Iterable
from typing import NamedTuple

from i21k.wordnet.answers import Answer
from i21k.wordnet.partition import main_parent
from i21k.wordnet.taxonomy import Taxonomy, wordnet


class Row(NamedTuple):
    """One line of an outline."""

    id: str
    depth: int  # 0: the root
    probability: float | None  # None: not an answer
    lead: str  # what is drawn before the name in a text


def outline(answers: Iterable[Answer], taxonomy: Taxonomy | None = None) -> str:
    """Draw answers as a tree, with the answers below a synset under it, the most probable first.

    See `rows` for what is shown.
    """
    taxonomy = wordnet() if taxonomy is None else taxonomy
    lines = [(row.lead + taxonomy.name(row.id), row.probability) for row in rows(answers, taxonomy)]
    width = max(len(text) for text, _ in lines)
    return "\n".join(text if p is None else f"{text:{width}}  {p:6.1%}" for text, p in lines)


def rows(answers: Iterable[Answer], taxonomy: Taxonomy | None = None) -> list[Row]:
    """Return the lines of the tree of some answers, from the root down.

    Of the synsets above the answers, only the root and those where the tree branches are shown. Of
    several parents, the most specific one is used (as in `i21k.wordnet.partition`). Ids that are
    not in the taxonomy are below the root.
    """
    taxonomy = wordnet() if taxonomy is None else taxonomy
    probability = {answer.id: answer.probability for answer in answers}
    root = taxonomy.synsets[0].id
    children: dict[str, set[str]] = {root: set()}
    for answer_id in probability:
        node = answer_id
        while node != root:
            parent = main_parent(taxonomy, taxonomy[node].parents) if node in taxonomy else root
            assert parent is not None  # only the root has none
            children.setdefault(node, set())
            children.setdefault(parent, set()).add(node)
            node = parent
    found: list[Row] = []

    def weight(node: str) -> float:
        return max([probability.get(node, 0.0), *map(weight, children[node])])

    def draw(node: str, lead: str, rest: str) -> None:
        found.append(Row(node, len(lead) // 3, probability.get(node), lead))
        below = sorted(map(skip, children[node]), key=lambda n: (-weight(n), n))
        for n in below:
            draw(
                n,
                rest + ("└─ " if n == below[-1] else "├─ "),
                rest + ("   " if n == below[-1] else "│  "),
            )

    def skip(node: str) -> str:
        """Return the first synset from `node` down that is an answer or has several branches."""
        while node not in probability and len(children[node]) == 1:
            (node,) = children[node]
        return node

    draw(root, "", "")
    return found
