"""Everyday names: which synset, itself or above it, a person names when seeing a synset.

The weights were fitted to the names that people would use for the 200 synsets in
`tests/fixtures/basic_names.tsv`. Judge a change of the formula by that list.
"""

import numpy as np

from i21k.wordnet.taxonomy import Taxonomy

# Our choice: animal (0.18) and person (0.19) are everyday names; organism (0.07) and artifact
# (0.10) are not.
_SPECIFICITY = 0.15
WEIGHTS = {
    "familiarity": 1.9,
    "specificity": 3.8,
    "specificity squared": 4.6,
    "further words": -2.3,
    "own name of several words": -1.7,
    "named after it": 1.4,
    "share named after it": 5.3,
}
_FAMILIARITY_CAP = 4.3  # no word gains from being more familiar: one use in 50,000 words
_KNOWN = 1.9  # people know a word that has one use in 13 million words


def everyday(taxonomy: Taxonomy) -> tuple[int, ...]:
    """Return the number of each synset's everyday name: a Yorkshire terrier is a dog.

    The candidates are the synset and those of its ancestors that have its lexicographer file or
    give this file its name (animal, plant, food), from a specificity of 0.15 on. So a leek is a
    vegetable, not a solid. The candidate with the largest value is the name; of equal ones, the
    most specific. The value of candidate a for synset n is a weighted sum of

    - how familiar the word is (`Synset.familiarity`), up to a limit, because people use it,
    - specificity and its square, because it has to say something,
    - the number of words after the first (negative): people say `dog`, not `domestic animal`,
      and whether a is n itself and has several words (negative),
    - whether a is the last word in the name of n or of a synset between them: a pool table is a
      table,
    - the share of the synsets below a that have a as their last word: `bridge` has the suspension
      bridge and the drawbridge, `instrumentality` has nothing of the kind.

    The last two count only for words that people know.
    """
    synsets, specificity = taxonomy.synsets, taxonomy.specificity
    lemmas = [{lemma.casefold() for lemma in synset.lemmas or (synset.id,)} for synset in synsets]
    num_below = len(synsets) ** (1 - specificity)  # at or below each
    num_named = np.zeros(len(synsets))  # synsets below that have it as their last word
    named_after: list[set[int]] = []
    for n, above in enumerate(taxonomy.ancestors):
        last = {words[-1] for words in map(_words, lemmas[n]) if len(words) > 1}
        named: set[int] = set()
        if last:
            named = {a for a in above if a != n and not last.isdisjoint(lemmas[a])}
        for a in named:
            num_named[a] += 1
        parents = (taxonomy.number_of[parent] for parent in synsets[n].parents)
        named_after.append(named.union(*(named_after[parent] for parent in parents)))

    familiarity = np.array([synset.familiarity for synset in synsets])
    known = familiarity >= _KNOWN
    further_words = [len(_words((synset.lemmas or (synset.id,))[0])) - 1 for synset in synsets]
    value = (
        WEIGHTS["familiarity"] * np.minimum(familiarity, _FAMILIARITY_CAP)
        + WEIGHTS["specificity"] * specificity
        + WEIGHTS["specificity squared"] * specificity**2
        + WEIGHTS["further words"] * np.array(further_words)
        + WEIGHTS["share named after it"] * known * num_named / num_below
    ).tolist()
    bonus = (WEIGHTS["named after it"] * known).tolist()

    specific = (specificity >= _SPECIFICITY).tolist()
    files = [(synset.file, (synset.lemmas or (synset.id,))[0]) for synset in synsets]

    def best(n: int) -> int:
        file = synsets[n].file
        candidates = (a for a in taxonomy.ancestors[n] if specific[a] and file in files[a])
        own = value[n] + (WEIGHTS["own name of several words"] if further_words[n] else 0)
        return max(
            (n, *candidates),
            key=lambda a: (own if a == n else value[a] + bonus[a] * (a in named_after[n]), a),
        )

    return tuple(best(n) for n in range(len(synsets)))


def _words(lemma: str) -> list[str]:
    return lemma.replace("-", " ").split()
