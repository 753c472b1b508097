"""Subsets of a class list, chosen by an expression over WordNet: `under(n00017222) & leaf`, `cut(ic=3)`, `ilsvrc2012 | basic`.

all, leaf, internal     every class; those without, and with, other classes below them
dog, n02084071, "..."   one class: its display name, another name of its own, or its id; quoted if it has one of &|!()<>= in it
under(x), above(x)      the classes at or below, at or above, a synset (which need be no class itself)
ilsvrc2012, in12k ...   the classes that another named list has too
basic                   the everyday names of the classes, where they are classes themselves: dog, tree, bridge
ic>=3, size<=500, rank<1000   by information content in nats, by classes at or below, by place in the order of `released2015`
cut(ic>=3), cut(size<=500)    of those, the ones with none of those above them: answers of like grain that never overlap in a tree
!x, x & y, x | y, (x)   not, and, or: binding in this order
"""

import difflib
import operator
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from i21k.errors import UserError
from i21k.wordnet import class_lists
from i21k.wordnet.hierarchy import Hierarchy
from i21k.wordnet.taxonomy import Synset

Mask = Bool[np.ndarray, " K"]

_TOKEN = re.compile(
    r'\s*(?:"(?P<quoted>[^"]*)"|(?P<sign>[()&|!]|[<>]=?|=)|(?P<word>[^\s()&|!<>="]+(?:\s+[^\s()&|!<>="]+)*)|(?P<end>$))'
)
_COMPARE: dict[str, Callable[..., np.ndarray]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "=": operator.eq,
}  # fmt: skip
_QUANTITIES = ("ic", "size", "rank")
_KEYWORDS = (
    "all",
    "leaf",
    "internal",
    "basic",
    "under",
    "above",
    "cut",
    *_QUANTITIES,
    *class_lists.NAMES,
)


class _Token(NamedTuple):
    kind: str  # quoted, sign, word, end
    text: str
    position: int


def select(expression: str, hierarchy: Hierarchy) -> Mask:
    """Return which classes of the hierarchy an expression chooses.

    Raises:
        ValueError: if it cannot be read, names a synset that does not exist or is ambiguous, or chooses no class. The message shows where.
    """
    chosen = _Parser(expression, hierarchy).parse()
    if not chosen.any():
        raise UserError(
            f"subset {expression!r} has none of the {len(hierarchy.classes):,} classes; choose a wider one"
        )
    return chosen


