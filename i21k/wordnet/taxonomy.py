"""The synsets of ImageNet and all above them in WordNet 3.0: what a class is and is called, whatever list it stands in.

It is a directed acyclic graph with one root (entity), not a tree: 453 of fall11's 21,841 classes have two or three parents. The table is
made by `make_tables.py` (its header has the commands), from Debian's `wordnet-base`; its licence is `tables/LICENSE.WordNet`.
"""

import collections
import dataclasses
import difflib
import functools
import lzma
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Float

from i21k.errors import UserError

TABLES = Path(__file__).parent / "tables"

# Lexicographer files of nouns, from number 3 on: lexnames(5WN).
_NOUN_FILES = (
    "Tops act animal artifact attribute body cognition communication event feeling food group location motive object"
    " person phenomenon plant possession process quantity relation shape state substance time"
)
_BASIC_SPECIFICITY = 0.15  # chosen here: animal (0.18) and person (0.19) are everyday names, organism (0.07) and artifact (0.10) are not


@dataclasses.dataclass(frozen=True, slots=True)
class Synset:
    """One meaning."""

    id: str  # wnid: n and the offset in WordNet 3.0, eight digits
    parents: tuple[str, ...] = ()  # ids of hypernyms and instance hypernyms
    lemmas: tuple[str, ...] = ()  # its words, the usual one first
    gloss: str = ""
    count: int = 0  # how often SemCor, a corpus of 700,000 words, means it
    file: str = ""  # of the lexicographers: animal, artifact, ...; Tops are the most general


