"""Subsets of a class list, chosen by an expression: `under(n00017222) & leaf`, `ilsvrc2012`.

all, leaf, internal     all classes; classes without, and with, other classes below them
dog, n02084071, "..."   one class, by its display name, another name of its own, or its id; in
                        double quotes if the name has one of &|!()<>=
under(x), above(x)      classes at or below, at or above, a synset, which need not be a class
ilsvrc2012, in12k ...   classes that are also in another named list
basic                   classes that are the everyday name of a class: dog, tree, bridge
ic>=3, size<=500, rank<1000   by information content in nats, by the number of classes at or below,
                        by the place in `released2015`
cut(ic>=3), cut(size<=500)    of these, those with no other of these above; some classes are below
                        two of them, or none
partition(ic>=3)        cut(ic>=3) and the classes above it; with `i21k.wordnet.partition.owners`,
                        every class is under exactly one of them
!x, x & y, x | y, (x)   not, and, or, in order of precedence
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
from i21k.wordnet.partition import partition
from i21k.wordnet.taxonomy import Synset

Mask = Bool[np.ndarray, " K"]

_TOKEN = re.compile(
    r'\s*(?:"(?P<quoted>[^"]*)"'
    r"|(?P<sign>[()&|!]|[<>]=?|=)"
    r'|(?P<word>[^\s()&|!<>="]+(?:\s+[^\s()&|!<>="]+)*)'
    r"|(?P<end>$))"
)
_COMPARE: dict[str, Callable[..., np.ndarray]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "=": operator.eq,
}  # fmt: skip
_QUANTITIES = ("ic", "size", "rank")
KEYWORDS = (
    "all",
    "leaf",
    "internal",
    "basic",
    "under",
    "above",
    "cut",
    "partition",
    *_QUANTITIES,
    *class_lists.NAMES,
)


MAX_DEPTH = 50  # our choice: parentheses and negations inside each other; Python's stack ends too


class SubsetError(UserError):
    """What is wrong with an expression, and where."""

    def __init__(self, problem: str, expression: str, position: int) -> None:
        super().__init__(f"{problem}\n  {expression}\n  {' ' * position}^")
        self.problem = problem
        self.position = position  # of the first character that is wrong, from 0


class _Token(NamedTuple):
    kind: str  # quoted, sign, word, end
    text: str
    position: int


def select(expression: str, hierarchy: Hierarchy) -> Mask:
    """Return which classes of the hierarchy an expression chooses.

    Raises:
        UserError: if it cannot be parsed, has an unknown or ambiguous name, or chooses no class.
            The message shows where.
    """
    chosen = _Parser(expression, hierarchy).parse()
    if not chosen.any():
        raise UserError(
            f"subset {expression!r} has none of the {len(hierarchy.classes):,} classes. Use a wider"
            " expression."
        )
    return chosen


class _Parser:
    """A recursive-descent parser. Each level of precedence has a method that returns classes."""

    def __init__(self, expression: str, hierarchy: Hierarchy) -> None:
        self.expression, self.hierarchy = expression, hierarchy
        self.token = _Token("", "", 0)
        self._end, self._depth = 0, 0
        self._next()

    def _error(self, problem: str, position: int) -> SubsetError:
        return SubsetError(problem, self.expression, position)

    def _next(self) -> _Token:
        """Return the current token and read the next one."""
        token, match = self.token, _TOKEN.match(self.expression, self._end)
        if match is None:
            raise self._error('this " has no closing "', self.expression.index('"', self._end))
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
        if self.token.kind == "sign" and self.token.text in ("!", "("):
            self._depth += 1
            if self._depth > MAX_DEPTH:
                raise self._error(
                    f"more than {MAX_DEPTH} '(' and '!' inside each other", self.token.position
                )
            chosen = self._nested()
            self._depth -= 1
            return chosen
        token = self._next()
        if token.kind not in ("word", "quoted"):
            raise self._error(
                f"expected one of {', '.join(KEYWORDS[:8])}, the name of a class or of a list, or"
                " '(' here",
                token.position,
            )
        return self._named(token) if token.kind == "word" else self._single(token)

    def _nested(self) -> Mask:
        if self._accept("!"):
            return ~self._operand()
        self._expect("(")
        chosen = self._union()
        self._expect(")")
        return chosen

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
        if word in ("cut", "partition"):
            return self._cut(word)
        if word in ("under", "above") and self.token.text == "(":
            return self._related(word)
        return self._single(token)

    def _among(self, ids: set[str]) -> Mask:
        return np.array([class_id in ids for class_id in self.hierarchy.classes.ids])

    def _synset(self, token: _Token) -> Synset:
        try:
            return self.hierarchy.taxonomy.find(token.text)
        except UserError as error:
            near = (
                difflib.get_close_matches(token.text, KEYWORDS, 1, 0.75)
                if token.kind == "word"
                else []
            )
            raise self._error(
                f"{error}" + "".join(f" Or the keyword {word}?" for word in near), token.position
            ) from None

    def _single(self, token: _Token) -> Mask:
        synset = self._synset(token)
        if synset.id not in self.hierarchy.classes.label_of:
            name, num_classes = self.hierarchy.taxonomy.name(synset.id), len(self.hierarchy.classes)
            raise self._error(
                f"{name} is not one of the {num_classes:,} classes. The classes below it are"
                f" under({synset.id})",
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

    def _cut(self, kind: str) -> Mask:
        self._expect("(")
        quantity = self._next()
        if quantity.text not in ("ic", "size"):
            raise self._error(
                f"expected ic or size here, as in {kind}(ic=3) or {kind}(size=500)",
                quantity.position,
            )
        if self.token.text == "=":  # = is short for the only comparison that makes sense
            self.token = self.token._replace(text=">=" if quantity.text == "ic" else "<=")
        chosen = self._compared(quantity)
        self._expect(")")
        return (highest if kind == "cut" else partition)(chosen, self.hierarchy)


def highest(chosen: Mask, hierarchy: Hierarchy) -> Mask:
    """Return the chosen classes without another chosen class above them."""
    nodes = set(hierarchy.class_nodes[chosen].tolist())
    return np.array(
        [
            node in nodes and nodes.isdisjoint(hierarchy.ancestors[node] - {node})
            for node in hierarchy.class_nodes.tolist()
        ]
    )