class _Parser:
    """Reads by recursive descent: one method a level of binding, each returning the classes it stands for."""

    def __init__(self, expression: str, hierarchy: Hierarchy) -> None:
        self.expression, self.hierarchy = expression, hierarchy
        self.token = _Token("", "", 0)
        self._end = 0
        self._next()

    def _error(self, problem: str, position: int) -> ValueError:
        return UserError(f"{problem}\n  {self.expression}\n  {' ' * position}^")

    def _next(self) -> _Token:
        """Return the current token and read the one after it."""
        token, match = self.token, _TOKEN.match(self.expression, self._end)
        if match is None:
            raise self._error('this " is never closed', self.expression.index('"', self._end))
        kind = str(match.lastgroup)
        self.token, self._end = (
            _Token(kind, match[kind], match.start(kind) - (kind == "quoted")),
            match.end(),
        )
        return token

    def _expect(self, text: str) -> None:
        if self.token.text != text or self.token.kind != "sign":
            raise self._error(f"expected {text!r} here", self.token.position)
        self._next()

    def _accept(self, text: str) -> bool:
        accepted = self.token.kind == "sign" and self.token.text == text
        if accepted:
            self._next()
        return accepted

    def parse(self) -> Mask:
        chosen = self._union()
        if self.token.kind != "end":
            raise self._error("expected '&', '|' or the end here", self.token.position)
        return chosen

    def _union(self) -> Mask:
        chosen = self._intersection()
        while self._accept("|"):
            chosen = chosen | self._intersection()
        return chosen

    def _intersection(self) -> Mask:
        chosen = self._operand()
        while self._accept("&"):
            chosen = chosen & self._operand()
        return chosen

    def _operand(self) -> Mask:
        if self._accept("!"):
            return ~self._operand()
        if self._accept("("):
            chosen = self._union()
            self._expect(")")
            return chosen
        token = self._next()
        if token.kind not in ("word", "quoted"):
            raise self._error(
                f"expected one of {', '.join(_KEYWORDS[:7])}, the name of a class or of a list, or '(' here",
                token.position,
            )
        return self._named(token) if token.kind == "word" else self._single(token)

    def _named(self, token: _Token) -> Mask:
        hierarchy, word = self.hierarchy, token.text
        if word == "all":
            return np.ones(len(hierarchy.classes), bool)
        if word == "leaf":
            return hierarchy.leaf
        if word == "internal":
            return ~hierarchy.leaf
        if word == "basic":
            taxonomy = hierarchy.taxonomy
            names = {
                taxonomy.synsets[taxonomy.basic[taxonomy.number_of[class_id]]].id
                for class_id in hierarchy.classes.ids
            }
            return self._among(names)
        if word in class_lists.NAMES:
            return self._among(set(class_lists.named(word).ids))
        if word in _QUANTITIES:
            return self._compared(token)
        if word == "cut":
            return self._cut()
        if word in ("under", "above") and self.token.text == "(":
            return self._related(word)
        return self._single(token)

    def _among(self, ids: set[str]) -> Mask:
        return np.array([class_id in ids for class_id in self.hierarchy.classes.ids])

    def _synset(self, token: _Token) -> Synset:
        try:
            return self.hierarchy.taxonomy.find(token.text)
        except ValueError as error:
            near = (
                difflib.get_close_matches(token.text, _KEYWORDS, 1, 0.75)
                if token.kind == "word"
                else []
            )
            raise self._error(
                f"{error}" + "".join(f" or the keyword {word}?" for word in near), token.position
            ) from None

    def _single(self, token: _Token) -> Mask:
        synset = self._synset(token)
        if synset.id not in self.hierarchy.classes.label_of:
            name, num_classes = self.hierarchy.taxonomy.name(synset.id), len(self.hierarchy.classes)
            raise self._error(
                f"{name} is none of the {num_classes:,} classes; those below it are under({synset.id})",
                token.position,
            )
        return self._among({synset.id})

    def _related(self, relation: str) -> Mask:
        self._expect("(")
        token = self._next()
        if token.kind not in ("word", "quoted"):
            raise self._error(f"expected a synset in {relation}()", token.position)
        synset = self._synset(token)
        self._expect(")")
        if relation == "under":
            return self.hierarchy.below([synset.id]).toarray()[0] > 0
        taxonomy = self.hierarchy.taxonomy
        return self._among(
            {taxonomy.synsets[a].id for a in taxonomy.ancestors[taxonomy.number_of[synset.id]]}
        )

    def _compared(self, quantity: _Token) -> Mask:
        if self.token.text not in _COMPARE:
            raise self._error(
                f"expected one of {' '.join(_COMPARE)} here, as in {quantity.text}>=3",
                self.token.position,
            )
        compare, number = _COMPARE[self._next().text], self._next()
        try:
            bound = float(number.text)
        except ValueError:
            raise self._error("expected a number here", number.position) from None
        hierarchy = self.hierarchy
        if quantity.text == "rank":
            rank_of = class_lists.named("released2015").label_of
            values = np.array(
                [rank_of.get(class_id, np.nan) for class_id in hierarchy.classes.ids]
            )  # nan compares as False
        else:
            values = (hierarchy.ic if quantity.text == "ic" else hierarchy.sizes)[
                hierarchy.class_nodes
            ]
        return compare(values, bound)

    def _cut(self) -> Mask:
        self._expect("(")
        quantity = self._next()
        if quantity.text not in ("ic", "size"):
            raise self._error(
                "expected ic or size here, as in cut(ic=3) or cut(size=500)", quantity.position
            )
        if self.token.text == "=":  # the bound that is meant
            self.token = self.token._replace(text=">=" if quantity.text == "ic" else "<=")
        chosen = self._compared(quantity)
        self._expect(")")
        return highest(chosen, self.hierarchy)


def highest(chosen: Mask, hierarchy: Hierarchy) -> Mask:
    """Return those of the chosen classes that have no other chosen class above them."""
    nodes = set(hierarchy.class_nodes[chosen].tolist())
    return np.array(
        [
            node in nodes and nodes.isdisjoint(hierarchy.ancestors[node] - {node})
            for node in hierarchy.class_nodes.tolist()
        ]
    )
