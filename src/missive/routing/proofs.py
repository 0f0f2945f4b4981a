"""Proofs about tests: whether two tests exclude each other, and whether one test implies another.

True means 'proved' and False means 'not proved'. Registration refuses a handler only when a fault is proved.
"""

from __future__ import annotations

from collections.abc import Iterable

from missive.matchers.network import Cidr
from missive.matchers.selectors import Place
from missive.matchers.tests import Absent, AnythingBut, Every, IsInstance, Present, Range, Some, Test
from missive.matchers.text import Prefix, Regex, Substring, Suffix, Wildcard
from missive.matchers.values import Scalar, identity_of
from missive.routing.bounds import bounds_of, number_ranges
from missive.routing.globs import fits_any_text, glob_of, glob_within, globs_disjoint
from missive.routing.kinds import ENUMERABLE, TEXT, kind_of_literal, kinds, possible_kinds, values_equal_to
from missive.routing.normal import DIALECTS, Constraint, literals_of
from missive.routing.solver import NONE, Domain, domain_of, solve
from missive.routing.topics import topics_disjoint, topics_within

_SATISFIABLE = (Present, Prefix, Suffix, Substring, Wildcard, Regex, Cidr, IsInstance, *DIALECTS)
"""Tests that accept a value of each of their kinds."""

_MAX_TESTS = 64
"""Tests at one place up to which each pair of them is compared."""

# Two tests on one value


def disjoint(one: Test, other: Test) -> bool:
    """Return whether it is proved that no value passes both tests."""
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
        return not bounds_of(one).intersection(bounds_of(other))
    if type(one) is Cidr and type(other) is Cidr:
        return one.version != other.version or one.last < other.first or other.last < one.first
    if {type(one), type(other)} == {Some, Every}:
        # Two Some tests may accept two different elements, and an empty list passes two Every tests.
        return disjoint(one.test, other.test)  # type: ignore[attr-defined]  # both have one
    if isinstance(one, DIALECTS) and type(one) is type(other) in DIALECTS:
        return topics_disjoint(one, other)
    a, b = glob_of(one), glob_of(other)
    return a is not None and b is not None and globs_disjoint(a, b)


def within(one: Test, other: Test) -> bool:
    """Return whether it is proved that `other` accepts every value that `one` accepts."""
    if one == other:
        return True
    if one.on_missing and not other.on_missing:
        return False
    if type(one) is Absent:
        return True
    if (finite := literals_of(one)) is not None:
        return all(map(other, values_equal_to(finite)))
    if kinds(one) <= ENUMERABLE.keys():
        return all(map(other, (value for kind in kinds(one) for value in ENUMERABLE[kind] if one(value))))
    if type(other) is Present:
        return not one.on_missing
    if type(other) is AnythingBut:
        # AnythingBut(T) accepts every value that T refuses. So it contains each test that is disjoint from T, and
        # AnythingBut of each test that contains T.
        return within(other.test, one.test) if type(one) is AnythingBut else disjoint(one, other.test)
    return _within_by_kind(one, other)


def _within_by_kind(one: Test, other: Test) -> bool:
    if type(other) is IsInstance:
        return kinds(one) <= {other.type_.__name__}
    if type(one) is Range and type(other) is Range:
        return bounds_of(one).within(bounds_of(other))
    if type(one) is Cidr and type(other) is Cidr:
        return one.version == other.version and other.first <= one.first and one.last <= other.last
    if type(one) in (Some, Every) and type(one) is type(other):
        return within(one.test, other.test)  # type: ignore[attr-defined]  # both have one
    if isinstance(one, DIALECTS) and type(one) is type(other) in DIALECTS:
        return topics_within(one, other)
    outer = glob_of(other)
    if outer is None:
        return False
    if fits_any_text(outer):
        return kinds(one) <= TEXT
    inner = glob_of(one)
    return inner is not None and glob_within(inner, outer)


# One place, which has one value or none


def impossible(place: Place, constraint: Constraint, *, json: bool = False) -> bool:
    """Return whether it is proved that no message meets a constraint at a place.

    `json` means that the bodies of all messages are decoded as JSON.
    """
    positives, negatives = constraint.positives, constraint.negatives
    domain = domain_of(place, json=json)
    if place[0] == "event":
        # Each test may accept another of several values, so tests on values do not exclude each other.
        absent = any(type(test) is Absent for test in positives)
        return (absent and any(not test.on_missing for test in positives)) or any(
            any(within(positive, negative) for negative in negatives) or _unsolvable(domain, (positive,), negatives)
            for positive in positives
        )
    if any(type(test) is Absent for test in positives):
        return place[0] == "body" or any(not test.on_missing for test in positives)
    if place[0] == "body":
        positives = (*positives, IsInstance(bytes))
    if not positives:
        return False
    if (values := _finite(place, constraint)) is not None:
        return not any(map(domain.has, values))
    return (
        not possible_kinds(place, positives)
        or number_ranges(constraint) == []
        or (len(positives) <= _MAX_TESTS and _exclude_each_other(positives, negatives[:_MAX_TESTS]))
        or _unsolvable(domain, positives, negatives)
    )


def _exclude_each_other(positives: tuple[Test, ...], negatives: tuple[Test, ...]) -> bool:
    return any(disjoint(one, other) for i, one in enumerate(positives) for other in positives[:i]) or any(
        within(positive, negative) for positive in positives for negative in negatives
    )


def _unsolvable(domain: Domain, positives: tuple[Test, ...], negatives: tuple[Test, ...]) -> bool:
    """Return whether the solver proves that no value of a domain passes all positive and no negative tests."""
    if any(test.on_missing for test in positives):
        return False
    if len(positives) == 1 and not negatives and type(positives[0]) in _SATISFIABLE:
        return domain.kinds.isdisjoint(kinds(positives[0]))
    return solve(domain, positives, negatives) is NONE


def finite_values(place: Place, constraint: Constraint) -> tuple[Scalar, ...] | None:
    """Return the only values that meet a constraint, without values that are equal to each other.

    Return None where the values cannot be listed, or where a missing value meets the constraint.
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
    if candidates is None and positives and possible <= ENUMERABLE.keys():
        candidates = [value for kind in sorted(possible) for value in ENUMERABLE[kind]]
    if candidates is None and (ranges := number_ranges(constraint)) and all(one.low == one.high for one in ranges):
        candidates = [one.low for one in ranges]
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
    """Return whether it is proved that all values that meet a constraint pass a test (or, if not `positive`, fail)."""
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
    """Return whether the proof follows from all tests of the constraint together, for the one value at a place."""
    if (values := _finite(place, constraint)) is not None:
        return all(test(value) is positive for value in values)
    if type(test) is AnythingBut:
        there = any(not one.on_missing for one in constraint.positives)
        return (there or not positive) and implies(place, constraint, test.test, positive=not positive)
    if (literals := literals_of(test)) is not None:
        return not positive and not any(_meets(constraint, value) for value in values_equal_to(literals))
    if type(test) is Range and (ranges := number_ranges(constraint)) is not None:
        wanted = bounds_of(test)
        return all(one.within(wanted) if positive else not one.intersection(wanted) for one in ranges)
    return False
