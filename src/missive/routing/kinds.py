"""Kinds of values: the types that a test accepts and that a place can hold."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import TypeAlias

from missive.matchers.network import Cidr
from missive.matchers.selectors import Place
from missive.matchers.tests import Absent, Equals, Every, IsInstance, Range, Some, Test
from missive.matchers.text import Regex
from missive.matchers.values import Scalar
from missive.routing.globs import glob_of
from missive.routing.normal import literals_of

Kinds: TypeAlias = frozenset[str]
"""Names of kinds. A decoder may return values that JSON does not have; their kind is `other`."""

NUMBERS: Kinds = frozenset({"int", "float"})
TEXT: Kinds = frozenset({"str"})
ENUMERABLE: dict[str, tuple[Scalar, ...]] = {"null": (None,), "bool": (False, True)}
"""Kinds with few values, each with all of its values."""

_ALL: Kinds = frozenset({"null", "bool", "int", "float", "str", "bytes", "list", "tuple", "dict", "other"})
_LISTS: Kinds = frozenset({"list", "tuple"})

_AT: dict[str, Kinds] = {
    "header": frozenset({"str", "bytes", "tuple"}),
    "topic": TEXT,
    "key": frozenset({"str", "bytes"}),
    "body": frozenset({"bytes"}),
}

# An int can equal a float.
_KINDS_OF_LITERALS = {kind: frozenset({kind}) for kind in ("null", "bool", "str", "bytes")} | {
    "int": NUMBERS,
    "float": NUMBERS,
}
_LARGEST_FLOAT = int(sys.float_info.max)


def kind_of_literal(value: Scalar) -> str:
    """Return the kind of a literal."""
    return "null" if value is None else type(value).__name__


def values_equal_to(literals: Iterable[Scalar]) -> Iterator[Scalar]:
    """Yield the values that equal a literal: `1` and `1.0` are equal, but have different kinds."""
    for value in literals:
        yield value
        if type(value) is float and value.is_integer():
            yield int(value)
        elif type(value) is int and abs(value) <= _LARGEST_FLOAT and float(value) == value:
            yield float(value)


def kinds(test: Test) -> Kinds:
    """Return the kinds of the values that a test can accept."""
    # Most tests are Equals. The answer is cheap, so Equals does not enter the cache.
    return _KINDS_OF_LITERALS[kind_of_literal(test.value)] if type(test) is Equals else _kinds(test)


@lru_cache(maxsize=16_384)
def _kinds(test: Test) -> Kinds:
    if (finite := literals_of(test)) is not None:
        return frozenset().union(*(_KINDS_OF_LITERALS[kind_of_literal(value)] for value in finite))
    if type(test) is IsInstance:
        return frozenset({test.type_.__name__})
    if type(test) is Range:
        return NUMBERS
    if type(test) in (Some, Every):
        return _LISTS
    if type(test) in (Cidr, Regex) or glob_of(test) is not None:
        return TEXT
    if type(test) is Absent:
        return frozenset()
    return _ALL


def possible_kinds(place: Place, positives: Sequence[Test]) -> Kinds:
    """Return the kinds of the values at a place that can pass all of the tests."""
    possible = _AT.get(place[0], _ALL)
    for test in positives:
        # Reuse an existing set where possible: many matchers store the result.
        of_test = kinds(test)
        possible = of_test if of_test <= possible else possible & of_test
    return possible
