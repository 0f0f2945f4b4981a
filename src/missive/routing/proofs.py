"""Proofs about tests: which can never be true of the same value, and which is true of all that another is true of.

Each answer of True is proved; False means 'not proved'. So nothing is refused at registration that could work.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import TypeAlias

import msgspec

from missive.matchers.network import Cidr
from missive.matchers.selectors import Place
from missive.matchers.tests import (
    Absent,
    AnythingBut,
    Equals,
    Every,
    IsInstance,
    Present,
    Range,
    Some,
    Test,
)
from missive.matchers.text import Prefix, Regex, Substring, Suffix, Wildcard
from missive.matchers.topics import AmqpPattern, NatsPattern, TopicPattern
from missive.matchers.values import Scalar, identity_of
from missive.routing.normal import DIALECTS, Constraint, literals_of
from missive.routing.topics import topics_disjoint, topics_within

Kinds: TypeAlias = frozenset[str]
"""Kinds of values; `other` is all that a decoder may return beyond JSON."""

_ALL: Kinds = frozenset({"null", "bool", "int", "float", "str", "bytes", "list", "tuple", "dict", "other"})
_NUMBERS: Kinds = frozenset({"int", "float"})
_TEXT: Kinds = frozenset({"str"})
_LISTS: Kinds = frozenset({"list", "tuple"})

_AT: dict[str, Kinds] = {
    "header": frozenset({"str", "bytes", "tuple"}),
    "topic": _TEXT,
    "key": frozenset({"str", "bytes"}),
    "body": frozenset({"bytes"}),
}
_ONLY: dict[str, tuple[Scalar, ...]] = {"null": (None,), "bool": (False, True)}
_MAX_PROOF = 20_000
"""Characters or tokens of patterns, multiplied, up to which two are compared."""
_MAX_RANGES = 200
"""Ranges that are taken away from others."""


_FRESH = "\ue000"
"""A character that hardly any pattern has, from a range of Unicode for private use."""


def kind_of_literal(value: Scalar) -> str:
    """Return the kind of a literal."""
    return "null" if value is None else type(value).__name__


def values_equal_to(literals: Iterable[Scalar]) -> Iterator[Scalar]:
    """Yield the values that equal a literal: `1` and `1.0` are equal, and of different kinds."""
    for value in literals:
        yield value
        if type(value) is float and value.is_integer():
            yield int(value)
        elif type(value) is int and abs(value) <= _LARGEST_FLOAT and float(value) == value:
            yield float(value)


# An int equals a float, and the other way round.
_KINDS_OF_LITERALS = {kind: frozenset({kind}) for kind in ("null", "bool", "str", "bytes")} | {
    "int": _NUMBERS,
    "float": _NUMBERS,
}
_LARGEST_FLOAT = int(sys.float_info.max)


def kinds(test: Test) -> Kinds:
    """Return the kinds of values that a test can be true of."""
    # Nearly all tests are this one: it is not worth a place in the cache.
    return _KINDS_OF_LITERALS[kind_of_literal(test.value)] if type(test) is Equals else _kinds(test)


@lru_cache(maxsize=16_384)
def _kinds(test: Test) -> Kinds:
    if (finite := literals_of(test)) is not None:
        return frozenset().union(*(_KINDS_OF_LITERALS[kind_of_literal(value)] for value in finite))
    if type(test) is IsInstance:
        return frozenset({test.type_.__name__})
    if type(test) is Range:
        return _NUMBERS
    if type(test) in (Some, Every):
        return _LISTS
    if type(test) in (Cidr, Regex) or glob_of(test) is not None:
        return _TEXT
    if type(test) is Absent:
        return frozenset()
    return _ALL


# Two tests, of one value


def disjoint(one: Test, other: Test) -> bool:
    """Tell whether it is proved that no value passes both tests."""
    if Absent in (type(one), type(other)):
        return type(one) is not type(other) and not (one.on_missing and other.on_missing)
    for first, second in ((one, other), (other, one)):
        if (finite := literals_of(first)) is not None:
            return not any(map(second, values_equal_to(finite)))
        if type(first) is AnythingBut and within(second, first.test):
            return True
    if not kinds(one) & kinds(other):
        return True
    if type(one) is Range and type(other) is Range:
        return not _meeting(bounds_of(one), bounds_of(other))
    if type(one) is Cidr and type(other) is Cidr:
        return one.version != other.version or one.last < other.first or other.last < one.first
    if {type(one), type(other)} == {Some, Every}:
        # Two of Some may mean two elements, and an empty list passes two of Every.
        return disjoint(one.test, other.test)  # type: ignore[attr-defined]  # both have one
    if isinstance(one, DIALECTS) and type(one) is type(other) in DIALECTS:
        return topics_disjoint(one, other)
    return _globs_disjoint(one, other)


def within(one: Test, other: Test) -> bool:
    """Tell whether it is proved that `other` is true of every value that `one` is true of."""
    if one == other:
        return True
    if one.on_missing and not other.on_missing:
        return False
    if type(one) is Absent:
        return True
    if (finite := literals_of(one)) is not None:
        return all(map(other, values_equal_to(finite)))
    if kinds(one) <= _ONLY.keys():
        return all(map(other, (value for kind in kinds(one) for value in _ONLY[kind] if one(value))))
    if type(other) is Present:
        return not one.on_missing
    if type(other) is AnythingBut:
        # What fails the inner test passes; so one that never meets it does, and `AnythingBut` of something wider.
        return within(other.test, one.test) if type(one) is AnythingBut else disjoint(one, other.test)
    return _within_by_kind(one, other)


def _within_by_kind(one: Test, other: Test) -> bool:
    if type(other) is IsInstance:
        return kinds(one) <= {other.type_.__name__}
    if type(one) is Range and type(other) is Range:
        return _inside(bounds_of(one), bounds_of(other))
    if type(one) is Cidr and type(other) is Cidr:
        return one.version == other.version and other.first <= one.first and one.last <= other.last
    if type(one) in (Some, Every) and type(one) is type(other):
        return within(one.test, other.test)  # type: ignore[attr-defined]  # both have one
    if isinstance(one, DIALECTS) and type(one) is type(other) in DIALECTS:
        return topics_within(one, other)
    return _globs_within(one, other)


# One place, of one value or none


def impossible(place: Place, constraint: Constraint) -> bool:
    """Tell whether it is proved that no message meets a constraint at a place."""
    positives, negatives = constraint.positives, constraint.negatives
    if place[0] == "event":
        # Conditions on any of several values: only presence excludes.
        absent = any(type(test) is Absent for test in positives)
        return (absent and any(not test.on_missing for test in positives)) or any(
            within(positive, negative) for positive in positives for negative in negatives
        )
    if any(type(test) is Absent for test in positives):
        return place[0] == "body" or any(not test.on_missing for test in positives)
    if place[0] == "body":
        positives = (*positives, IsInstance(bytes))
    if not positives:
        return False
    if (values := _finite(place, constraint)) is not None:
        return not values
    return (
        not possible_kinds(place, positives)
        or _spans(constraint) == []
        or any(disjoint(one, other) for i, one in enumerate(positives) for other in positives[:i])
        or any(within(positive, negative) for positive in positives for negative in negatives)
    )


def possible_kinds(place: Place, positives: Sequence[Test]) -> Kinds:
    """Return the kinds of values that could pass all of some tests at a place."""
    possible = _AT.get(place[0], _ALL)
    for test in positives:
        # Not a new set where there is one: it is kept with many matchers.
        of_test = kinds(test)
        possible = of_test if of_test <= possible else possible & of_test
    return possible


def finite_values(place: Place, constraint: Constraint) -> tuple[Scalar, ...] | None:
    """Return the only values that meet a constraint; None where they are not few, or a missing one meets it.

    Equal ones are one.
    """
    values = _finite(place, constraint)
    if values is None:
        return None
    distinct: dict[object, Scalar] = {}
    for value in values:
        distinct.setdefault(identity_of(value), value)
    return tuple(distinct.values())


def _finite(place: Place, constraint: Constraint) -> tuple[Scalar, ...] | None:
    positives = constraint.positives
    if any(test.on_missing for test in positives):
        return None
    possible = possible_kinds(place, positives)
    candidates: Iterable[Scalar] | None = next(
        (finite for test in positives if (finite := literals_of(test)) is not None), None
    )
    if candidates is None and positives and possible <= _ONLY.keys():
        candidates = [value for kind in sorted(possible) for value in _ONLY[kind]]
    if candidates is None and (spans := _spans(constraint)) and all(span.low == span.high for span in spans):
        candidates = [span.low for span in spans]
    if candidates is None:
        return None
    return tuple(
        value
        for value in values_equal_to(candidates)
        if kind_of_literal(value) in possible and _meets(constraint, value)
    )


def _meets(constraint: Constraint, value: Scalar) -> bool:
    return all(test(value) for test in constraint.positives) and not any(test(value) for test in constraint.negatives)


def implies(place: Place, constraint: Constraint, test: Test, *, positive: bool) -> bool:
    """Tell whether it is proved that what meets a constraint passes a test (or fails it, if not `positive`)."""
    positives, negatives = constraint.positives, constraint.negatives
    if place[0] != "event" and _implied_by_values(place, constraint, test, positive=positive):
        return True
    if positive:
        return any(within(one, test) for one in positives)
    if any(type(one) is Absent for one in positives):
        return not test.on_missing
    if any(within(test, negative) for negative in negatives):
        return True
    return place[0] != "event" and any(disjoint(one, test) for one in positives)


def _implied_by_values(place: Place, constraint: Constraint, test: Test, *, positive: bool) -> bool:
    """Tell the same from all that a constraint says of the one value at a place."""
    if (values := _finite(place, constraint)) is not None:
        return all(test(value) is positive for value in values)
    if type(test) is AnythingBut:
        there = any(not one.on_missing for one in constraint.positives)
        return (there or not positive) and implies(place, constraint, test.test, positive=not positive)
    if (literals := literals_of(test)) is not None:
        return not positive and not any(_meets(constraint, value) for value in values_equal_to(literals))
    if type(test) is Range and (spans := _spans(constraint)) is not None:
        wanted = bounds_of(test)
        return all(_inside(span, wanted) if positive else not _meeting(span, wanted) for span in spans)
    return False


# Numbers


class Bounds(msgspec.Struct, frozen=True):
    """A range as two ends, each in it or not."""

    low: float
    high: float
    low_in: bool
    high_in: bool


def bounds_of(test: Range) -> Bounds:
    """Return the ends of a range; an end that is not said is infinite, and in it."""
    low = test.ge if test.gt is None else test.gt
    high = test.le if test.lt is None else test.lt
    return Bounds(
        -math.inf if low is None else low, math.inf if high is None else high, test.gt is None, test.lt is None
    )


def _spans(constraint: Constraint) -> list[Bounds] | None:
    """Return what a constraint leaves of the numbers; None where it may be met by something else."""
    ranges = [bounds_of(test) for test in constraint.positives if type(test) is Range]
    if not ranges:
        return None
    left = ranges[:1]
    for wanted in ranges[1:]:
        left = [both for span in left if (both := _meeting(span, wanted)) is not None]
    excluded = [*constraint.negatives, *(test.test for test in constraint.positives if type(test) is AnythingBut)]
    for test in [test for test in excluded if type(test) is Range][:_MAX_RANGES]:
        cut = bounds_of(test)
        below = Bounds(-math.inf, cut.low, low_in=True, high_in=not cut.low_in)
        above = Bounds(cut.high, math.inf, low_in=not cut.high_in, high_in=True)
        left = [both for span in left for rest in (below, above) if (both := _meeting(span, rest)) is not None]
    return left


def _meeting(a: Bounds, b: Bounds) -> Bounds | None:
    """Return what is in both, or None where nothing is."""
    low, high = max(a.low, b.low), min(a.high, b.high)
    low_in = all(one.low_in or one.low < low for one in (a, b))
    high_in = all(one.high_in or one.high > high for one in (a, b))
    return Bounds(low, high, low_in, high_in) if low < high or (low == high and low_in and high_in) else None


def _inside(a: Bounds, b: Bounds) -> bool:
    low = a.low > b.low or (a.low == b.low and (b.low_in or not a.low_in))
    return low and (a.high < b.high or (a.high == b.high and (b.high_in or not a.high_in)))


# Text: all tests on text as literal chunks with anything between them


class Glob(msgspec.Struct, frozen=True):
    """Literal chunks with any text between them; `exact` unless it only contains what the test is true of."""

    chunks: tuple[str, ...]
    folded: bool = False
    exact: bool = True


@lru_cache(maxsize=16_384)
def glob_of(test: Test) -> Glob | None:
    """Return a test on text as a glob, or None for one that has no such form."""
    if type(test) is Wildcard:
        return Glob(test.chunks, test.ignore_case)
    if isinstance(test, DIALECTS):
        if type(test) not in DIALECTS:
            return None
        # Only AMQP's # is any text whatever.
        return Glob(_around_wildcards(test), exact=type(test) is AmqpPattern and set(test.tokens) == {"#"})
    if type(test) not in (Prefix, Suffix, Substring):
        return None
    text = test.text.casefold() if test.ignore_case else test.text  # type: ignore[attr-defined]  # they all have it
    chunks = {Prefix: (text, ""), Suffix: ("", text), Substring: ("", text, "")}[type(test)]  # type: ignore[index]
    return Glob(chunks, test.ignore_case)  # type: ignore[attr-defined]


def _around_wildcards(pattern: TopicPattern) -> tuple[str, ...]:
    """Return literal chunks that every topic of a pattern has, in order: its first and last words, if literal."""
    words = pattern.tokens
    wild = [number for number, word in enumerate(words) if word in (pattern.single, pattern.multi)]
    if not wild:
        return (pattern.pattern,)
    # A separator beside a wildcard that may stand for nothing may not be there either.
    head, tail = list(words[: wild[0]]), list(words[wild[-1] + 1 :])
    if head and _takes_a_word(pattern, wild[0]):
        head.append("")
    if tail and _takes_a_word(pattern, wild[-1]):
        tail.insert(0, "")
    return pattern.separator.join(head), pattern.separator.join(tail)


def _takes_a_word(pattern: TopicPattern, at: int) -> bool:
    return pattern.tokens[at] == pattern.single or type(pattern) is NatsPattern


def _globs_disjoint(one: Test, other: Test) -> bool:
    a, b = glob_of(one), glob_of(other)
    if a is None or b is None:
        return False
    first, second = _alike(a, b)
    if len(first) == 1 or len(second) == 1:
        literal, pattern = (first[0], second) if len(first) == 1 else (second[0], first)
        return not fits(pattern, literal)
    # Between its head and its tail, either leaves room for all that the other wants there.
    return not (_one_starts(first[0], second[0]) and _one_starts(first[-1][::-1], second[-1][::-1]))


def _globs_within(one: Test, other: Test) -> bool:
    a, b = glob_of(one), glob_of(other)
    if b is not None and b.exact and len(b.chunks) > 1 and not any(b.chunks):
        return kinds(one) <= _TEXT  # it is true of any text
    if a is None or b is None or not b.exact or (a.folded and not b.folded):
        return False
    inner, outer = _alike(a, b)
    if sum(map(len, inner)) * len(outer) > _MAX_PROOF * 50:
        return False
    # A character that the outer one does not have can only fall where it allows anything: there, so can any text.
    used = "".join(outer)
    fresh = _FRESH if _FRESH not in used else next(one for one in map(chr, range(0xE000, 0xF8FF)) if one not in used)
    return fits(outer, fresh.join(inner))


def _alike(one: Glob, other: Glob) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if one.folded == other.folded:
        return one.chunks, other.chunks
    return tuple(map(str.casefold, one.chunks)), tuple(map(str.casefold, other.chunks))


def fits(chunks: tuple[str, ...], value: str) -> bool:
    """Tell whether a value is these chunks with any text between them."""
    if len(chunks) == 1:
        return value == chunks[0]
    head, *middle, tail = chunks
    if len(value) < len(head) + len(tail) or not (value.startswith(head) and value.endswith(tail)):
        return False
    position, end = len(head), len(value) - len(tail)
    for chunk in middle:
        position = value.find(chunk, position, end)
        if position < 0:
            return False
        position += len(chunk)
    return True


def _one_starts(one: str, other: str) -> bool:
    return one.startswith(other) or other.startswith(one)
