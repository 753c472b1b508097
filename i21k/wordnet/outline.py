"""Answers as an indented tree of text: where in WordNet they stand."""

from collections.abc import Iterable

from i21k.wordnet.taxonomy import Taxonomy, wordnet
from i21k.wordnet.views import Answer


def outline(answers: Iterable[Answer], taxonomy: Taxonomy | None = None) -> str:
    """Draw answers as a tree: below each synset the answers under it, the most probable first.

    Of what lies above the answers only the root and synsets where their ways part are shown. From a synset with several parents the way up
    goes through the most specific. Ids outside the taxonomy, of classes of your own, hang from the root.
    """
    taxonomy = wordnet() if taxonomy is None else taxonomy
    probability = {answer.id: answer.probability for answer in answers}
    root = taxonomy.synsets[0].id
    children: dict[str, set[str]] = {root: set()}
    for answer_id in probability:
        node = answer_id
        while node != root:
            number_of = taxonomy.number_of
            parents = taxonomy[node].parents if node in taxonomy else (root,)
            parent = max(parents, key=lambda p: (taxonomy.specificity[number_of[p]], -number_of[p]))
            children.setdefault(node, set())
            children.setdefault(parent, set()).add(node)
            node = parent
    lines: list[tuple[str, float | None]] = []

    def weight(node: str) -> float:
        return max([probability.get(node, 0.0), *map(weight, children[node])])

    def draw(node: str, lead: str, rest: str) -> None:
        lines.append((lead + taxonomy.name(node), probability.get(node)))
        below = sorted(map(skip, children[node]), key=lambda n: (-weight(n), n))
        for n in below:
            draw(
                n,
                rest + ("└─ " if n == below[-1] else "├─ "),
                rest + ("   " if n == below[-1] else "│  "),
            )

    def skip(node: str) -> str:
        """Go down from a synset that is no answer and parts no ways."""
        while node not in probability and len(children[node]) == 1:
            (node,) = children[node]
        return node

    draw(root, "", "")
    width = max(len(text) for text, _ in lines)
    return "\n".join(text if p is None else f"{text:{width}}  {p:6.1%}" for text, p in lines)
