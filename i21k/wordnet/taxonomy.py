"""The synsets of ImageNet and all synsets above them in WordNet 3.0: parents, names, meanings.

It is a directed acyclic graph with one root (entity), not a tree: 453 of fall11's 21,841 classes
have two or three parents. `tables/README.md` says where the tables come from.
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
    "Tops act animal artifact attribute body cognition communication event feeling food group"
    " location motive object person phenomenon plant possession process quantity relation shape"
    " state substance time"
)


@dataclasses.dataclass(frozen=True, slots=True)
class Synset:
    """One meaning, and the words for it."""

    id: str  # wnid: n and the offset in WordNet 3.0, eight digits
    parents: tuple[str, ...] = ()  # ids of hypernyms and instance hypernyms
    lemmas: tuple[str, ...] = ()  # its words, the most usual first
    gloss: str = ""
    count: int = 0  # uses in SemCor, a corpus of 700,000 words
    file: str = ""  # lexicographer file: animal, artifact, ...; the most general are in Tops
    familiarity: float = 0.0  # log10 of the uses of its first lemma in this meaning, in 1e9 words


@dataclasses.dataclass(frozen=True, eq=False)
class Taxonomy:
    """Synsets, parents before their children. The first is the root, which is above all others.

    The number of a synset is its place in `synsets`.
    """

    synsets: tuple[Synset, ...]

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for synset in self.synsets:
            if not seen.issuperset(synset.parents) or bool(seen) != bool(synset.parents):
                raise UserError(
                    f"synset {synset.id} has parents {synset.parents}. Give every synset but the"
                    " first at least one parent, and put parents before their children."
                )
            seen.add(synset.id)
        if len(seen) != len(self.synsets) or not seen:
            raise UserError(
                f"a taxonomy has {len(self.synsets)} synsets with {len(seen)} ids. Give at least"
                " one synset, each with an id of its own."
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
        """Numbers of each synset and its ancestors."""
        above: list[frozenset[int]] = []
        for n, synset in enumerate(self.synsets):
            above.append(
                frozenset((n,)).union(*(above[self.number_of[parent]] for parent in synset.parents))
            )
        return tuple(above)

    @functools.cached_property
    def specificity(self) -> Float[np.ndarray, " N"]:
        """Intrinsic information content (Seco 2004): 1 - ln(synsets at or below) / ln(N).

        It is 0 at the root, and 1 if no synset is below.
        """
        num_below = np.zeros(len(self))
        for above in self.ancestors:
            num_below[list(above)] += 1
        return 1 - np.log(num_below) / math.log(max(2, len(self)))

    @functools.cached_property
    def basic(self) -> tuple[int, ...]:
        """Number of each synset's everyday name, itself or above it (`i21k.wordnet.basic`)."""
        from i21k.wordnet.basic import everyday

        return everyday(self)

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """Display name of each synset, all different: its first lemma, with a qualifier if needed.

        Several synsets may share a first lemma. The one that SemCor counts more often than all
        others together has no qualifier: tree. The others have in parentheses the first word that
        distinguishes them, of their parents, their own other lemmas, their further ancestors:
        crane (wading bird), crane (lifting device).
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
                distinct = {
                    n
                    for n, word in tried.items()
                    if often[word.casefold()] == 1 and word.casefold() not in taken
                }
                for n in distinct:
                    names[n] += f" ({tried[n]})"
                taken.update(word.casefold() for word in tried.values())
                left = [n for n in left if n not in distinct]
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
        """Return the display name of a synset. An id that is not in WordNet is its own name."""
        return self.names[self.number_of[synset_id]] if synset_id in self.number_of else synset_id

    def enumerate(self, synset_ids: Iterable[str], most: int = 3) -> str:
        """Count synsets and name at most `most`, for a message: `1 class: n04399382 (teddy)`."""
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
        """Return the synset with this id, display name or lemma. Case is ignored, `_` is a space.

        Raises:
            UserError: if no synset or more than one has it. The message offers the nearest names.
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
            raise UserError(f"{text!r} is the name of {len(meant)} synsets. Write one of {senses}.")
        near = difflib.get_close_matches(word, {*self._by_word, *self._by_name, *self.number_of}, 3)
        offer = (
            f"Did you mean {', '.join(repr(n) for n in near)}?"
            if near
            else "Write an id such as n02084071 or a name such as dog."
        )
        raise UserError(f"no synset is called {text!r}. {offer}")


def _lemmas(synset: Synset) -> tuple[str, ...]:
    return synset.lemmas or (synset.id,)


@functools.cache
def wordnet() -> Taxonomy:
    """Return the vendored taxonomy: the 23,548 synsets in the named class lists and above them."""
    files = _NOUN_FILES.split()

    def lines(name: str) -> list[str]:
        return lzma.decompress((TABLES / name).read_bytes()).decode().splitlines()

    def parse(line: str, familiarity: str) -> Synset:
        synset_id, file, count, parents, lemmas, gloss = line.split("\t")
        return Synset(
            synset_id,
            tuple(parents.split()),
            tuple(lemmas.split(", ")),
            gloss,
            int(count),
            files[int(file) - 3],
            int(familiarity) / 100,
        )

    rows = zip(lines("wordnet.tsv.xz"), lines("familiarity.txt.xz"), strict=True)
    return Taxonomy(tuple(parse(*row) for row in rows))