@dataclasses.dataclass(frozen=True, eq=False)
class Taxonomy:
    """Synsets whose parents stand before them; the first is the root, above all others. Places in `synsets` are called numbers."""

    synsets: tuple[Synset, ...]

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for synset in self.synsets:
            if not seen.issuperset(synset.parents) or bool(seen) != bool(synset.parents):
                raise UserError(
                    f"synset {synset.id} has parents {synset.parents}; expected some before it, or none for the first alone"
                )
            seen.add(synset.id)
        if len(seen) != len(self.synsets) or not seen:
            raise UserError(
                f"a taxonomy has {len(self.synsets)} synsets with {len(seen)} ids; expected at least one, and distinct ids"
            )

    def __len__(self) -> int:
        return len(self.synsets)

    def __getitem__(self, synset_id: str) -> Synset:
        return self.synsets[self.number_of[synset_id]]

    def __contains__(self, synset_id: str) -> bool:
        return synset_id in self.number_of

    @functools.cached_property
    def number_of(self) -> dict[str, int]:
        """Number of each synset id."""
        return {synset.id: n for n, synset in enumerate(self.synsets)}

    @functools.cached_property
    def ancestors(self) -> tuple[frozenset[int], ...]:
        """Numbers of each synset's ancestors, itself among them."""
        above: list[frozenset[int]] = []
        for n, synset in enumerate(self.synsets):
            above.append(
                frozenset((n,)).union(*(above[self.number_of[parent]] for parent in synset.parents))
            )
        return tuple(above)

    @functools.cached_property
    def specificity(self) -> Float[np.ndarray, " N"]:
        """1 - ln(synsets at or below) / ln(N): 0 at the root, 1 where nothing is below (intrinsic information content, Seco 2004)."""
        num_below = np.zeros(len(self))
        for above in self.ancestors:
            num_below[list(above)] += 1
        return 1 - np.log(num_below) / math.log(max(2, len(self)))

    @functools.cached_property
    def basic(self) -> tuple[int, ...]:
        """Number of each synset's everyday name, itself or above it: a Yorkshire terrier is a dog, an Amabilis fir a tree.

        It is the ancestor with the largest ln(1 + count) * specificity ** 2: a word that people use and that still says something.
        Asked are those of the synset's own lexicographer file, and the one that file is named for (animal, plant, food ...), from a
        specificity of 0.15 on: a leek is a vegetable, not a solid. Ties go to the most specific: to the synset, where SemCor has none.
        """
        value = [
            math.log1p(synset.count) * s**2
            for synset, s in zip(self.synsets, self.specificity, strict=True)
        ]

        def best(n: int) -> int:
            file = self.synsets[n].file
            asked = (
                a
                for a in self.ancestors[n]
                if file in (self.synsets[a].file, _lemmas(self.synsets[a])[0])
            )
            return max(
                (n, *(a for a in asked if self.specificity[a] >= _BASIC_SPECIFICITY)),
                key=lambda a: (value[a], a),
            )

        return tuple(best(n) for n in range(len(self)))

    # ----------------------------------------------------------------------------------------------------------------- names

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """One display name a synset, all different: its first lemma, which it shares perhaps with others and then needs a qualifier.

        The synset that SemCor counts more often than all others of that lemma together keeps it bare: tree. Others take in parentheses
        the first of parents, own other lemmas, further ancestors that tells them apart: crane (wading bird), crane (lifting device).
        """
        sharing: dict[str, list[int]] = collections.defaultdict(list)
        for n, synset in enumerate(self.synsets):
            sharing[_lemmas(synset)[0].casefold()].append(n)
        names = [_lemmas(synset)[0] for synset in self.synsets]
        for group in sharing.values():
            total = sum(self.synsets[n].count for n in group)
            left = [n for n in group if len(group) > 1 and 2 * self.synsets[n].count <= total]
            qualifiers = {n: self._qualifiers(n) for n in left}
            taken: set[str] = set()
            while left:
                tried = {n: qualifiers[n].pop(0) for n in left}
                often = collections.Counter(word.casefold() for word in tried.values())
                told_apart = {
                    n
                    for n, word in tried.items()
                    if often[word.casefold()] == 1 and word.casefold() not in taken
                }
                for n in told_apart:
                    names[n] += f" ({tried[n]})"
                taken.update(word.casefold() for word in tried.values())
                left = [n for n in left if n not in told_apart]
        return tuple(names)

    def _qualifiers(self, n: int) -> list[str]:
        synset = self.synsets[n]
        parents = {self.number_of[parent] for parent in synset.parents}
        further = sorted(self.ancestors[n] - parents - {n}, reverse=True)
        words = [_lemmas(self.synsets[a])[0] for a in sorted(parents)] + list(synset.lemmas[1:])
        words += [_lemmas(self.synsets[a])[0] for a in further]
        return [word for word in words if word.casefold() != _lemmas(synset)[0].casefold()] + [
            synset.id
        ]

    def name(self, synset_id: str) -> str:
        """Return the display name of a synset, or the id itself if it is not in WordNet: a class of your own."""
        return self.names[self.number_of[synset_id]] if synset_id in self.number_of else synset_id

    def enumerate(self, synset_ids: Iterable[str], most: int = 3) -> str:
        """Count and name synsets for a message: `1 class: n04399382 (teddy)`, at most `most` of them by name."""
        ids = list(synset_ids)
        named = [f"{i} ({self.name(i)})" if i in self else i for i in ids[:most]] + ["..."] * (
            len(ids) > most
        )
        return f"{len(ids):,} class{'es' * (len(ids) != 1)}: {', '.join(named)}"

    @functools.cached_property
    def _by_word(self) -> dict[str, list[int]]:
        words: dict[str, list[int]] = collections.defaultdict(list)
        for n, synset in enumerate(self.synsets):
            for word in {lemma.casefold() for lemma in _lemmas(synset)}:
                words[word].append(n)
        return words

    @functools.cached_property
    def _by_name(self) -> dict[str, int]:
        return {name.casefold(): n for n, name in enumerate(self.names)}

    def find(self, text: str) -> Synset:
        """Return the synset that an id, a display name or a lemma means; case does not matter, `_` is a space.

        Raises:
            ValueError: if no synset or more than one is meant; the message offers those nearest.
        """
        word = " ".join(text.replace("_", " ").casefold().split())
        if word in self:
            return self[word]
        if word in self._by_name:
            return self.synsets[self._by_name[word]]
        meant = self._by_word.get(word, [])
        if len(meant) == 1:
            return self.synsets[meant[0]]
        if meant:
            senses = ", ".join(f"{self.synsets[n].id} ({self.names[n]})" for n in meant)
            raise UserError(f"{text!r} is the name of {len(meant)} synsets; write one of {senses}")
        near = difflib.get_close_matches(word, {*self._by_word, *self._by_name, *self.number_of}, 3)
        offer = (
            f"; did you mean {', '.join(repr(n) for n in near)}?"
            if near
            else "; expected an id such as n02084071 or a name such as dog"
        )
        raise UserError(f"no synset is called {text!r}{offer}")


def _lemmas(synset: Synset) -> tuple[str, ...]:
    return synset.lemmas or (synset.id,)


@functools.cache
def wordnet() -> Taxonomy:
    """Return the vendored taxonomy: 23,548 synsets, those of every named class list and all above them."""
    text = lzma.decompress((TABLES / "wordnet.tsv.xz").read_bytes()).decode()
    files = _NOUN_FILES.split()

    def parse(line: str) -> Synset:
        synset_id, file, count, parents, lemmas, gloss = line.split("\t")
        return Synset(
            synset_id,
            tuple(parents.split()),
            tuple(lemmas.split(", ")),
            gloss,
            int(count),
            files[int(file) - 3],
        )

    return Taxonomy(tuple(parse(line) for line in text.splitlines()))
